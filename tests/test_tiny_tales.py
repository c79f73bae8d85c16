"""The stories that the demo model learned from: the same for the same seed, many, and grammatical."""

from __future__ import annotations

import re
from itertools import islice
from random import Random

import pytest

from examples.tiny_tales.corpus import documents
from examples.tiny_tales.plot import PLOTS
from examples.tiny_tales.story import Story, ask, tell

SOME = 3000


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [tell(Random(i)) for i in range(SOME)]


def test_a_seed_gives_its_corpus() -> None:
    first = list(documents("seed", 20))
    assert first == list(islice(documents("seed", 1000), 20))
    assert first != list(documents("other", 20))


def test_no_stories_are_refused() -> None:
    with pytest.raises(ValueError, match="0 stories; expected at least one"):
        next(documents("seed", 0))


def test_stories_are_distinct(stories: list[Story]) -> None:
    assert len({s.text for s in stories}) == SOME


def test_every_plot_is_told(stories: list[Story]) -> None:
    assert {s.plot for s in stories} == {p.name for p in PLOTS}


def test_length(stories: list[Story]) -> None:
    words = sorted(len(s.text.split()) for s in stories)
    assert words[SOME // 100] >= 80
    assert words[-1] <= 240


@pytest.mark.parametrize(
    "wrong",
    [
        r"\ba [aeiou]",  # a/an
        r"\ban (?!hour)[^aeiou]",
        r"[{}\[\]|?]{2}|[{}\[\]|]",  # a field or choice left over
        r"\? [?]",
        r"  ",
        r"[.,][.,]",
        r"[a-z]\. [a-z]",  # a sentence without its capital
        r"\b(he|she) (him|her)\b$",
    ],
)
def test_grammar(stories: list[Story], wrong: str) -> None:
    bad = [s.text for s in stories if re.search(wrong, s.text)]
    assert not bad, bad[0]


def test_quotes_are_closed(stories: list[Story]) -> None:
    assert all(s.text.count('"') % 2 == 0 for s in stories)


def test_a_story_has_what_was_asked_for(stories: list[Story]) -> None:
    random = Random(0)
    for story in stories:
        who = story.about[1]
        assert who.split()[1] in story.text
        assert who.split()[-1] in story.text
        assert any(about in ask(story, random) for about in story.about for _ in range(20))


def test_the_hero_is_there_to_the_end(stories: list[Story]) -> None:
    for story in stories:
        name = story.about[1].split()[-1]
        assert story.text.count(name) >= 2
