"""Stop strings: where a text ends, however it is cut into pieces, and what is never shown."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphllm.errors import RunError
from graphllm.runtime.stops import StopStrings


def first_complete(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop that is complete first, the longest of those that end together."""
    for end in range(len(text) + 1):
        ending = [len(s) for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(ending)], True
    return text, False


def through(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    strings = StopStrings(stops)
    out = ""
    for i, piece in enumerate(pieces):
        out += strings.push(piece)
        seen = "".join(pieces[: i + 1])
        assert seen.startswith(out)
        if not strings.hit:  # held back is only what may yet become a stop
            held = seen[len(out) :]
            assert not held or any(s.startswith(held) and s != held for s in stops)
    return out + strings.flush(), strings.hit


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("one\n\ntwo", ["\n\n"]),
        ("aababcab", ["abc"]),
        ("aaaaaaab", ["aab"]),
        ("xabcdabx", ["abcde", "bcd"]),
        ("xabcdey", ["bcd", "abcde", "cde"]),
        ("ends in a sto", ["stop"]),
        ("nothing", []),
        ("é\u2028中", ["\u2028中"]),
        ("xyzxyz", ["z", "yz", "xyz"]),
    ],
)
def test_stop_strings_in_every_split(text: str, stops: list[str]) -> None:
    want = first_complete(text, stops)
    for cuts in range(1 << (len(text) - 1)):
        pieces, start = [], 0
        for i in range(len(text)):
            if cuts >> i & 1 or i == len(text) - 1:
                pieces.append(text[start : i + 1])
                start = i + 1
        assert through(stops, pieces) == want


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_on_any_text(pieces: list[str], stops: list[str]) -> None:
    assert through(stops, pieces) == first_complete("".join(pieces), stops)


def test_nothing_comes_after_a_stop_string() -> None:
    strings = StopStrings(["ab"])
    assert [strings.push(p) for p in ("xa", "bc", "ab", "d")] == ["x", "", "", ""]
    assert (strings.flush(), strings.hit) == ("", True)
    with pytest.raises(RunError, match=r"^stop: an empty string; expected at least one character"):
        StopStrings(["a", ""])
