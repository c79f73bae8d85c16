"""What a drawing of a function consists of: typed payloads of the networkx graph, and how to get at them.

A node is an operation, a function input or result, a weight or state, or a value carried from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

if TYPE_CHECKING:
    import networkx as nx

    Graph: TypeAlias = nx.DiGraph[str]

NodeKind = Literal["input", "carried", "op", "weight", "state", "result"]


@dataclass(frozen=True, slots=True)
class Flow:
    """A value as an edge shows it."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.name} {self.type}"


@dataclass(frozen=True, slots=True)
class Node:
    """``label`` is an operation's name, or the name of what else the node is; ``tip`` its full IR text."""

    id: str
    kind: NodeKind
    label: str
    results: tuple[Flow, ...] = ()
    detail: str = ""
    kernel: str = ""  # id of the kernel it is inside, "" for none
    frame: str = ""  # id of the layer, or folded layers, it is inside, "" for none
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """Values that go from one node to another. ``loop``: to the next repetition. ``writes``: a state is overwritten."""

    flows: tuple[Flow, ...]
    loop: bool = False
    writes: bool = False


@dataclass(frozen=True, slots=True)
class KernelBox:
    """A kernel and the ids of its operations, in order."""

    id: str
    template: str
    frame: str
    ops: tuple[str, ...]
    cost: str
    tip: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Layers drawn once. ``layers`` are those of each repetition; ``own`` names what each has for itself.

    ``unlike`` are the operations in which it differs from the frame before it, where it otherwise is the same.
    """

    id: str
    title: str
    layers: tuple[tuple[int, ...], ...]
    own: tuple[str, ...]
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawing:
    """What belongs to a graph as a whole; ``segments`` are the ids of top-level boxes in program order."""

    title: str
    subtitle: str
    kernels: dict[str, KernelBox]
    frames: dict[str, Frame]
    segments: tuple[tuple[str, ...], ...]


def drawing(graph: Graph) -> Drawing:
    return cast("Drawing", graph.graph["drawing"])


def nodes(graph: Graph) -> dict[str, Node]:
    return {name: cast("Node", data["node"]) for name, data in graph.nodes(data=True)}


def edges(graph: Graph) -> list[tuple[str, str, Edge]]:
    return [(a, b, cast("Edge", data["edge"])) for a, b, data in graph.edges(data=True)]
