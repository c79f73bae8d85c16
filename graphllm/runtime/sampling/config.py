"""What a user may ask of the sampler. Every setting is checked when it is given, not when the first token is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Final

from graphllm.errors import RunError

# Samplers of other programs (`variants`), each with the settings it has.
VARIANTS: Final[Mapping[str, frozenset[str]]] = {
    "llama2.c": frozenset({"temperature", "top_p", "seed"}),
    "sample.py": frozenset({"temperature", "top_k", "seed"}),
    "meta": frozenset({"temperature", "top_p", "seed"}),
    "learning-lm-rs": frozenset({"temperature", "top_k", "top_p", "seed"}),
}


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """Settings of a sampler; the defaults are greedy. Raises RunError naming the setting, its value and its range.

    The bounds of penalties and biases are far beyond any use: they keep float64 arithmetic on float32 logits finite.
    """

    temperature: float = 0.0  # 0: always the most likely token, and the cuts below have nothing to choose from
    top_k: int = 0  # keep this many tokens; 0: all
    top_p: float = 1.0  # keep the fewest tokens that reach this probability; 1: all
    min_p: float = 0.0  # drop tokens less likely than this times the most likely one; 0: none
    repetition_penalty: float = 1.0  # makes tokens seen before less likely, by a factor on the logit; 1: off
    presence_penalty: float = 0.0  # taken off the logit of a token seen before
    frequency_penalty: float = 0.0  # taken off as often as the token was seen
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float], hash=False)  # added, by token id
    seed: int | None = None  # None: drawn afresh; Sampler.seed tells which
    penalty_window: int = 0  # penalties see this many of the latest tokens; 0: all
    variant: str | None = None  # the sampler of another program, to the letter: one of VARIANTS

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0, 1e6)
        _integer("top_k", self.top_k, 0)
        _number("top_p", self.top_p, 0, 1)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _number("presence_penalty", self.presence_penalty, -1000, 1000)
        _number("frequency_penalty", self.frequency_penalty, -1000, 1000)
        _mapping("logit_bias", self.logit_bias)
        for token, bias in self.logit_bias.items():
            _integer("logit_bias: token id", token, 0)
            _number(f"logit_bias[{token}]", bias, -1e9, 1e9)
        if self.seed is not None:
            _integer("seed", self.seed, 0)
        _integer("penalty_window", self.penalty_window, 0)
        if self.variant is not None:
            _variant(self)
        # A copy: the caller's dictionary may change later, what was checked must not.
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    @property
    def penalised(self) -> bool:
        """Whether a choice depends on the tokens before it."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


# Settings arrive from command lines and JSON, so their types are as open as their values.
def _number(name: str, value: Any, low: float, high: float) -> None:
    if not _is(value, Real) or not low <= value <= high:  # NaN too
        raise RunError(f"sampler: {name} = {value!r}; expected a number from {low:g} to {high:g}")


def _integer(name: str, value: Any, low: int) -> None:
    if not _is(value, Integral) or value < low:
        raise RunError(f"sampler: {name} = {value!r}; expected a whole number, {low} or more")


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise RunError(f"sampler: {name} = {value!r:.60}; expected numbers by token id")


def _variant(config: SamplerConfig) -> None:
    has = VARIANTS.get(config.variant) if isinstance(config.variant, str) else None
    if has is None:
        raise RunError(f"sampler: variant = {config.variant!r:.40}; expected {', '.join(VARIANTS)}")
    plain = SamplerConfig()
    for name in SamplerConfig.__dataclass_fields__.keys() - has - {"variant"}:
        if getattr(config, name) != getattr(plain, name):
            raise RunError(f"sampler: {config.variant} has no {name}; expected some of {', '.join(sorted(has))}")


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
