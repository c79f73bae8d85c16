"""Groups operations into kernels by the target's templates. No operation is invented: a kernel holds what it fuses.

First every anchor takes the producers its template may absorb and nobody else reads, then the consumers; what is left
becomes a kernel of its own. A kernel stands where its anchor stood, which is legal because it only takes consumers
whose other operands were made before the anchor, and nobody past the overwriting of a state he reads. Conversions of
weights go with their one reader, or else come first. What a template cannot hold after all is given back, outermost
first.

before, for a target whose template "linear" may lead with rmsnorm and end with add:
    weight @g : f32[6]
    weight @w : f32[6,6]
    func @f(%x: f32[1,6]) {
      %h = rmsnorm %x, @g {eps=1e-05} : f32[1,6]
      %p = linear %h, @w : f32[1,6]
      %y = add %x, %p : f32[1,6]
      return %y
    }
after:
    weight @g : f32[6]
    weight @w : f32[6,6]
    func @f(%x: f32[1,6]) {
      kernel "linear" (%x) -> %y {
        %h = rmsnorm %x, @g {eps=1e-05} : f32[1,6]
        %p = linear %h, @w : f32[1,6]
        %y = add %x, %p : f32[1,6]
      }
      return %y
    }
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count

from graphllm.ir.builder import kernel
from graphllm.ir.core import Function, Module, Operation, Value
from graphllm.ir.target import Target, Template
from graphllm.passes.overwrites import readers_of_overwritten
from graphllm.passes.rewrite import is_constant, map_functions, names, outputs, without_dead


def fuse(module: Module, target: Target) -> Module:
    """Every operation of every function in a kernel of the target; what nothing reads is dropped."""
    return map_functions(module, lambda f: _Fuser(_conversion_each(without_dead(f), target), target).run())


def _conversion_each(function: Function, target: Target) -> Function:
    """A conversion that costs nothing in its reader's kernel, and whose every reader can take it in, for each its own.

    Else a table that is also the classifier would be converted whole, every step, for the two of them.
    """
    absorbed: dict[str, set[str]] = defaultdict(set)  # name of a reader -> what its kernel takes in before it
    for template in target.templates:
        absorbed[template.anchor] |= template.before
    readers: dict[int, list[int]] = defaultdict(list)
    for i, op in enumerate(function.ops):
        for v in dict.fromkeys(op.operands):
            readers[id(v)].append(i)
    returned = {id(v) for v in outputs(function)}
    taken = set(names(function))
    own: dict[tuple[int, int], Value] = {}  # (reader, id(conversion's result)) -> that of its own conversion
    ops: list[Operation] = []
    for i, op in enumerate(function.ops):
        operands = tuple(own.get((i, id(v)), v) for v in op.operands)
        ops.append(replace(op, operands=operands) if operands != op.operands else op)
        if op.body is not None or not target.virtual(op) or id(op.result) in returned:
            continue
        read_by = readers[id(op.result)]
        if all(op.name in absorbed[function.ops[r].name] for r in read_by):
            for n, r in enumerate(read_by[1:], 2):
                name = next(c for c in (f"{op.result.name}.{k}" for k in count(n)) if c not in taken)
                taken.add(name)
                own[r, id(op.result)] = copy = Value(name, op.result.type)
                ops.append(replace(op, results=(copy,)))
    return replace(function, ops=tuple(ops)) if own else function


class _Fuser:
    def __init__(self, function: Function, target: Target) -> None:
        self.function, self.target = function, target
        self.ops = function.ops
        self.made_at = {id(v): i for i, op in enumerate(self.ops) for v in op.results}
        self.readers: dict[int, set[int]] = defaultdict(set)  # id(value) -> indices of operations
        for i, op in enumerate(self.ops):
            for v in op.operands:
                self.readers[id(v)].add(i)
        for v in outputs(function):
            self.readers[id(v)].add(len(self.ops))  # the return, which no kernel takes in
        self.overwrites = readers_of_overwritten(self.ops)
        self.overwritten_by: dict[int, set[int]] = defaultdict(set)  # the same the other way round
        for i, readers in self.overwrites.items():
            for r in readers:
                self.overwritten_by[r].add(i)
        known: set[int] = set()
        self.constant: set[int] = set()  # indices of operations that follow from weights alone without any anchor
        leading = {template.anchor for template in target.templates}
        for i, op in enumerate(self.ops):
            if op.name not in leading and is_constant(op, known):
                self.constant.add(i)
                known.update(id(v) for v in op.results)
        self.group: dict[int, int] = {}  # index of an operation -> index of its anchor

    def run(self) -> Function:
        anchors: dict[int, Template] = {}
        for template in self.target.templates:
            for i, op in enumerate(self.ops):
                if op.name == template.anchor and i not in self.group and op.body is None:
                    anchors[i] = template
                    self.group[i] = i
                    self.take_producers(i, template)
                    self.give_back(i, template, anchors)  # another template may want them
        for i, template in sorted(anchors.items()):
            self.take_consumers(i, template)
            self.give_back(i, template, anchors)
        for i in reversed(range(len(self.ops))):
            self.join_reader(i, anchors)
        return self.emit(anchors)

    def take_producers(self, anchor: int, template: Template) -> None:
        pending = [anchor]
        while pending:
            for v in self.ops[pending.pop()].operands:
                i = self.made_at.get(id(v))
                if i is None or i in self.group or self.ops[i].name not in template.before:
                    continue
                read_by = {r for w in self.ops[i].results for r in self.readers[id(w)]}
                if all(self.group.get(r) == anchor for r in read_by) and self.may_wait(i, anchor):
                    self.group[i] = anchor
                    pending.append(i)

    def may_wait(self, i: int, anchor: int) -> bool:
        """Whether operation ``i`` still reads the same states when it runs with the anchor."""
        return all(self.group.get(w, w) >= anchor for w in self.overwritten_by.get(i, ()))

    def take_consumers(self, anchor: int, template: Template) -> None:
        pending = sorted({r for i, a in self.group.items() if a == anchor for r in self.read_by(i)})
        while pending:
            i = heappop(pending)
            op = self.ops[i]
            if i in self.group or op.name not in template.after or op.body is not None:
                continue
            made = [self.made_at.get(id(v), -1) for v in op.operands]
            inside = [self.group.get(m) == anchor for m in made]
            ready = all(ok or self.known_before(m, anchor) for ok, m in zip(inside, made, strict=True))
            still_read = (self.group.get(r, r) > anchor for r in self.overwrites.get(i, ()))
            if ready and not any(still_read):
                self.group[i] = anchor
                for r in self.read_by(i):
                    heappush(pending, r)

    def give_back(self, anchor: int, template: Template, anchors: dict[int, Template]) -> None:
        """Let go of consumers, the latest first, then of producers, until the template holds the group."""
        members = sorted(i for i, a in self.group.items() if a == anchor)
        consumers = [i for i in reversed(members) if i > anchor]
        producers = sorted((i for i in members if i < anchor), key=lambda i: i in self.constant)  # conversions last
        for i in (*consumers, *producers):
            if self.fits(members, template):
                return
            members.remove(i)
            del self.group[i]
        if not self.fits(members, template):  # not even the anchor: it is a kernel like any other
            del self.group[anchor], anchors[anchor]

    def fits(self, members: list[int], template: Template) -> bool:
        body = [self.ops[i] for i in members]
        return template.fits(body, self.handed_out(members))

    def handed_out(self, members: list[int]) -> list[Value]:
        """What of these operations' results is read elsewhere."""
        inside = set(members)
        return [v for i in members for v in self.ops[i].results if self.readers[id(v)] - inside]

    def read_by(self, i: int) -> set[int]:
        """Operations that read what operation ``i`` makes."""
        return {r for v in self.ops[i].results for r in self.readers[id(v)] if r < len(self.ops)}

    def known_before(self, made: int, anchor: int) -> bool:
        """Whether what operation ``made`` gives is there when the anchor's kernel starts."""
        return self.group.get(made, made) < anchor or (made in self.constant and made not in self.group)

    def join_reader(self, i: int, anchors: dict[int, Template]) -> None:
        """A constant goes into the one kernel that reads it, if its template takes such operations in."""
        if i not in self.constant or i in self.group:
            return
        readers = {self.group.get(r, r) for v in self.ops[i].results for r in self.readers[id(v)]}
        template = anchors.get(next(iter(readers))) if len(readers) == 1 else None
        if template is not None and self.ops[i].name in template.before:
            anchor = readers.pop()
            members = sorted([i, *(j for j, a in self.group.items() if a == anchor)])
            if self.fits(members, template):
                self.group[i] = anchor

    def emit(self, anchors: dict[int, Template]) -> Function:
        members: dict[int, list[int]] = defaultdict(list)
        for i in range(len(self.ops)):
            members[self.group.get(i, i)].append(i)
        out: list[Operation] = []
        heads = [i for i in range(len(self.ops)) if self.group.get(i, i) == i]
        for i in sorted(heads, key=lambda i: i not in self.constant):
            op = self.ops[i]
            if op.body is not None:
                out.append(op)
                continue
            name = anchors[i].name if i in anchors else op.name
            out.append(kernel(name, [self.ops[j] for j in members[i]], self.handed_out(members[i])))
        return replace(self.function, ops=tuple(out))
