"""Chat templates known by name, for models that come without their own.

They write what the families' published templates write, to the character, and are our own Jinja.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

# name -> the pieces it is made of: Jinja itself, or the names of files here
_PIECES: Final = {
    "chatml": ("chatml.jinja",),
    "llama-2": ("llama-2.jinja",),
    "llama-3": ("llama-3.jinja",),
    "llama-3.1": ("{%- set today = '26 Jul 2024' %}", "llama-3.1.jinja"),
    "llama-3.2": ("{%- set today = strftime_now('%d %b %Y') %}", "llama-3.1.jinja"),
    "mistral": ("mistral.jinja",),
    "qwen2": ("qwen2.jinja",),
    "qwen2.5": ("qwen_tools.jinja", "qwen2.5.jinja"),
    "qwen3": ("qwen_tools.jinja", "qwen3.jinja"),
    "zephyr": ("zephyr.jinja",),
}

NAMES: Final = tuple(_PIECES)


def template_named(name: str) -> str:
    """The Jinja source of one of ``NAMES``. KeyError for another."""
    return "".join(
        files("graphllm.runtime.chat.named").joinpath(piece).read_text("utf-8") if piece.endswith(".jinja") else piece
        for piece in _PIECES[name]
    )
