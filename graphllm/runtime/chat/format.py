"""How a model talks: its chat template and its tokenizer together turn messages into ids."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, cast

from graphllm.errors import RunError, TemplateError
from graphllm.runtime.chat.literal import Literals
from graphllm.runtime.chat.renderer import render
from graphllm.runtime.tokenizer import Tokenizer

Message: TypeAlias = Mapping[str, Any]  # role and content, and what else templates know: tool_calls, name …

_PROBE = "graphllm"  # a word to look for in what a template makes of it


class ChatFormat:
    """A template with the special tokens it names, and what else it knows: ``date_string``, ``enable_thinking`` …

    ``now`` is the date it writes, the same as long as this lives: a dialogue over midnight stays the dialogue it was,
    and what a cache holds of it stays good.
    """

    def __init__(
        self,
        template: str,
        tokenizer: Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        now: float | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.template, self.tokenizer = template, tokenizer
        self.variables = dict(variables or {})
        self.now = time.time() if now is None else now
        own = {"bos_token": tokenizer.bos_id, "eos_token": next(iter(tokenizer.eos_ids), None)}
        self.special_tokens = {name: tokenizer.piece(i) for name, i in own.items() if i is not None}
        self.special_tokens |= special_tokens or {}

    def encode(
        self,
        messages: Sequence[Message],
        *,
        answer: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """The ids of a dialogue.

        Args:
            messages: role and content each. Names of special tokens in them are plain text.
            answer: end where the assistant's answer begins.
            tools: JSON descriptions of functions, for templates that know tools.

        Raises:
            TemplateError: the template is damaged, does not come to an end, or refuses these messages.
            RunError: messages that are not such.
            TokenizerError: they are not valid Unicode.
        """
        return self.tokenizer.encode_parts(self._parts(messages, answer, tools))

    def render(
        self,
        messages: Sequence[Message],
        *,
        answer: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The dialogue as one text, before it becomes ids. Args and errors are those of ``encode``."""
        return "".join(text for text, _ in self._parts(messages, answer, tools))

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The special token that the template puts behind an answer, where it does; it ends answers."""
        dialogue = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            _, found, behind = self.render(dialogue, answer=False).rpartition(_PROBE)
        except TemplateError:  # what is wrong will be told when it is used
            return frozenset()
        behind = behind.lstrip()
        names = [name for name in self.tokenizer.special_names if name and behind.startswith(name)]
        return frozenset({self.tokenizer.special_names[max(names, key=len)]}) if found and names else frozenset()

    def _parts(
        self,
        messages: Sequence[Message],
        answer: bool,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> list[tuple[str, bool]]:
        check_messages(messages)
        values = {
            "documents": None,
            **self.variables,
            "messages": [_flat(message) for message in messages],
            "tools": list(tools) if tools else None,
        }
        try:
            literals = Literals(self.tokenizer.special_names, values, self.template)
        except RecursionError:
            raise RunError("messages: nested too deeply") from None
        ours = {**self.special_tokens, "add_generation_prompt": answer}
        return literals.parts(render(self.template, {**ours, **literals.values}, now=self.now))


def check_messages(messages: object) -> None:
    """Raise RunError unless ``messages`` is a list of objects with a role and a text (None where tools are called)."""
    if not isinstance(messages, list | tuple) or not messages:
        raise RunError(f"messages: expected a list of at least one, got {repr(cast('object', messages))[:40]}")
    for i, message in enumerate(cast("list[object]", messages)):
        if not isinstance(message, Mapping):
            raise RunError(f"messages[{i}]: expected an object with role and content, got {str(message)[:40]!r}")
        fields = cast("Mapping[object, object]", message)
        role = fields.get("role")
        if not isinstance(role, str) or not role.replace("_", "").isalnum():
            raise RunError(f"messages[{i}]: role: {str(role)[:40]!r}; expected system, user, assistant or tool")
        content = fields.get("content")
        silent = content is None and ("tool_calls" in fields or role == "assistant")
        if not silent and not isinstance(content, str) and not _are_texts(content):
            got = str(content)[:40]
            raise RunError(f"messages[{i}]: content: {got!r}; expected a text, or a list of texts")


def _are_texts(parts: object) -> bool:
    if not isinstance(parts, list):
        return False
    for part in cast("list[object]", parts):
        said = cast("Mapping[object, object]", part if isinstance(part, Mapping) else {})
        if not isinstance(said.get("text"), str) or said.get("type", "text") != "text":
            return False
    return True


def text_of(content: object) -> str:
    """A message's text, which may be written as a list of parts: ``[{"type": "text", "text": …}, …]``."""
    if isinstance(content, list):
        return "".join(part["text"] for part in cast("list[Mapping[str, str]]", content))
    return str(content)


def _flat(message: Message) -> Message:
    """With its text as one: most templates know no parts, and those that do put them together like this."""
    content = message.get("content")
    return {**message, "content": text_of(cast("object", content))} if isinstance(content, list) else message
