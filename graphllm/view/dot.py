"""The graph as Graphviz text, for people who have ``dot``: clusters for kernels and for folded layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graphllm.view.picture import Frame, KernelBox, Node, drawing, edges, nodes

if TYPE_CHECKING:
    from graphllm.view.picture import Graph

_SHAPES: Final = {
    "input": "oval",
    "carried": "oval",
    "op": "box",
    "weight": "note",
    "state": "cylinder",
    "result": "oval",
}


def to_dot(graph: Graph) -> str:
    """Graphviz source. Same graph, same text."""
    whole = drawing(graph)
    every = nodes(graph)
    number = {name: f"n{i}" for i, name in enumerate(every)}
    lines = [
        f"digraph {_quoted(whole.title)} {{",
        f"  label={_quoted(f'{whole.title}  {whole.subtitle}')}; labelloc=t;",
        '  node [fontname="monospace", fontsize=10]; edge [fontname="monospace", fontsize=9];',
    ]

    def emit(node: Node, indent: str) -> None:
        text = " ".join(filter(None, (node.label, node.detail)))
        if node.kind == "op":
            text += "".join(f"\n{flow}" for flow in node.results)
        elif node.results:
            text += f"\n{node.results[0].type}"
        label, tip = _quoted(text), _quoted(node.tip or text)
        lines.append(f"{indent}{number[node.id]} [shape={_SHAPES[node.kind]}, label={label}, tooltip={tip}];")

    def cluster(kernel: KernelBox, indent: str) -> None:
        title = f"kernel {kernel.template}"
        lines.append(f"{indent}subgraph {_quoted(f'cluster {kernel.id}')} {{ label={_quoted(title)}; style=rounded;")
        for name in kernel.ops:
            emit(every[name], indent + "  ")
        lines.append(f"{indent}}}")

    def level(frame: str, indent: str) -> None:
        for kernel in whole.kernels.values():
            if kernel.frame == frame:
                cluster(kernel, indent)
        for node in every.values():
            if node.frame == frame and not node.kernel:
                emit(node, indent)

    level("", "  ")
    for frame in whole.frames.values():
        name, title = _quoted(f"cluster {frame.id}"), _quoted(frame_text(frame))
        lines.append(f"  subgraph {name} {{ label={title}; style=dashed;")
        level(frame.id, "    ")
        lines.append("  }")
    for a, b, edge in edges(graph):
        label = "\n".join(map(str, edge.flows))
        style = ", style=dashed, constraint=false" if edge.loop else ", dir=both" if edge.writes else ""
        if every[a].kind in ("weight", "state"):  # the node says it all
            label = ""
        lines.append(f"  {number[a]} -> {number[b]} [label={_quoted(label)}{style}];")
    return "\n".join([*lines, "}", ""])


def frame_text(frame: Frame) -> str:
    """The frame's title and what each of its layers has for itself."""
    return "\n".join(filter(None, (frame.title, f"each its own {', '.join(frame.own)}" if frame.own else "")))


def _quoted(text: str) -> str:
    r"""A Graphviz string: quotes and backslashes escaped, line ends as ``\n``, nothing else that dot reads as code."""
    out = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", "\\n")
    return f'"{"".join(c if c.isprintable() else "�" for c in out)}"'
