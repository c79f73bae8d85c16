"""What a function costs by its types alone: flops, and bytes moved if every kernel reads and writes memory once."""

from __future__ import annotations

from graphllm.ir.core import Function, Operation, State, Value, Weight
from graphllm.ir.opdef import lookup
from graphllm.ir.ops.sequence import ATTENTION


def step_flops(function: Function) -> int:
    """Floating point operations of one step, attention counted over a full cache."""
    return sum(op_flops(op) for op in function.walk())


def op_flops(op: Operation) -> int:
    """Floating point operations of a table operation."""
    return lookup(op.name).cost(tuple(v.type for v in op.operands), op.attrs)


def step_bytes(function: Function) -> int:
    """Bytes a step moves with an empty cache: weights once, each kernel's inputs and results, rows written to caches.

    What attention reads of a cache comes on top: ``cached_bytes_per_position`` for each position it sees.
    """
    return sum(kernel_bytes(op) for op in function.ops)


def kernel_bytes(op: Operation) -> int:
    """Bytes one kernel (or operation) moves: what it reads from outside, what it hands out, each once."""
    inner = op.body.ops if op.body is not None else (op,)
    experts = next((o for o in inner if o.name == "expert_linear"), None)
    weights: dict[int, int] = {}
    total = 0
    states: set[int] = set()  # values that live in caches
    for o in inner:
        for v in o.operands:
            if isinstance(v, Weight):
                bytes_ = v.type.bytes
                if o.name == "embed":  # reads the rows asked for, not the table
                    bytes_ = o.result.type.bytes
                elif experts is not None:  # at most those that rows choose
                    bytes_ = min(bytes_, bytes_ // int(str(experts.attrs["experts"])) * experts.operands[2].type.numel)
                weights[id(v)] = max(weights.get(id(v), 0), bytes_)
        if o.name == "kv_write":
            states.update((id(o.operands[0]), id(o.result)))
            cache, x = o.result.type, o.operands[1].type
            total += x.numel * cache.numpy.itemsize
        elif o.name in ATTENTION:
            states.update(map(id, o.operands[1:-2]))
    outside: list[Value] = [v for v in dict.fromkeys(op.operands) if not isinstance(v, (Weight, State))]
    total += sum(v.type.bytes for v in (*outside, *op.results) if id(v) not in states)
    return total + sum(weights.values())


def cached_bytes_per_position(function: Function) -> int:
    """Bytes all caches hold for one position of one sequence, windows ignored."""
    return sum(s.type.bytes // (s.type.shape[0] * s.type.shape[2]) for s, _ in function.updates)
