"""Errors a user can meet.

Every message reads ``where: what; expected X, got Y`` and says what to do next where that is not obvious. The
command line prints it as one line and exits with 2. ``assert`` stays for our own bugs.
"""

from __future__ import annotations


class GraphLLMError(Exception):
    """Base of every error that is the input's fault, or the machine's, and not ours."""


class CheckpointError(GraphLLMError):
    """A checkpoint that cannot be read, or says something we do not support."""


class TokenizerError(GraphLLMError):
    """A tokenizer that cannot be read, or does not fit its model."""


class ParseError(GraphLLMError):
    """Text IR that does not parse; the message carries line, column and a caret."""


class VerifyError(GraphLLMError):
    """IR that parses but breaks a rule of the language."""


class PassError(GraphLLMError):
    """A pass that does not exist, cannot write what it made, or left a module that breaks the rules."""


class PlanError(GraphLLMError):
    """A plan file that is damaged, too new, not a plan, or cannot be written."""


class RunError(GraphLLMError):
    """A request the runtime refuses: prompt too long, a bad token id, a bad sampler setting."""


class ContextFullError(RunError):
    """A dialogue that does not fit in the context.

    Attributes:
        needed: tokens of the dialogue and the least that an answer takes.
        context: positions there are.
        drops: (exchanges, tokens left): what dropping so many of the oldest exchanges would leave, where that helps.
    """

    def __init__(self, needed: int, context: int, drops: tuple[tuple[int, int], ...]) -> None:
        self.needed, self.context, self.drops = needed, context, drops
        offers = [f"dropping the oldest {_exchanges(n)} leaves {left}" for n, left in drops]
        super().__init__(
            f"context: the dialogue has {needed} tokens, with room for an answer, and there are {context} positions; "
            + ", ".join([*offers, "a larger --context holds it"])
        )


def _exchanges(count: int) -> str:
    return "exchange" if count == 1 else f"{count} exchanges"


class TemplateError(GraphLLMError):
    """A chat template that is damaged, does not come to an end, or refuses the dialogue it is given."""


class NativeError(GraphLLMError):
    """Native code that cannot be had: no C++ compiler, or one that fails or hangs."""


class DeviceError(GraphLLMError):
    """A GPU that cannot be used: none there, no driver, the wrong kind, out of memory, or lost in the middle."""
