"""What every SVG picture here shares: escaping, elements, colours that work in light, dark and grey.

Text is set in one fixed-width face, so its width is known without measuring it. Colours come from classes; a reader's
dark mode turns them round. No script, no outside reference.
"""

from __future__ import annotations

from typing import Final

_COLOURS: Final = {  # light, dark
    "paper": ("#ffffff", "#16181b"),
    "ink": ("#1c1e21", "#e6e8ea"),
    "faint": ("#5f666d", "#a2a9b0"),
    "line": ("#8a9199", "#7b838b"),
    "box": ("#f4f5f7", "#202429"),
    "head": ("#dfe3e8", "#343a41"),
    "blue": ("#d3e3f5", "#2c4562"),
    "sand": ("#f3dcae", "#57472a"),
    "green": ("#c3dfc8", "#2d4b34"),
    "red": ("#b3261e", "#f2877f"),
}
_MARGIN: Final = 14
EM: Final = 0.602  # width of a character over its size, in the fixed-width faces named below
_FACE: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def escaped(text: str) -> str:
    """Text as XML may hold it: markup escaped, characters that XML forbids or that turn text round shown as such."""
    plain = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    for mark, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        plain = plain.replace(mark, name)
    return plain


def width_of(text: str, size: float) -> float:
    return len(text) * size * EM


def clipped(text: str, limit: int) -> str:
    """At most ``limit`` characters, an ellipsis for the rest."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Paper:
    """Collects elements in drawing order and knows how far they reach."""

    def __init__(self) -> None:
        self._body: list[str] = []
        self.width = self.height = 0.0

    def reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)

    def open(self, kind: str, ident: str = "", tip: str = "") -> None:
        """Begin a group; what it stands for goes in ``data-id``, its tooltip in ``title``."""
        data = f' data-id="{escaped(ident)}"' if ident else ""
        title = f"<title>{escaped(tip)}</title>" if tip else ""
        self._body.append(f'<g class="{kind}"{data}>{title}')

    def close(self) -> None:
        self._body.append("</g>")

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str, *,
        radius: float = 0, dash: str = "", edge: str = "line",
    ) -> None:  # fmt: skip
        extra = f' rx="{_n(radius)}"' if radius else ""
        extra += f' stroke-dasharray="{dash}"' if dash else ""
        self._body.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" {_inks(fill, edge)}{extra}/>'
        )
        self.reach(x + w, y + h)

    def text(
        self, x: float, y: float, text: str, size: float, *,
        fill: str = "ink", bold: bool = False, anchor: str = "start",
    ) -> None:  # fmt: skip
        extra = ' font-weight="bold"' if bold else ""
        extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
        self._body.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" {_inks(fill)}{extra}>{escaped(text)}</text>'
        )
        share = {"start": 1.0, "middle": 0.5}.get(anchor, 0.0)
        self.reach(x + width_of(text, size) * share, y + size * 0.3)

    def path(
        self, points: list[tuple[float, float]], *, edge: str = "faint", dash: str = "", arrow: bool = False,
        both: bool = False, weight: float = 1.1,
    ) -> None:  # fmt: skip
        d = "M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        extra += ' marker-end="url(#tip)"' if arrow else ""
        extra += ' marker-start="url(#tip)"' if both else ""
        self._body.append(f'<path d="{d}" {_inks("none", edge)} stroke-width="{_n(weight)}"{extra}/>')
        for x, y in points:
            self.reach(x, y)

    def hatched(self, x: float, y: float, w: float, h: float) -> None:
        self._body.append(f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" fill="url(#hatch)"/>')

    def finish(self, title: str) -> str:
        """The whole file."""
        w, h = self.width + _MARGIN, self.height + _MARGIN
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(w)} {_n(h)}" width="{_n(w)}" height="{_n(h)}" '
            f'font-family="{_FACE}" role="img"><title>{escaped(title)}</title><style>{_dark()}</style>'
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="6.5" markerHeight="6.5" '
            f'orient="auto-start-reverse"><path d="M0 0.8 L8 4 L0 7.2 z" {_inks("faint")}/></marker>'
            '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<path d="M0 0 L0 6" {_inks("none", "line")} stroke-width="1.4"/></pattern></defs>'
            f'<rect width="{_n(w)}" height="{_n(h)}" {_inks("paper")}/>'
        )
        return "\n".join([head, *self._body, "</svg>", ""])


def _inks(fill: str, edge: str = "") -> str:
    """The light colours as attributes, which every reader knows, and classes for the dark ones."""
    classes = " ".join(f"{part}-{name}" for part, name in (("f", fill), ("s", edge)) if name in _COLOURS)
    colour = f'fill="{_COLOURS[fill][0]}"' if fill in _COLOURS else 'fill="none"'
    return f'class="{classes}" {colour}' + (f' stroke="{_COLOURS[edge][0]}"' if edge else "")


def _dark() -> str:
    rules = (f".f-{name}{{fill:{dark}}}.s-{name}{{stroke:{dark}}}" for name, (_, dark) in _COLOURS.items())
    return f"@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}"


def _n(value: float) -> str:
    """A number with at most one decimal, and no more digits than it needs."""
    return f"{value:.1f}".removesuffix(".0")
