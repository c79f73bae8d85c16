"""A function as a networkx graph for drawing: operations in their kernels, equal layers folded into one.

Nodes and edges carry the dataclasses of ``view.picture`` under ``node`` and ``edge``; the graph itself carries a
``Drawing``. The graph has a cycle only through edges marked ``loop`` (from one repetition of a layer to the next).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.cost import kernel_bytes, op_flops, step_bytes, step_flops
from graphllm.ir.opdef import lookup
from graphllm.ir.printer import print_attr, print_operation
from graphllm.view.fold import Segment, constants, distinct_kernels, fold_layers
from graphllm.view.picture import Drawing, Edge, Flow, Frame, KernelBox, Node, NodeKind
from graphllm.view.scope import any_layer, layer_of_name, without_scope
from graphllm.view.select import pick_function
from graphllm.view.units import bytes_text, count_text

if TYPE_CHECKING:
    from graphllm.view.picture import Graph

_SEEN_IN_TYPES = frozenset({"shape", "sizes", "dtype"})  # attributes that a result's type already tells


def layered_graph(module: Module, function: str) -> Graph:
    """The graph of a function. Raises GraphLLMError naming the functions there are."""
    return _Drawer(module, pick_function(module, function)).run()


class _Drawer:
    def __init__(self, module: Module, function: Function) -> None:
        import networkx as nx

        self.module, self.function = module, function
        self.graph: Graph = nx.DiGraph()
        self.kernels: dict[str, KernelBox] = {}
        self.frames: dict[str, Frame] = {}
        self.maker: dict[int, tuple[str, Flow]] = {}  # id(value) -> node that gives it, and how it is called there
        self.inside: dict[int, tuple[str, Flow]] = {}  # the same for values carried into the frame being drawn
        self.before: tuple[Operation, ...] = ()  # what the last frame holds
        self.ops = 0

    def run(self) -> Graph:
        first = [self.node("input", v.name, v) for v in self.function.inputs]
        segments = [tuple(first)]
        segments += [self.segment(s) for s in fold_layers(self.function)]
        last: list[str] = []
        for v in self.function.results:
            node = self.node("result", v.name, v, taken=True)
            self.read(v, node)
            last.append(node)
        segments.append(tuple(last))
        self.graph.graph["drawing"] = Drawing(
            f"@{self.function.name}", self.subtitle(), self.kernels, self.frames, tuple(segments)
        )
        return self.graph

    def subtitle(self) -> str:
        f = self.function
        count = sum(op.body is not None for op in f.ops)
        parts = [f"{sum(1 for _ in f.walk())} operations"]
        if count:
            parts.append(f"{count} kernels, {distinct_kernels(self.module, f.name)} distinct")
        parts += [f"{bytes_text(step_bytes(f))} a step", f"{count_text(step_flops(f))}flop a step"]
        if f.arena is not None:
            parts.append(f"arena {bytes_text(f.arena)}")
        return " · ".join(parts)

    def segment(self, segment: Segment) -> tuple[str, ...]:
        frame = self.frame(segment)
        first = frame.layers[0][0] if frame else 0
        self.inside = {}
        boxes: list[str] = []
        entering: list[tuple[Value, Value, str]] = []
        for v, following in segment.carried:
            flow = Flow(without_scope(following.name), str(v.type))
            tip = f"{v.ref} in the first repetition, what the one before made after that : {v.type}"
            node = self.add(Node(f"carried {v.name}", "carried", flow.name, (flow,), frame=frame_id(frame), tip=tip))
            self.read(v, node)
            self.inside[id(v)] = node, flow
            entering.append((v, following, node))
            boxes.append(node)
        single = frame is not None and len(frame.layers[0]) == 1
        names = _Names(segment, first, single)
        for op in segment.units[0]:
            boxes.append(self.operation(op, names, frame_id(frame)))
        self.inside = {}
        for unit in segment.units[1:]:  # what later repetitions make is drawn as made by the first
            for drawn, op in zip(segment.units[0], unit, strict=True):
                for a, b in zip(drawn.results, op.results, strict=True):
                    self.maker[id(b)] = self.maker[id(a)]
        for _, following, node in entering:
            maker, flow = self.maker[id(following)]
            self.graph.add_edge(maker, node, edge=Edge((flow,), loop=True))
        return tuple(boxes)

    def frame(self, segment: Segment) -> Frame | None:
        layers = segment.layers
        if not layers[0]:
            return None
        first, count, period = layers[0][0], len(layers), len(layers[0])
        if count == 1:
            title = f"layer {first}"
        elif period == 1:
            title = f"x{count} layers, i = {first} to {layers[-1][0]}"
        else:
            title = f"x{count} every {period} layers, i = {first}, {layers[1][0]} to {layers[-1][0]}"
        own: list[str] = []
        units = [constants(unit) for unit in segment.units]
        for same in zip(*units, strict=True):
            if len({id(v) for v in same}) > 1:
                own.append(_Names(segment, first, period == 1).constant(same[0]))
        unlike = _unlike(self.before, segment.units[0])
        self.before = segment.units[0]
        frame = Frame(f"layers {first}", title, layers, tuple(own), unlike)
        self.frames[frame.id] = frame
        return frame

    def operation(self, op: Operation, names: _Names, frame: str) -> str:
        if op.body is None:
            return self.table_op(op, names, "", frame)
        box = f"kernel {len(self.kernels)}"
        ops = tuple(self.table_op(o, names, box, frame) for o in op.body.ops)
        cost = f"{bytes_text(kernel_bytes(op))} · {count_text(sum(map(op_flops, op.body.ops)))}flop"
        self.kernels[box] = KernelBox(box, op.template, frame, ops, cost, "\n".join(print_operation(op, "")))
        return box

    def table_op(self, op: Operation, names: _Names, kernel: str, frame: str) -> str:
        results = tuple(Flow(names.value(v), str(v.type)) for v in op.results)
        tip = "\n".join(print_operation(op, ""))
        node = Node(f"op {self.ops}", "op", op.name, results, _detail(op), kernel, frame, tip)
        self.ops += 1
        self.add(node)
        writes = lookup(op.name).updates
        for i, v in enumerate(op.operands):
            if isinstance(v, (Weight, State)):
                self.constant(v, names, node, writes=i == writes)
            else:
                self.read(v, node.id)
        for v, flow in zip(op.results, results, strict=True):
            self.maker[id(v)] = node.id, flow
        return node.id

    def constant(self, v: Weight | State, names: _Names, reader: Node, *, writes: bool) -> None:
        kind: NodeKind = "weight" if isinstance(v, Weight) else "state"
        name = names.constant(v)
        flow = Flow(name, str(v.type))
        source = f"from {v.source}" if isinstance(v, Weight) and v.source else ""
        made = f"computed once by {v.definition.name}" if isinstance(v, Weight) and v.definition else ""
        tip = " ".join(filter(None, (f"{kind} {name} : {v.type}", source, made)))
        node = self.add(Node(f"{reader.frame} {v.ref}", kind, name, (flow,), frame=reader.frame, tip=tip))
        self.graph.add_edge(node, reader.id, edge=Edge((flow,), writes=writes))

    def node(self, kind: NodeKind, name: str, v: Value, *, taken: bool = False) -> str:
        flow = Flow(without_scope(name) if layer_of_name(name) is not None else name, str(v.type))
        node = self.add(Node(f"{kind} {name}", kind, flow.name, (flow,), tip=f"{kind} {v.ref} : {v.type}"))
        if not taken:
            self.maker[id(v)] = node, flow
        return node

    def add(self, node: Node) -> str:
        if node.id not in self.graph:
            self.graph.add_node(node.id, node=node)
        return node.id

    def read(self, v: Value, reader: str) -> None:
        if isinstance(v, (Weight, State)):  # a function may hand a constant out
            return
        maker, flow = self.inside.get(id(v)) or self.maker[id(v)]
        flows: tuple[Flow, ...] = (flow,)
        if self.graph.has_edge(maker, reader):
            before: Edge = self.graph.edges[maker, reader]["edge"]
            flows = before.flows if flow in before.flows else (*before.flows, flow)
        self.graph.add_edge(maker, reader, edge=Edge(flows))


class _Names:
    """How values and constants of a segment are called in the drawing: for all of its layers at once."""

    def __init__(self, segment: Segment, first: int, single: bool) -> None:
        self.first, self.single, self.folded = first, single, segment.folded
        self.constants: dict[int, str] = {}
        for same in zip(*map(constants, segment.units), strict=True):
            refs = {v.ref for v in same}
            patterns = {any_layer(v.name, layers[0]) for v, layers in zip(same, segment.layers, strict=True) if layers}
            if len(refs) > 1:
                name = f"@{patterns.pop()}" if len(patterns) == 1 else f"{same[0].ref} and {len(refs) - 1} more"
                self.constants[id(same[0])] = name

    def value(self, v: Value) -> str:
        if self.single:
            return without_scope(v.name)
        return any_layer(v.name, self.first) if self.folded else v.name

    def constant(self, v: Value) -> str:
        return self.constants.get(id(v), v.ref)


def _unlike(before: tuple[Operation, ...], now: tuple[Operation, ...]) -> tuple[str, ...]:
    """The operations of ``now`` with other attributes or types than their counterparts, if it is otherwise alike."""
    pairs = list(zip(_flat(before), _flat(now), strict=False))
    if len(_flat(before)) != len(_flat(now)) or any(a.name != b.name for a, b in pairs):
        return ()
    texts = [(f"{o.name} {_detail(o)}".strip(), tuple(v.type for v in (*o.operands, *o.results))) for _, o in pairs]
    old = [(f"{o.name} {_detail(o)}".strip(), tuple(v.type for v in (*o.operands, *o.results))) for o, _ in pairs]
    return tuple(dict.fromkeys(new[0] for new, was in zip(texts, old, strict=True) if new != was))


def _flat(ops: tuple[Operation, ...]) -> list[Operation]:
    return [o for op in ops for o in (op.body.ops if op.body is not None else (op,))]


def _detail(op: Operation) -> str:
    """Attributes that are not the default and not plain from the result's type."""
    schema = lookup(op.name).attrs
    shown = (k for k, v in op.attrs.items() if k not in _SEEN_IN_TYPES and v != schema[k].default)
    return " ".join(f"{k}={_short(print_attr(op.attrs[k]))}" for k in shown)


def frame_id(frame: Frame | None) -> str:
    return frame.id if frame is not None else ""


def _short(text: str) -> str:
    """An attribute without quotes, a float to three digits; the tooltip has it whole."""
    if text.startswith('"'):
        return text[1:-1]
    return f"{float(text):.3g}" if "." in text else text
