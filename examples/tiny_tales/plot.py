"""Plots: text files of alternatives, and the teller that turns one into a story.

A plot file has headers (``theme:``, roles and their word lists, values chosen once: ``spot = in a tree | in a box``)
and then paragraphs, one a beat. Each line of a beat is one way to tell it; a beat whose lines begin with ``?`` may be
left out. In a line, ``[big|huge]`` is a choice and ``{...}`` speaks of the story's state:

    {hero} {he} {him} {his} {himself}      the hero's name and pronouns; {friend.he} those of another role
    {a hero} {who hero} {one hero}         a little fox named Pip · a little fox · a fox
    {full hero} {kind hero}                Pip the fox · fox
    {thing} {a thing} {full thing}         kite · a red kite · red kite
    {place} {in place}                     the park · in the park
    {parent} {call parent}                 mother · Mom
    {spot} {part.1}                        a value chosen once; the second half of one written "wing / fly"
    {*happy}                               any word of that list, afresh
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

from .lexicon import CALLS, PRONOUNS, Character, Place, Relative, Thing, read_lexicon, thing, with_article

HERE = Path(__file__).parent
LEXICON = read_lexicon(HERE / "lexicon.txt")
SPECIES = {"child", "animal", "person"}
PLACES = {"outdoors", "wild", "water"}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_FIELD = re.compile(r"\{([^{}]*)\}")
# After a quoted question or cry the sentence goes on: "Where?" he asked.
_START = re.compile(r'(^|[.!?] |[.]" )("?)([a-z])')

State = dict[str, "Character | Relative | Thing | Place | tuple[str, ...]"]


@dataclass(frozen=True)
class Beat:
    """One moment of a plot."""

    optional: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """A plot as its file has it."""

    name: str
    themes: tuple[str, ...]
    asks: tuple[str, ...]
    morals: tuple[str, ...]
    roles: dict[str, tuple[str, ...]]
    values: dict[str, tuple[str, ...]]
    beats: tuple[Beat, ...]


def read_plot(path: Path) -> Plot:
    """The plot of a file."""
    head, *paragraphs = path.read_text(encoding="utf-8").strip().split("\n\n")
    headers: dict[str, str] = {}
    values: dict[str, tuple[str, ...]] = {}
    for line in head.splitlines():
        name, mark, text = re.split(r" ?(:|=) ", line, maxsplit=1)
        if mark == "=":
            values[name] = tuple(text.split(" | "))
        else:
            headers[name] = text
    listed = [tuple(headers.pop(key, "").split(" | ")) for key in ("theme", "ask", "moral")]
    themes, asks, morals = (tuple(t for t in texts if t) for texts in listed)
    roles = {"hero": ("child", "animal"), **{k: tuple(v.split()) for k, v in headers.items()}}
    return Plot(path.stem, themes, asks, morals, roles, values, tuple(map(_beat, paragraphs)))


def _beat(paragraph: str) -> Beat:
    lines = tuple(line.removeprefix("? ") for line in paragraph.split("\n"))
    return Beat(paragraph.startswith("? "), lines)


PLOTS = tuple(read_plot(p) for p in sorted((HERE / "plots").glob("*.txt")))
FRAME = read_plot(HERE / "frame.txt")
OPENINGS, HABITS, ENDINGS = FRAME.beats


def cast(plot: Plot, random: Random) -> State:
    """Somebody for every role of a plot. The friend has the other pronoun than the hero, so "he" is never two."""
    state: State = {}
    used: set[str] = set()
    for role, kinds in plot.roles.items():
        kind = random.choice(kinds)
        if kind in SPECIES:
            hero = state.get("hero")
            gender = random.choice(("he", "she"))
            if isinstance(hero, Character):
                gender = "she" if hero.gender == "he" else "he"
                if len(kinds) > 1 and random.random() < 0.6:
                    kind = hero.species
            character = _character(kind, gender, used, random)
            used |= {character.name, character.kind}
            state[role] = character
        elif kind == "parent":
            word = random.choice(LEXICON["parent"])
            state[role] = Relative(word, *CALLS[word])
        elif kind in PLACES:
            state[role] = Place(random.choice(LEXICON[kind]))
        else:
            state[role] = thing(random.choice(LEXICON[kind]))
    for name, options in plot.values.items():
        state[name] = tuple(random.choice(options).split(" / "))
    return state


def _character(species: str, gender: str, used: set[str], random: Random) -> Character:
    if species == "animal":
        kind, preposition, home = re.split(r" (in|by|under|on) ", _other(LEXICON["animal"], used, random), maxsplit=1)
        name = _other(LEXICON["creature"], used, random)
        return Character(name, kind, random.choice(LEXICON["animal_is"]), gender, f"{preposition} {home}", species)
    names = LEXICON["boy" if gender == "he" else "girl"]
    if species == "person":
        kind, trait = random.choice(LEXICON["person"]), "old"
    else:
        kind, trait = ("boy" if gender == "he" else "girl"), random.choice(LEXICON["child_is"])
    return Character(_other(names, used, random), kind, trait, gender, random.choice(LEXICON["home"]), species)


def _other(entries: list[str], used: set[str], random: Random) -> str:
    while (entry := random.choice(entries)).split()[0] in used:
        pass
    return entry


@dataclass
class Teller:
    """Says lines in one story's state, and keeps what was said."""

    state: State
    random: Random
    said: list[str] = field(default_factory=list)

    @cached_property
    def hero(self) -> Character:
        hero = self.state["hero"]
        assert isinstance(hero, Character)
        return hero

    def tell(self, beat: Beat) -> None:
        """One way of a beat, or nothing where it is optional."""
        if not beat.optional or self.random.random() < 0.5:
            self.said.append(self.render(self.random.choice(beat.lines)))

    def render(self, line: str) -> str:
        """A line with its choices made and its fields filled, every sentence with a capital."""
        while "[" in line:
            line = _CHOICE.sub(lambda m: self.random.choice(m[1].split("|")), line)
        while "{" in line:
            line = _FIELD.sub(lambda m: self._field(m[1]), line)
        line = line.replace("“", '"').replace("”", '"')
        return _START.sub(lambda m: m[1] + m[2] + m[3].upper(), line)

    def _field(self, text: str) -> str:
        if text.startswith("*"):
            return self.random.choice(LEXICON[text[1:]])
        if text in PRONOUNS["he"]:
            return PRONOUNS[self.hero.gender][text]
        if text in ("likes", "homely"):
            return self.random.choice(LEXICON[f"{self.hero.species}_likes"])
        form, _, role = text.rpartition(" ")
        role, _, part = role.partition(".")
        about = self.state[role]
        match about:
            case tuple():
                return with_article(about[0]) if form == "a" else about[int(part or 0)]
            case Place():
                return about.inside if form == "in" else about.bare
            case Thing():
                return {"": about.noun, "full": about.full, "a": with_article(about.full)}[form]
            case Relative():
                if part:
                    return PRONOUNS[about.gender][part]
                return about.call if form == "call" else about.kind
            case Character():
                if part == "home":
                    return about.home
                return PRONOUNS[about.gender][part] if part else _named(about, form)


def _named(c: Character, form: str) -> str:
    match form:
        case "":
            return c.name
        case "a":
            return with_article(f"{c.trait} {c.kind} named {c.name}")
        case "full":
            return c.name if c.species == "child" else f"{c.name} the {c.kind}"
        case "who":
            return with_article(f"{c.trait} {c.kind}")
        case "one":
            return with_article(c.kind)
        case "kind":
            return c.kind
        case _:
            raise ValueError(f"form {form!r}; expected a, who, one, full or kind")
