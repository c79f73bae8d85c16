"""A story: an opening, a plot with its cast, an ending; and the request that it fulfils."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .plot import ENDINGS, HABITS, OPENINGS, PLOTS, Plot, Teller, cast


@dataclass(frozen=True)
class Story:
    """The text of a story, and ways to ask for it: phrases such as ``a fox named Pip``, all of which it contains."""

    plot: str
    text: str
    about: tuple[str, ...]


def tell(random: Random, plot: Plot | None = None) -> Story:
    """A story, of a given plot or any."""
    plot = plot or random.choice(PLOTS)
    teller = Teller(cast(plot, random), random)
    teller.tell(OPENINGS)
    if random.random() < 0.4:
        teller.tell(HABITS)
    for beat in plot.beats:
        teller.tell(beat)
    end = random.random()
    if plot.morals and end < 0.45:
        teller.said.append(teller.render(random.choice(plot.morals)))
    elif end < 0.8:
        teller.tell(ENDINGS)
    return Story(plot.name, " ".join(teller.said), tuple(_about(teller, plot)))


def _about(teller: Teller, plot: Plot) -> list[str]:
    hero = teller.hero
    a = "an" if hero.kind[0] in "aeiou" else "a"
    return [f"{a} {hero.kind}", f"{a} {hero.kind} named {hero.name}", *(teller.render(f"x {t}")[2:] for t in plot.asks)]


def ask(story: Story, random: Random) -> str:
    """A request that the story fulfils: its hero, what it is about, or both."""
    who = story.about[random.randrange(2)]
    what = random.choice(story.about[2:])
    about = random.choice((who, what, f"{who} and {what}", f"{who} and {what}"))
    lead = random.choice(("a story about", "Tell me a story about", "tell a tale of", "Write a story about", "about"))
    stop = random.choice(("", "", "."))
    return f"{lead} {about}{stop}"


def document(random: Random, asked: float = 0.25) -> str:
    """A story as the model reads it; a share of them after a request, ``Ask: …`` and ``Tale: …`` on two lines."""
    story = tell(random)
    return f"Ask: {ask(story, random)}\nTale: {story.text}" if random.random() < asked else story.text
