"""A dry run visits every function: a fault planted in any one of them is found, and named."""

from __future__ import annotations

import re

import pytest

from graphllm.errors import PlanError
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.runtime.dry_run import dry_run
from tests.lowered_models import lowered

MODULE = lowered("everything").module


def test_a_sound_module_passes() -> None:
    dry_run(MODULE)


@pytest.mark.parametrize("function", MODULE.functions)
def test_no_function_is_left_out(function: str) -> None:
    text = print_module(MODULE)
    start = text.index(f"func @{function}(")
    # the residual stream is laid over the first product
    stream = re.compile(r"(%x = embed [^\n]* in )arena\+\d+|(%x = cast [^\n]* in )arena\+\d+")
    place = re.search(r" = linear [^\n]* in (arena\+\d+)", text[start:])
    assert place is not None
    body = stream.sub(lambda m: f"{m[1] or m[2]}{place[1]}", text[start:], count=1)
    with pytest.raises(PlanError, match=f"^func @{function}: "):
        dry_run(parse_module(text[:start] + body))
