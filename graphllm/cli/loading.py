"""The model that a measuring command is about, on the device that was asked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphllm.api import Model
    from graphllm.cli.terminal import Meter


def load_model(a: argparse.Namespace, meter: Meter, *, other: str | None = None, **more: Any) -> Model:
    """The model of the arguments, or another one on the same device, as it is; ``more`` goes to ``load``."""
    from graphllm import api
    from graphllm.cli.choices import load_choices
    from graphllm.cli.terminal import say

    choices: dict[str, Any] = load_choices(a) if other is None else {}
    choices |= {"device": a.device, "trust_code": a.trust_code}
    choices |= {"threads": a.threads, "expand": a.expand, "progress": meter, "say": say, **more}
    return api.load(other if other is not None else a.model, **choices)
