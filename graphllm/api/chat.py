"""A dialogue with a model: its messages, and a cache that is fed only what it does not hold yet.

    chat = model.chat(system="Be brief.")
    for piece in chat.say("Hello"):
        print(piece, end="", flush=True)
    chat.save("hello.json")

Each turn encodes the whole dialogue, as if for the first time, and the cache goes on from where its tokens and those
differ: after an answer that a template writes as the model did, right behind it. So a dialogue is always what its
messages say, whatever was stopped, dropped or loaded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphllm.api.answer import Answer, sampler_config
from graphllm.api.session import read_session, write_session
from graphllm.errors import ContextFullError, RunError, TemplateError
from graphllm.runtime.chat.format import ChatFormat, Message, text_of
from graphllm.runtime.chat.named import NAMES, template_named
from graphllm.runtime.sampling import SamplerConfig

if TYPE_CHECKING:
    from graphllm.api.model import Model, PathLike

ROOM = 32  # positions an answer must have before it is begun, where the context is not tiny

# Special tokens that tell a model's dialogue format, where it says nothing itself.
_TELLING = {"<|im_start|>": "chatml", "<|start_header_id|>": "llama-3"}


class Chat:
    """A dialogue. One turn at a time; made by ``Model.chat``.

    Attributes:
        messages: what was said, to be read: objects with role and content. The first may be the system's.
        format: the template at work.
        turn: the last turn, None before the first.
    """

    def __init__(
        self,
        model: Model,
        format: ChatFormat,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.model, self.format = model, format
        self.messages: list[dict[str, Any]] = []
        self.turn: Turn | None = None
        self._tools = tools
        if system:
            self.set_system(system)

    @property
    def system(self) -> str | None:
        """What the model is told before the first message."""
        first = self.messages[0] if self.messages else {}
        return text_of(first["content"]) if first.get("role") == "system" else None

    def set_system(self, text: str | None) -> None:
        """Tell the model something else before the first message, or nothing."""
        self.messages[: self.system is not None] = [{"role": "system", "content": text}] if text else []

    def say(
        self,
        text: str,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str | int] = (),
        logprobs: int | None = None,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> Turn:
        """The model's answer to ``text``, piece by piece: iterate over the result.

        The message and the answer belong to the dialogue from then on. An answer that is left early, by Ctrl-C or
        ``Turn.stop``, is kept as far as it came; where nothing came, the message is taken back.

        Args:
            max_tokens: at most so many; None until the model ends its answer or the context is full.
            stop, logprobs, sampler, settings: as for ``Model.generate``.

        Raises:
            ContextFullError: the dialogue does not fit; it says what dropping would help. Nothing is changed.
            TemplateError: the template is damaged, does not end, or refuses the dialogue.
            RunError, TokenizerError: as ``Model.generate``.
        """
        asked = {"role": "user", "content": text}
        ids = self._encode([*self.messages, asked])
        self._check_room(ids, [*self.messages, asked])
        answer = Answer(
            self.model,
            ids,
            max_tokens,
            stop,
            False,
            sampler_config(sampler, settings),
            logprobs=logprobs,
            end_ids=self.format.end_ids,
            keep=True,
        )
        self.turn = Turn(self, asked, answer)
        return self.turn

    def ask(self, text: str, **how: Any) -> str:
        """The whole answer to ``text``. Args and errors are those of ``say``."""
        return "".join(self.say(text, **how))

    def ids(self) -> list[int]:
        """The dialogue so far as the model reads it, without the opening of an answer; [] when nothing was said."""
        return self._encode(self.messages, answer=False) if self.messages else []

    def reset(self) -> None:
        """Forget everything but the system's message."""
        self.set_system(self.system)
        del self.messages[self.system is not None :]

    def undo(self) -> str | None:
        """Take back the last exchange and return what the user said in it, None where there is none."""
        at = next((i for i in reversed(range(len(self.messages))) if self.messages[i]["role"] == "user"), None)
        if at is None:
            return None
        text = text_of(self.messages[at]["content"])
        del self.messages[at:]
        return text

    def drop(self, exchanges: int) -> int:
        """Forget the oldest exchanges, not the system's message; how many there were to forget."""
        starts = self._starts(self.messages)
        exchanges = max(0, min(exchanges, len(starts)))
        self.messages[:] = self._without(self.messages, exchanges)
        return exchanges

    def save(self, path: PathLike) -> None:
        """Write the dialogue to a file, complete or not at all. Raises PlanError when it cannot be written."""
        write_session(Path(path), self.messages, self.format.now, self._tools, self.format.variables)

    def load(self, path: PathLike) -> None:
        """Go on with a dialogue from a file; this one is forgotten.

        Raises:
            RunError: the file cannot be read, or is not a saved dialogue. Nothing is changed.
            TemplateError, TokenizerError: this model's template refuses the dialogue. Nothing is changed.
        """
        session = read_session(Path(path))
        ours = self.format
        format = ChatFormat(ours.template, ours.tokenizer, ours.special_tokens, session.now, session.variables)
        if session.messages:
            format.encode(session.messages, answer=False, tools=session.tools)
        self.messages[:], self.format, self._tools = session.messages, format, session.tools

    def _encode(self, messages: Sequence[Message], *, answer: bool = True) -> list[int]:
        return self.format.encode(messages, answer=answer, tools=self._tools)

    def _check_room(self, ids: Sequence[int], messages: list[dict[str, Any]]) -> None:
        context = self.model.engine.context
        room = min(ROOM, context // 8)
        if len(ids) + room <= context:
            return

        @cache
        def left(exchanges: int) -> int:
            return len(self._encode(self._without(messages, exchanges)))

        # The fewest that make it fit, and those that leave half of the context for what comes.
        choices = range(1, len(self._starts(messages)))
        drops: dict[int, int] = {}
        for most in (context - room, context // 2):
            place = bisect_left(choices, True, key=lambda exchanges: left(exchanges) <= most)
            if place < len(choices):
                drops[choices[place]] = left(choices[place])
        raise ContextFullError(len(ids) + room, context, tuple(drops.items()))

    @staticmethod
    def _starts(messages: Sequence[Message]) -> list[int]:
        """Where exchanges begin."""
        return [i for i, message in enumerate(messages) if message["role"] == "user"]

    def _without(self, messages: list[dict[str, Any]], exchanges: int) -> list[dict[str, Any]]:
        """The messages without their oldest exchanges."""
        starts = [*self._starts(messages), len(messages)]
        first = int(bool(messages) and messages[0]["role"] == "system")
        return messages[:first] + messages[starts[exchanges] if exchanges else first :]


class Turn:
    """One answer of a dialogue: iterate for its text, once. Made by ``Chat.say``.

    Attributes:
        answer: how far it is, why it ended, how fast it went: ``answer.progress``.
        text: what has come so far.
    """

    def __init__(self, chat: Chat, asked: dict[str, Any], answer: Answer) -> None:
        self.answer, self.text = answer, ""
        self._chat, self._asked = chat, asked
        self._pieces = self._say()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def stop(self) -> None:
        """End the answer where it is. What has come so far is kept."""
        self._pieces.close()

    def _say(self) -> Generator[str]:
        messages = self._chat.messages
        messages.append(self._asked)
        try:
            for piece in self.answer:
                self.text += piece
                yield piece
        finally:
            if self.text or self.answer.progress.finish == "stop":
                messages.append({"role": "assistant", "content": self.text})
            else:
                messages[:] = [message for message in messages if message is not self._asked]


def format_for(model: Model, template: str | None = None, variables: Mapping[str, Any] | None = None) -> ChatFormat:
    """The template that ``Model.chat`` is asked for, or the model's own. Raises as that does."""
    data, tokenizer = model.tokenizer_data, model.tokenizer
    if data is None or tokenizer is None:
        raise RunError("chat: this plan has no tokenizer; compile with --tokenizer")
    if template is None:
        source = data.chat_template or _guessed(list(tokenizer.special_names))
    elif template in data.other_templates:
        source = data.other_templates[template]
    elif template in NAMES:
        source = template_named(template)
    elif "{" in template:
        source = template
    else:
        known = ", ".join([*data.other_templates, *NAMES])
        raise RunError(f"chat template {template!r:.60}: not known; expected one of {known}, or Jinja")
    if not source:
        raise RunError(
            f"chat: this model comes without a chat template; choose the one it was trained on, of {', '.join(NAMES)}"
        )
    return ChatFormat(source, tokenizer, data.special_tokens, variables=variables)


def _guessed(special: Sequence[str]) -> str:
    """A template by the special tokens that only its dialogues have, '' where none tells."""
    return next((template_named(name) for token, name in _TELLING.items() if token in special), "")


__all__ = ["Chat", "ContextFullError", "TemplateError", "Turn", "format_for"]
