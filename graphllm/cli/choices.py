"""Options that several commands share, turned into arguments of the API."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from graphllm.compiler.options import Options
    from graphllm.frontends.overrides import Overrides
    from graphllm.passes.quantize_int8 import Quantization


def compile_choices(a: argparse.Namespace) -> dict[str, Any]:
    """What ``compile`` takes: tokenizer, context, slots, precision, overrides."""
    return load_choices(a) | {"slots": a.slots or 1}


def load_choices(a: argparse.Namespace) -> dict[str, Any]:
    """What ``load`` takes; 0 and None leave a plan's own."""
    return {
        "tokenizer": a.tokenizer,
        "context": a.context,
        "slots": a.slots,
        "kv_dtype": "i8" if a.kv == "int8" else a.kv,
        "dtype": a.dtype,
        "quantize": quantization(a),
        "overrides": overrides(a),
    }


def seen_options(a: argparse.Namespace, source: Path, target: str | None) -> Options:
    """How a checkpoint is compiled to be looked at; for a plan the defaults, unless others were asked for."""
    from graphllm.compiler.backends import BACKENDS
    from graphllm.compiler.options import Options
    from graphllm.compiler.targets import resolve
    from graphllm.frontends.overrides import NO_OVERRIDES
    from graphllm.plan.plan_file import is_plan

    choices: dict[str, Any] = compile_choices(a) | {"target": resolve(target)[0]}
    if choices["kv_dtype"] is None:
        choices["kv_dtype"] = BACKENDS[choices["target"]].kv_dtype if not is_plan(source) else "f32"
    del choices["tokenizer"]  # nothing that is looked at depends on it
    choices["overrides"] = choices["overrides"] or NO_OVERRIDES
    return Options(**choices)


def quantization(a: argparse.Namespace) -> Quantization | None:
    """What ``--quantize`` and its like ask for. Raises GraphLLMError for those that say how, without it."""
    given: dict[str, Any] = {"group": a.group, "scale": a.scales, "keep": tuple(a.keep) or None}
    if a.quantize is None:
        if asked := [name for name, value in given.items() if value is not None]:
            from graphllm.errors import GraphLLMError

            raise GraphLLMError(f"--{'scales' if asked[0] == 'scale' else asked[0]}: expected --quantize with it")
        return None
    from graphllm.passes.quantize_int8 import Quantization

    return Quantization(a.quantize, **{name: value for name, value in given.items() if value is not None})


def overrides(a: argparse.Namespace) -> Overrides | None:
    """What was said of a checkpoint beside its file, None for nothing. Raises CheckpointError."""
    given = {
        "norm_eps": a.norm_eps,
        "rope_theta": a.rope_theta,
        "rope_pairing": a.rope_pairing,
        "context": a.model_context,
        "rope_scaling": a.rope_scaling,
    }
    if a.preset is None and all(v is None for v in given.values()):
        return None  # running a plan needs no frontend
    from graphllm.frontends.overrides import NO_OVERRIDES, Overrides, preset, scaling_named

    if a.rope_scaling is not None:
        given["rope_scaling"] = scaling_named(a.rope_scaling)
    return Overrides(**given).on_top_of(preset(a.preset) if a.preset else NO_OVERRIDES)


def sampler_choices(a: argparse.Namespace) -> dict[str, Any]:
    """The fields of a SamplerConfig that were given. Raises RunError for a bias that is not ID=NUMBER."""
    from graphllm.errors import RunError

    bias: dict[int, float] = {}
    for item in a.logit_bias:
        token, _, value = item.partition("=")
        try:
            bias[int(token)] = float(value)
        except ValueError:
            raise RunError(f"--logit-bias {item}: expected ID=NUMBER, as in 13=-5.5") from None
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    given = {name: getattr(a, name) for name in (*names, "penalty_window", "seed")}
    given |= {"logit_bias": bias or None, "variant": a.sampler}
    return {name: value for name, value in given.items() if value is not None}


def stop_choices(a: argparse.Namespace) -> list[str | int]:
    """What ends an answer: texts and token ids. Raises GraphLLMError for a text that is not Unicode."""
    from graphllm.cli.input import argument

    return [*(argument(text, "--stop") for text in a.stop), *a.stop_id]
