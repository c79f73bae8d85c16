"""What can be asked for in a chat beside an answer: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graphllm.cli.terminal import harmless, say
from graphllm.errors import RunError

if TYPE_CHECKING:
    from graphllm.api.chat import Chat
    from graphllm.cli.chat import Dialogue


def do(dialogue: Dialogue, line: str) -> None:
    """Carry out one line. Raises GraphLLMError where it cannot be."""
    name, _, rest = line.partition(" ")
    command = _COMMANDS.get(name)
    if command is None:
        raise RunError(f"{name}: no such command; /help tells them, and // begins a message that begins with a slash")
    command[2](dialogue, rest.strip())


def speed(chat: Chat) -> str:
    """What the last answer took, in a line."""
    if chat.turn is None:
        return "nothing was answered yet"
    p, context = chat.turn.answer.progress, chat.model.engine.context
    return (
        f"prompt {p.prompt_tokens} tokens, {p.kept_tokens} of them kept, {p.prefill_speed:.1f} tok/s · "
        f"answer {len(p.tokens)}, {p.decode_speed:.1f} tok/s · "
        f"{p.prompt_tokens + len(p.tokens)} of {context} positions · seed {chat.turn.answer.seed}"
    )


def _help(dialogue: Dialogue, rest: str) -> None:
    for name, (argument, what, _) in _COMMANDS.items():
        print(f"  {f'{name} {argument}':<18}{what}")
    print('  """                begins a message of several lines, and ends it')
    print("  Alt-Enter         a new line    Ctrl-X Ctrl-E  edits the message in $EDITOR", flush=True)


def _reset(dialogue: Dialogue, rest: str) -> None:
    dialogue.chat.reset()
    say("begun anew" + (", the system message is kept" if dialogue.chat.system else ""))


def _system(dialogue: Dialogue, rest: str) -> None:
    if rest:
        dialogue.chat.set_system(rest)
    else:
        print(harmless(dialogue.chat.system or "(none)"), flush=True)


def _undo(dialogue: Dialogue, rest: str) -> None:
    if dialogue.chat.undo() is None:
        raise RunError("/undo: nothing was said yet")
    say("the last exchange is taken back")


def _retry(dialogue: Dialogue, rest: str) -> None:
    text = dialogue.chat.undo()
    if text is None:
        raise RunError("/retry: nothing was said yet")
    dialogue.answer(text)


def _drop(dialogue: Dialogue, rest: str) -> None:
    if not rest.isdecimal() or len(rest) > 9:
        raise RunError(f"/drop {rest}: expected how many of the oldest exchanges to forget")
    dropped, chat = dialogue.chat.drop(int(rest)), dialogue.chat
    say(f"forgot {dropped} exchanges; {len(chat.ids())} of {chat.model.engine.context} positions are taken")


def _save(dialogue: Dialogue, rest: str) -> None:
    if not rest:
        raise RunError("/save: expected a file to save to")
    dialogue.chat.save(_path(rest))
    say(f"saved: {rest}")


def _load(dialogue: Dialogue, rest: str) -> None:
    if not rest:
        raise RunError("/load: expected a file to load")
    dialogue.chat.load(_path(rest))
    say(f"loaded: {rest}, {len(dialogue.chat.messages)} messages, {len(dialogue.chat.ids())} tokens")


def _path(name: str) -> Path:
    """No shell reads these lines, and people write as if one did."""
    with suppress(RuntimeError):  # a user whom nobody knows
        return Path(name).expanduser()
    return Path(name)


def _tokens(dialogue: Dialogue, rest: str) -> None:
    ids, chat = dialogue.chat.ids(), dialogue.chat
    if rest:
        tokenizer = chat.format.tokenizer
        print("  ".join(f"{i}:{tokenizer.piece(i)!r}" for i in ids))
    print(f"{len(ids)} tokens of {chat.model.engine.context} positions, {len(chat.messages)} messages", flush=True)


def _speed(dialogue: Dialogue, rest: str) -> None:
    print(speed(dialogue.chat), flush=True)


def _exit(dialogue: Dialogue, rest: str) -> None:
    dialogue.ended = True


_COMMANDS: dict[str, tuple[str, str, Callable[[Dialogue, str], None]]] = {
    "/help": ("", "this list", _help),
    "/reset": ("", "begin anew; the system message stays", _reset),
    "/system": ("[TEXT]", "show or change what the model is told first", _system),
    "/undo": ("", "take back the last exchange", _undo),
    "/retry": ("", "answer the last message again", _retry),
    "/drop": ("N", "forget the oldest N exchanges", _drop),
    "/save": ("FILE", "save the chat", _save),
    "/load": ("FILE", "go on with a saved chat", _load),
    "/tokens": ("[all]", "how many tokens the chat has, or all of them", _tokens),
    "/speed": ("", "what the last answer took", _speed),
    "/exit": ("", "end; Ctrl-D does, too", _exit),
}
NAMES = tuple(_COMMANDS)
