"""What a reader would want to be told of a lowered module: work that was not fused, waste, and what weighs most.

Each finding says where it is, what it is about in bytes, and what to do where something can be done. They are read off
the module alone; nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from graphllm.ir.core import Function, Module, Operation, Weight
from graphllm.ir.cost import kernel_bytes
from graphllm.ir.opdef import lookup
from graphllm.view.arena import peak, stretches
from graphllm.view.report.subject import Subject
from graphllm.view.units import bytes_text

Json = dict[str, Any]
Level = Literal["warning", "note"]
ELEMENTWISE: Final = frozenset({"add", "mul", "silu", "rmsnorm", "cast", "rope", "quantize_rows"})
TINY: Final = 16 << 10  # bytes: less than a barrier's worth of reading
_LANES: Final = 16  # f32 of the widest vectors


@dataclass(frozen=True, slots=True)
class Finding:
    """``operations`` are places in ``function``; ``bytes`` what it is about, a step or altogether."""

    kind: str
    level: Level
    what: str
    function: str = ""
    operations: tuple[int, ...] = ()
    bytes: int = 0
    advice: str = ""

    def as_json(self) -> Json:
        return {
            "kind": self.kind,
            "level": self.level,
            "what": self.what,
            "function": self.function,
            "operations": list(self.operations),
            "bytes": self.bytes,
            "advice": self.advice,
        }


def findings_json(subject: Subject) -> list[Json]:
    """Warnings first, then by bytes."""
    module = subject.lowered
    found: list[Finding] = [*_rows_without_tokens(subject), *_unread(module), *_wide_weights(module)]
    for function in module.functions.values():
        found += [*_unfused(function), *_cancelling(function), *_tiny(function)]
        if function.arena is not None:
            found += _slack(function, subject.lower_bounds.get(function.name, 0))
    found += _heads(module)
    found.sort(key=lambda f: (f.level != "warning", -f.bytes))
    return [f.as_json() for f in found]


def _unfused(function: Function) -> Iterator[Finding]:
    alone: dict[str, list[int]] = {}
    for i, op in enumerate(function.ops):
        work = [o for o in _inside(op) if lookup(o.name).views is None]
        if len(work) == 1 and work[0].name in ELEMENTWISE and not isinstance(work[0].operands[0], Weight):
            alone.setdefault(work[0].name, []).append(i)
    for name, places in sorted(alone.items()):
        moved = sum(kernel_bytes(function.ops[i]) for i in places)
        yield Finding(
            "unfused",
            "warning",
            f"{len(places)} {name} by itself: {bytes_text(moved)} go to memory and back each step",
            function.name,
            tuple(places),
            moved,
            "a template of the target that takes it in (ir/target.py), or a pass that moves it next to its reader",
        )


def _inside(op: Operation) -> Sequence[Operation]:
    return op.body.ops if op.body is not None else (op,)


def _cancelling(function: Function) -> Iterator[Finding]:
    made: dict[int, tuple[int, Operation]] = {}
    for i, top in enumerate(function.ops):
        for op in _inside(top):
            source = made.get(id(op.operands[0])) if op.name == "cast" else None
            if source is not None and source[1].name == "cast":
                first = source[1].operands[0]
                if first.type == op.result.type:
                    yield Finding(
                        "cancelling casts",
                        "warning",
                        f"{first.ref} is cast to {source[1].result.type.dtype} and back, giving {op.result.ref}",
                        function.name,
                        (source[0], i),
                        2 * op.result.type.bytes,
                        "the rounding may be meant; where it is not, read the value before both casts",
                    )
            made.update({id(v): (i, op) for v in op.results})


def _tiny(function: Function) -> Iterator[Finding]:
    work = [any(lookup(o.name).views is None for o in _inside(op)) for op in function.ops]  # a window is no call
    tiny = [i for i, op in enumerate(function.ops) if work[i] and kernel_bytes(op) < TINY]
    if tiny:
        share = len(tiny) / len(function.ops)
        yield Finding(
            "tiny kernels",
            "note",
            f"{len(tiny)} of {len(function.ops)} kernels move less than {bytes_text(TINY)} each with an empty cache "
            f"({share:.0%}): calling them costs as much as their work",
            function.name,
            tuple(tiny),
            sum(kernel_bytes(function.ops[i]) for i in tiny),
        )


def _slack(function: Function, bound: int) -> Iterator[Finding]:
    arena = function.arena or 0
    _, most = peak(stretches(function))
    if arena > most or (bound and arena > bound):
        yield Finding(
            "arena slack",
            "warning" if arena > 1.05 * max(most, 1) else "note",
            f"the arena is {bytes_text(arena)}, at most {bytes_text(most)} of it are in use at once",
            function.name,
            bytes=arena - most,
            advice="plan-memory packs by size and lifetime; holes are what it could not fill",
        )


def _rows_without_tokens(subject: Subject) -> Iterator[Finding]:
    decode = subject.lowered.functions.get("decode")
    if decode is None or not decode.results or not subject.tokens:
        return
    vocab = decode.results[0].type.shape[-1]
    if vocab > subject.tokens:
        wide = [w for w in subject.lowered.stored_weights() if len(w.type.shape) == 2 and w.type.shape[0] == vocab]
        wasted = sum(w.type.bytes // vocab * (vocab - subject.tokens) for w in wide)
        yield Finding(
            "padding",
            "note",
            f"{vocab - subject.tokens} of {vocab} rows of logits belong to no token",
            "decode",
            bytes=wasted,
            advice="the checkpoint is padded so; they are computed and never drawn",
        )


def _unread(module: Module) -> Iterator[Finding]:
    by_source: dict[str, list[Weight]] = {}
    for w in module.stored_weights():
        if w.source and w.definition is None:
            by_source.setdefault(w.source, []).append(w)
    for source, twice in by_source.items():
        if len(twice) > 1:
            names = ", ".join(w.ref for w in twice)
            saved = sum(w.type.bytes for w in twice[1:])
            yield Finding("stored twice", "warning", f"{source} is stored as {names}", bytes=saved)


def _wide_weights(module: Module) -> Iterator[Finding]:
    wide = [w for w in module.stored_weights() if w.type.dtype == "f32" and len(w.type.shape) == 2]
    total = sum(w.type.bytes for w in wide)
    if total > 1 << 20:
        yield Finding(
            "wide weights",
            "note",
            f"{len(wide)} matrices are stored in f32, {bytes_text(total)}",
            bytes=total // 2,
            advice="--dtype bf16 halves what a step reads of them, --quantize int8 quarters it",
        )


def _heads(module: Module) -> Sequence[Finding]:
    sizes = {s.type.shape[-1] for s in module.states.values() if len(s.type.shape) == 4 and s.type.shape[-1] > 1}
    odd = sorted(n for n in sizes if n % _LANES)
    if not odd:
        return ()
    what = (
        f"heads of {', '.join(map(str, odd))} elements do not fill vectors of {_LANES}: the rest is padded in registers"
    )
    return (Finding("padding", "note", what, advice="it is the model's own size"),)
