"""The attention kernel."""

from __future__ import annotations

from graphllm.codegen.cpu.target import scratch_bytes
from graphllm.codegen.cpu.text import CpuText
from graphllm.codegen.lone import number, only_f32
from graphllm.errors import PlanError
from graphllm.ir.core import Operation


def write_attention(op: Operation, text: CpuText) -> None:
    q, *caches = op.operands[:-2]
    keys = caches[0]
    only_f32(op, text, q, op.result)
    text.placing(op)
    (_, heads, _), (_, kv_heads, context, d) = q.type.shape, keys.type.shape
    given = text.whole(q, "q")
    if len(caches) == 2:
        sides = [text.whole(v, role) for v, role in zip(caches, ("keys", "values"), strict=True)]
    else:
        roles = ("keys", "keys_scale", "values", "values_scale")
        at = [text.whole(v, role) for v, role in zip(caches, roles, strict=True)]
        sides = [f"Rounded{{{at[0]}, {at[1]}}}", f"Rounded{{{at[2]}, {at[3]}}}"]
    pointers = [given, *sides, text.whole(op.result, "y", written=True)]
    text.line(f"const Heads heads{{{heads}, {kv_heads}, {context}}};")
    scale, window = number(op.attrs["scale"]), op.attrs["window"]
    arguments = f"step, {', '.join(pointers)}, step.live, heads, {scale}, {window}"
    if text.function.rows == "consecutive" and q.type.shape[0] > 1:
        text.many = True
        text.line(f"attention_many<{d}>({arguments});")
        text.private.append(f"attention_many_bytes({d})")
    else:
        need, text.shared = scratch_bytes(op), op.scratch
        if need and (text.shared is None or text.shared[1] < need):
            what = f"{op.name} giving {op.result.ref}"
            raise PlanError(f"{what}: expected {need} bytes of scratch, got {text.shared}")
        shared = "shared" if need else "nullptr"
        text.line(f"attention<{d}>({arguments}, {shared});")
        text.private.append(f"attention_bytes({heads}, {kv_heads}, {d})")
