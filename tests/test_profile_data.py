"""Profiles as data: what is written is read back, and what is no profile is refused in a line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graphllm.errors import GraphLLMError
from graphllm.view.profile_data import KernelTime, Profile, Span, profile_from_json

KERNELS = (
    KernelTime(0, "x", "embed", -1, ("embed",), 100, 50, 2, 1000, 0),
    KernelTime(2, "l0.q", "linear", 0, ("rmsnorm", "linear"), 200, 400, 8, 4000, 8000),
)
PROFILE = Profile("cpu", 2, "decode", 1, 7, 30, 1000, 1e10, 2e10, KERNELS, (Span(0, 0, 100, 50), Span(2, 1, 210, 380)))


def test_it_is_read_back_as_it_was_written() -> None:
    assert profile_from_json(json.loads(json.dumps(PROFILE.as_json())), "p.json") == PROFILE


def test_what_no_kernel_accounts_for_and_the_share_of_the_roofline() -> None:
    assert PROFILE.outside_ns == 550
    moved, computed = (PROFILE.floor_ns(k) for k in KERNELS)
    assert moved == pytest.approx(100)  # 1000 bytes at 10 GB/s
    assert computed == pytest.approx(400)  # 8000 operations at 20 Gflop/s take as long as 4000 bytes: 400 ns
    assert PROFILE.roofline(KERNELS[1]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 9}, "version 1"),
        ({"threads": "two"}, "threads"),
        ({"kernels": 3}, "kernels: expected a list"),
        ({"kernels": [{}]}, "index"),
        ({"spans": [7]}, "spans: expected an object"),
        ({"step_ns": None}, "step_ns"),
    ],
)
def test_damage_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(GraphLLMError, match=r"p\.json: .*") as caught:
        profile_from_json(json.loads(json.dumps({**PROFILE.as_json(), **change})), "p.json")
    assert words in str(caught.value)
    with pytest.raises(GraphLLMError, match="expected an object"):
        profile_from_json([], "p.json")
