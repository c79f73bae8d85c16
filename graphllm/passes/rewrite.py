"""The rewrite engine: rules titled by their equations, swept over a function until none applies.

    Rule("mul(silu(a), b) => swiglu(a, b)", lambda m, b: b.emit("swiglu", (m["a"], m["b"]), {}))

The left side of the title is the pattern. An inner operation of a match must be used nowhere else, unless it only
reads constants; otherwise the rewrite would compute it twice. Functions are re-emitted, never edited; kernels are
left as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from graphllm.errors import PassError
from graphllm.ir.builder import Builder, kernel
from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.passes.pattern import Match, Pattern, match, parse_pattern

Build = Callable[[Match, Builder], Sequence[Value] | None]  # the root's new results, or None: does not apply after all


@dataclass(frozen=True, slots=True)
class Rule:
    """An equation and the builder calls of its right side. ``constant`` variables must follow from weights alone."""

    equation: str
    build: Build
    constant: tuple[str, ...] = ()

    def pattern(self) -> Pattern:
        return parse_pattern(self.equation.split("=>")[0])

    def constants_are(self, known: Container[int], found: Match) -> bool:
        """Whether what the match bound to ``constant`` is a weight or a value in ``known``."""
        return all(isinstance(v := found[name], Weight) or id(v) in known for name in self.constant)


def map_functions(module: Module, change: Callable[[Function], Function]) -> Module:
    """The module with every function changed."""
    return replace(module, functions={name: change(f) for name, f in module.functions.items()})


def rewrite(module: Module, rules: Iterable[Rule]) -> Module:
    """Apply the rules everywhere, in the order given, until none applies."""
    compiled = tuple((rule, rule.pattern()) for rule in rules)
    return map_functions(module, lambda f: _fixpoint(f, compiled))


def _fixpoint(function: Function, rules: tuple[tuple[Rule, Pattern], ...]) -> Function:
    limit = 10 + len(function.ops)  # each sweep must make progress; a rule that undoes another never ends
    for _ in range(limit):
        swept = _sweep(function, rules)
        if swept is None:
            return function
        function = swept
    raise PassError(f"func @{function.name}: rewriting did not settle after {limit} sweeps; two rules undo each other")


def matches(function: Function, rules: Sequence[Rule]) -> Iterator[Match]:
    """What the rules find in a function as it stands, one match at most for each operation."""
    uses, constant = count_uses(function), constants(function)
    producers = {id(v): op for op in function.ops for v in op.results}
    compiled = [(rule, rule.pattern()) for rule in rules]

    def producer(value: Value) -> Operation | None:
        return producers.get(id(value)) if uses[id(value)] == 1 or id(value) in constant else None

    for op in function.ops:
        for rule, pattern in compiled:
            found = match(pattern, op, producer) if op.body is None else None
            if found is not None and rule.constants_are(constant, found):
                yield found
                break


def _sweep(function: Function, rules: tuple[tuple[Rule, Pattern], ...]) -> Function | None:
    uses, constant = count_uses(function), constants(function)
    builder = Builder()
    builder.reserve(names(function))
    mapping: dict[int, Value] = {}
    producers: dict[int, Operation] = {}
    changed = False

    for op in function.ops:
        op = remap(op, mapping)
        seen = len(builder.ops)

        def producer(value: Value) -> Operation | None:
            found = producers.get(id(value))
            return found if found is not None and (uses[id(value)] == 1 or id(value) in constant) else None

        for rule, pattern in rules:
            found = match(pattern, op, producer) if op.body is None else None
            if found is None or not rule.constants_are(constant, found):
                continue
            results = rule.build(found, builder)
            if results is not None:
                mapping.update({id(old): new for old, new in zip(op.results, results, strict=True)})
                uses.update({id(new): uses[id(old)] for old, new in zip(op.results, results, strict=True)})
                constant.update(id(v) for o in builder.ops[seen:] for v in o.results if is_constant(o, constant))
                changed = True
                break
        else:
            builder.append(op)
        for new in builder.ops[seen:]:
            producers.update({id(v): new for v in new.results})
    if not changed:
        return None
    return with_names_given_back(without_dead(rebuild(function, builder.ops, mapping)), builder.hints)


def with_names_given_back(function: Function, hints: dict[int, str]) -> Function:
    """Names that replaced values left free go to the values that asked for them.

    Args:
        hints: id(value) -> the name it would have had.
    """
    taken = set(names(function))
    mapping: dict[int, Value] = {}
    ops: list[Operation] = []
    for op in function.ops:
        op = remap(op, mapping)
        for v in op.results:
            hint = hints.get(id(v))
            if hint is not None and hint not in taken and op.body is None:
                taken.add(hint)
                mapping[id(v)] = replace(v, name=hint)
        if any(id(v) in mapping for v in op.results):
            op = replace(op, results=tuple(mapping.get(id(v), v) for v in op.results))
        ops.append(op)
    return rebuild(function, ops, mapping) if mapping else function


def outputs(function: Function) -> tuple[Value, ...]:
    """What a function hands out: results and the states' new values."""
    return (*function.results, *(v for _, v in function.updates))


def names(function: Function) -> Iterator[str]:
    """Names of all values of a function, those inside kernels included."""
    yield from (v.name for v in function.inputs)
    yield from (v.name for op in function.walk() for v in op.results)


def count_uses(function: Function) -> Counter[int]:
    """How often each value is read, by identity; a kernel reads each of its operands once."""
    uses = Counter(id(v) for op in function.ops for v in op.operands)
    uses.update(id(v) for v in outputs(function))
    return uses


def constants(function: Function) -> set[int]:
    """Identities of the values that follow from weights alone."""
    out: set[int] = set()
    for op in function.ops:
        if is_constant(op, out):
            out.update(id(v) for v in op.results)
    return out


def is_constant(op: Operation, known: set[int]) -> bool:
    """Whether an operation reads nothing but weights and values in ``known``."""
    return op.body is None and all(isinstance(v, Weight) or id(v) in known for v in op.operands)


def remap(op: Operation, mapping: dict[int, Value]) -> Operation:
    """The operation over the new values, a kernel with its body; the same object where nothing changed."""
    if all(id(v) not in mapping for v in op.operands):
        return op
    if op.body is not None:
        return kernel(op.template, [remap(o, mapping) for o in op.body.ops], op.body.results, op.scratch)
    return replace(op, operands=tuple(mapping.get(id(v), v) for v in op.operands))


def rebuild(function: Function, ops: Iterable[Operation], mapping: dict[int, Value]) -> Function:
    """The function with other operations and its outputs mapped."""
    return replace(
        function,
        ops=tuple(ops),
        results=tuple(mapping.get(id(v), v) for v in function.results),
        updates=tuple((s, mapping.get(id(v), v)) for s, v in function.updates),
    )


def without_dead(function: Function) -> Function:
    """The function without operations whose results nothing reads."""
    live = {id(v) for v in outputs(function)}
    kept: list[Operation] = []
    for op in reversed(function.ops):
        if any(id(v) in live for v in op.results):
            live.update(id(v) for v in op.operands)
            kept.append(op)
    return function if len(kept) == len(function.ops) else replace(function, ops=tuple(reversed(kept)))
