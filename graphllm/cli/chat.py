"""``graphllm chat``: a dialogue that keeps its cache between turns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from graphllm.cli import chat_commands
from graphllm.cli.chat_input import Reader, reader
from graphllm.cli.choices import sampler_choices, stop_choices
from graphllm.cli.input import argument
from graphllm.cli.loading import load_model
from graphllm.cli.template import template_choice, variables_choice
from graphllm.cli.terminal import Meter, harmless, say
from graphllm.errors import ContextFullError, GraphLLMError

if TYPE_CHECKING:
    from graphllm.api import Model
    from graphllm.api.chat import Chat


def run(a: argparse.Namespace) -> int:
    from graphllm.api.answer import sampler_config

    with Meter() as meter:
        model = load_model(a, meter)
    system = argument(a.system, "--system") if a.system is not None else None
    variables = variables_choice(a.set)
    chat = model.chat(system=system, template=template_choice(a.template), variables=variables)
    if a.load is not None:
        chat.load(a.load)
    how = {
        "max_tokens": None if a.max_tokens == -1 else a.max_tokens,
        "stop": stop_choices(a),
        "sampler": sampler_config(None, sampling(model, sampler_choices(a))),
    }
    lines = reader(list(chat_commands.NAMES), history=not a.no_history)
    if lines.interactive:
        say("/help tells the commands; Alt-Enter is a new line, Ctrl-C stops an answer, Ctrl-D ends")
    return Dialogue(chat, lines, how, a.stats).run()


def sampling(model: Model, given: dict[str, Any]) -> dict[str, Any]:
    """The settings given, then those that the model's makers advise, which are told, then ours."""
    advised = {} if "variant" in given else {k: v for k, v in model.sampling.items() if k not in given}
    if advised:
        listed = ", ".join(f"{name} {value:g}" for name, value in advised.items())
        say(f"sampling as the model's makers advise: {listed}")
    return {"temperature": 0.7, **advised, **given}


class Dialogue:
    """A chat at a terminal or in a pipe: reads, answers, does what commands ask."""

    def __init__(self, chat: Chat, lines: Reader, how: dict[str, Any], stats: bool) -> None:
        self.chat, self.lines, self.how, self.stats = chat, lines, how, stats
        self.ended = False
        self._again = ""  # offered for editing at the next prompt

    def run(self) -> int:
        """Until there is nothing more to read. A mistake ends it only where nobody can mend it."""
        while not self.ended:
            again, self._again = self._again, ""
            try:
                text = self.lines.read(again)
            except KeyboardInterrupt:
                if not self.lines.interactive:
                    raise
                say("Ctrl-D or /exit ends the chat")
                continue
            if text is None:
                break
            try:
                self._take(text)
            except GraphLLMError as error:
                if not self.lines.interactive:
                    raise
                say(str(error))
            except KeyboardInterrupt:  # before an answer began, or in a command
                if not self.lines.interactive:
                    raise
                self._again = text
                say("stopped")
        return 0

    def _take(self, text: str) -> None:
        if text.startswith("//"):
            self.answer(text[1:])
        elif text.startswith("/"):
            chat_commands.do(self, text)
        elif text.strip():
            self.answer(text)

    def answer(self, text: str) -> None:
        """The model's answer to ``text``, shown as it comes. Raises GraphLLMError; the text is offered again."""
        try:
            turn = self.chat.say(text, **self.how)
        except ContextFullError as full:
            if not self._dropped(full):
                self._again = text
                if not full.drops or not self.lines.interactive:
                    raise
                say("nothing was forgotten; /drop N, /reset or a shorter message makes room")
                return
            turn = self.chat.say(text, **self.how)
        except GraphLLMError:
            self._again = text
            raise
        try:
            self._show(turn)
        except KeyboardInterrupt:
            turn.stop()
            sys.stdout.write("\n")
            sys.stdout.flush()
            if not self.lines.interactive:
                raise
            if turn.text:
                say("stopped; what came so far is part of the chat")
            else:
                say("stopped before anything came; your message was taken back")
                self._again = text
            return
        progress = turn.answer.progress
        if progress.finish == "context":
            say(
                f"stopped: the context of {self.chat.model.engine.context} positions is full; "
                "/drop N forgets the oldest exchanges, /reset all of them"
            )
        elif progress.finish == "length":
            say(f"stopped after {len(progress.tokens)} tokens (-n)")
        if self.stats:
            say(chat_commands.speed(self.chat))

    def _dropped(self, full: ContextFullError) -> bool:
        """Whether the oldest exchanges were dropped, because the person wants it."""
        if not full.drops or not self.lines.interactive:
            return False
        counts = [str(count) for count, _ in full.drops]
        choices = " or ".join(f"{count} ({left} tokens are left)" for count, left in full.drops)
        say(f"context: the dialogue has {full.needed} tokens, and there are {full.context} positions")
        said = self.lines.ask(f"Forget the oldest exchanges, {choices}, and go on? [{'/'.join([*counts, 'N'])}]")
        if said in ("y", "yes"):
            said = counts[0]
        if said not in counts:
            return False
        self.chat.drop(int(said))
        return True

    def _show(self, pieces: Iterable[str]) -> None:
        out, terminal = sys.stdout, sys.stdout.isatty()
        for piece in pieces:
            out.write(harmless(piece) if terminal else piece)
            out.flush()
        out.write("\n")
        out.flush()
