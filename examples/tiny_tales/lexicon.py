"""The words that stories are made of, and how one of them reads in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}
CALLS = {
    "mother": ("she", "Mom"),
    "father": ("he", "Dad"),
    "grandmother": ("she", "Grandma"),
    "grandfather": ("he", "Grandpa"),
    "aunt": ("she", "Auntie"),
    "uncle": ("he", "Uncle"),
}


@dataclass(frozen=True)
class Character:
    """Someone in a story: ``Pip``, ``fox``, ``little``, ``she``, ``in a warm den``."""

    name: str
    kind: str
    trait: str
    gender: str
    home: str
    species: str  # child, animal or person


@dataclass(frozen=True)
class Relative:
    """Someone known by what they are to the hero: ``mother``, called ``Mom``."""

    kind: str
    gender: str
    call: str


@dataclass(frozen=True)
class Thing:
    """``red kite``, whose noun is ``kite``; ``jar of honey``, whose noun is ``jar``."""

    full: str
    noun: str


@dataclass(frozen=True)
class Place:
    """``in the park``: a place with its preposition."""

    inside: str

    @property
    def bare(self) -> str:
        return self.inside.split(" ", 1)[1]


def read_lexicon(path: Path) -> dict[str, list[str]]:
    """The lists of a file by name, in the file's order."""
    lists: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, words = line.partition(": ")
            lists[name] = words.split(", ")
    return lists


def thing(text: str) -> Thing:
    """A thing from its entry: the noun is the last word, or the last before "of"."""
    head = text.partition(" of ")[0]
    return Thing(text, head.split()[-1])


def with_article(phrase: str) -> str:
    """``a`` or ``an`` by the first letter; the lexicon has no word where sound and letter disagree."""
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"
