"""Dialogues: every turn is what encoding all of it afresh would be, whatever was stopped, dropped or loaded."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.api.chat import Chat
from graphllm.api.model import Model
from graphllm.errors import ContextFullError, GraphLLMError, PlanError, RunError, TemplateError
from graphllm.runtime.chat.format import ChatFormat
from tests.checkpoint_writers import write_huggingface
from tests.made_tokenizers import byte_level_file
from tests.model_zoo import ZOO, random_tensors
from tests.shared_data import shared
from tests.small_tokenizer import write_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights with a tokenizer of bytes, and a template in its config."""
    folder = tmp_path_factory.mktemp("chat")
    write_huggingface(folder / "hf", ZOO["odd_sizes"], random_tensors(ZOO["odd_sizes"], np.random.default_rng(5)))
    write_tokenizer(folder / "hf" / "tokenizer.bin")
    others = [{"name": "default", "template": TEMPLATE}, {"name": "loud", "template": TEMPLATE + "!"}]
    (folder / "hf" / "tokenizer_config.json").write_text(json.dumps({"chat_template": others, "eos_token": "</s>"}))
    return graphllm.compile(folder / "hf", folder / "m.gllm", context=512, slots=2, kv_dtype="f32").path


@pytest.fixture(scope="module")
def model(plan: Path) -> Model:
    return graphllm.load(plan)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose answers are words, so that what it says is encoded as it said it."""
    folder = tmp_path_factory.mktemp("story")
    source = shared("real/stories260K-hf")
    return graphllm.load(graphllm.compile(source, folder / "s.gllm", context=512, kv_dtype="f32").path)


def said(turn: Any) -> list[int]:
    return list(turn.answer.progress.tokens)


def test_a_message_of_parts_is_its_text(model: Model) -> None:
    chat = model.chat()
    parts = [{"type": "text", "text": "he"}, {"text": "llo"}]
    whole, cut = ([{"role": "user", "content": content}] for content in ("hello", parts))
    assert chat.format.encode(cut) == chat.format.encode(whole)
    chat.messages[:] = cut
    assert chat.undo() == "hello"


# The law: a dialogue is what its messages say


def check_afresh(chat: Chat, before: list[dict[str, Any]], text: str, other: Model) -> None:
    """One turn, against the whole dialogue encoded and computed from nothing by another model."""
    asked = [*before, {"role": "user", "content": text}]
    turn = chat.say(text, max_tokens=12, logprobs=5)
    shown = "".join(turn)
    fresh = ChatFormat(chat.format.template, other.tokenizer, chat.format.special_tokens, chat.format.now)  # pyright: ignore[reportArgumentType]
    assert turn.answer.prompt_ids == fresh.encode(asked)
    alone = other.generate(fresh.encode(asked), max_tokens=12, logprobs=5)
    assert turn.answer.progress.tokens == list(alone.tokens)
    for ours, theirs in zip(turn.answer.progress.logprobs, alone.logprobs, strict=True):
        assert ours.token == theirs.token
        assert ours.logprob == pytest.approx(theirs.logprob, abs=2e-4)
    assert chat.messages == [*asked, {"role": "assistant", "content": shown}]


@pytest.mark.parametrize("template", ["llama-2", "mistral", "zephyr", "loud", None])
def test_turns_equal_the_whole_dialogue_afresh(plan: Path, model: Model, template: str | None) -> None:
    chat, other = model.chat(template=template, system="é"), graphllm.load(plan)
    rng = random.Random(template)
    kept: list[int] = []
    for turn in range(5):
        text = "".join(rng.choice("etao </s>\n😀") for _ in range(rng.randrange(1, 12)))
        check_afresh(chat, list(chat.messages), text, other)
        assert chat.turn is not None
        kept.append(chat.turn.answer.progress.kept_tokens)
        if turn == 2:
            for piece in chat.say("stopped"):
                assert piece
                break
            assert chat.turn is not None
            chat.turn.stop()
    assert all(n > 0 for n in kept[1:])


@pytest.mark.parametrize(
    ("template", "end", "ends"),
    [("llama-3", "<|eot_id|>", {"<|end_of_text|>", "<|eot_id|>"}), ("chatml", "<|im_end|>", {"<|im_end|>"})],
)
def test_turns_of_special_tokens_equal_the_whole_dialogue_afresh(
    tmp_path: Path, template: str, end: str, ends: set[str]
) -> None:
    """With vocabularies that have the tokens of these templates, where the others above are spelled in bytes."""
    from tokenizers import Tokenizer

    config = replace(ZOO["odd_sizes"], vocab=512, context=512, eos_ids=(7, 9))
    write_huggingface(tmp_path / "hf", config, random_tensors(config, np.random.default_rng(5)))
    if template == "llama-3":
        ranks = b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256))
        (tmp_path / "hf" / "tokenizer.model").write_bytes(ranks)
    else:
        library = Tokenizer.from_str(byte_level_file().decode("utf-8"))
        library.add_special_tokens(["<|im_start|>"])
        library.save(str(tmp_path / "hf" / "tokenizer.json"))
    plan = graphllm.compile(tmp_path / "hf", tmp_path / "m.gllm", target="numpy", kv_dtype="f32").path
    model, other = (graphllm.load(plan, device="numpy") for _ in range(2))
    chat = model.chat(template=template, system="be brief")
    assert model.tokenizer is not None
    names = model.tokenizer.special_names
    assert chat.format.end_ids == {names[end]}
    assert model.stop_ids == {7, 9, *(names[name] for name in ends)}  # the config's and the tokenizer's
    for i, text in enumerate(("Once upon a time", f"é {end} 😀", "  go on\n")):
        check_afresh(chat, list(chat.messages), text, other)
        assert chat.turn is not None
        assert chat.turn.answer.prompt_ids.count(names[end]) == 2 * i + 2
        assert (chat.turn.answer.progress.kept_tokens > 0) == (i > 0)


def test_words_come_back_from_the_cache(story: Model) -> None:
    """Where a template writes an answer as the model said it, nothing of it is fed twice."""
    chat = story.chat(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    ends: list[int] = []
    for text in ("Once upon a time", " Then", " One day"):
        assert chat.ask(text, max_tokens=20)
        assert chat.turn is not None
        p = chat.turn.answer.progress
        assert p.kept_tokens == (ends[-1] if ends else 0)
        ends.append(p.prompt_tokens + len(p.tokens) - 1)  # the last token was not fed
    assert chat.ask(" So", max_tokens=1)


def test_dropped_undone_and_loaded_dialogues_go_on_as_if_afresh(plan: Path, model: Model, tmp_path: Path) -> None:
    chat, other = model.chat(system="s"), graphllm.load(plan)
    for text in ("one", "two", "three"):
        chat.ask(text, max_tokens=6)
    assert chat.drop(1) == 1
    assert [m["role"] for m in chat.messages] == ["system", *["user", "assistant"] * 2]
    assert chat.messages[1]["content"] == "two"
    check_afresh(chat, list(chat.messages), "four", other)
    assert chat.undo() == "four"
    assert chat.undo() == "three"
    check_afresh(chat, list(chat.messages), "five", other)
    chat.save(tmp_path / "c.json")
    held = list(chat.messages)
    chat.reset()
    assert chat.messages == [{"role": "system", "content": "s"}]
    check_afresh(chat, list(chat.messages), "six", other)
    chat.load(tmp_path / "c.json")
    assert chat.messages == held
    check_afresh(chat, held, "seven", other)
    loaded = other.chat()
    loaded.load(tmp_path / "c.json")
    assert (loaded.messages, loaded.format.now) == (held, chat.format.now)
    chat.set_system("other")
    check_afresh(chat, list(chat.messages), "eight", other)
    chat.set_system(None)
    assert chat.system is None
    check_afresh(chat, list(chat.messages), "nine", other)
    assert chat.drop(99) > 0
    assert (chat.messages, chat.undo(), chat.ids()) == ([], None, [])


def test_what_else_a_model_does_between_turns_changes_nothing(plan: Path, model: Model) -> None:
    chat, other = model.chat(), graphllm.load(plan)
    for between in (
        lambda: model.generate("something else", max_tokens=3),
        lambda: model.logits([1, 2, 3]),
        lambda: model.complete(["a", "b", "c"], max_tokens=4),
        lambda: model.chat(template="zephyr").ask("hello", max_tokens=3),
        lambda: None,
    ):
        check_afresh(chat, list(chat.messages), "go on", other)
        between()


def test_an_interrupted_answer_is_kept_as_far_as_it_came(plan: Path, model: Model) -> None:
    chat, other = model.chat(), graphllm.load(plan)
    turn = chat.say("hello", max_tokens=100)
    first = next(iter(turn))
    turn.stop()
    assert chat.messages[-1] == {"role": "assistant", "content": first} == {"role": "assistant", "content": turn.text}
    check_afresh(chat, list(chat.messages), "and now", other)

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    held, step, steps = list(chat.messages), model.engine.step, iter(range(8))

    def some(token: int, slot: int = 0) -> Any:
        return step(token, slot) if next(steps, None) is not None else interrupted()

    model.engine.step = some  # Ctrl-C while the ninth token is computed
    try:
        with pytest.raises(KeyboardInterrupt):
            list(chat.say("again", max_tokens=99))
    finally:
        model.engine.step = step
    assert chat.turn is not None
    assert chat.messages == [
        *held,
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": chat.turn.text},
    ]
    assert chat.turn.text
    feed, model.engine.feed = model.engine.feed, interrupted  # in the prompt: nothing has come
    held = list(chat.messages)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(chat.say("once more", max_tokens=9))
    finally:
        model.engine.feed = feed
    assert chat.messages == held
    check_afresh(chat, held, "at last", other)


def test_a_stop_text_and_a_limit_end_an_answer(model: Model) -> None:
    chat = model.chat()
    whole = chat.ask("hello", max_tokens=20)
    cut = next(c for c in whole[4:] if c not in whole[:4])
    chat.reset()
    assert chat.ask("hello", max_tokens=20, stop=[cut]) == whole[: whole.index(cut)]
    assert chat.turn is not None
    assert chat.turn.answer.progress.finish == "stop"


# A context that is full


def test_a_full_context_says_what_dropping_would_help(model: Model) -> None:
    chat = model.chat(system="s" * 50)
    for i in range(99):
        held = list(chat.messages)
        try:
            chat.ask(f"{i} " + "x" * 40, max_tokens=8)
        except ContextFullError as error:
            full = error
            break
    else:
        raise AssertionError("the context never filled")
    assert chat.messages == held  # nothing was lost, nothing was dropped
    assert (full.context, full.needed > 512) == (512, True)
    assert full.drops
    for exchanges, left in full.drops:
        assert f"dropping the oldest {'exchange' if exchanges == 1 else f'{exchanges} exchanges'} leaves {left}" in str(
            full
        )
        other = model.chat(system="s" * 50)
        other.messages[:] = [dict(m) for m in held]
        assert other.drop(exchanges) == exchanges
        asked = [*other.messages, {"role": "user", "content": f"{i} " + "x" * 40}]
        assert len(other.format.encode(asked)) == left
    assert full.drops[0][1] <= 512 - 32 < full.needed
    chat.drop(full.drops[0][0])
    assert chat.ask(f"{i} " + "x" * 40, max_tokens=8) is not None
    with pytest.raises(ContextFullError) as hopeless:
        chat.say("x" * 2000)
    assert hopeless.value.drops == ()
    assert str(hopeless.value).count("\n") == 0


def test_an_answer_that_fills_the_context_says_so(story: Model) -> None:
    chat = story.chat(template="{% for m in messages %}{{ m.content }}{% endfor %}")
    text = chat.ask("Once upon a time", max_tokens=None, stop=[])
    assert chat.turn is not None
    progress = chat.turn.answer.progress
    assert progress.finish in ("context", "stop")
    assert chat.messages[-1]["content"] == text
    if progress.finish == "context":
        assert progress.prompt_tokens + len(progress.tokens) == story.engine.context + 1


# Templates and sessions that are not what they should be


def test_which_template(model: Model, story: Model, tmp_path: Path) -> None:
    assert model.chat().format.template == TEMPLATE
    assert model.chat(template="loud").format.template == TEMPLATE + "!"
    assert model.chat(template="{{ messages }}").format.template == "{{ messages }}"
    with pytest.raises(RunError, match=r"'nothing': not known; expected one of loud, chatml, llama-2,"):
        model.chat(template="nothing")
    with pytest.raises(
        RunError, match=r"^chat: this model comes without a chat template; choose .* of chatml, llama-2"
    ):
        story.chat()
    write_huggingface(tmp_path / "hf", ZOO["one_layer"], random_tensors(ZOO["one_layer"], np.random.default_rng(5)))
    silent = graphllm.load(graphllm.compile(tmp_path / "hf", tmp_path / "m.gllm").path)
    with pytest.raises(RunError, match=r"^chat: this plan has no tokenizer"):
        silent.chat(template="chatml")


def test_a_template_that_refuses_changes_nothing(model: Model) -> None:
    chat = model.chat(template="llama-2")
    chat.messages[:] = [{"role": "user", "content": "a"}]
    with pytest.raises(TemplateError, match="must alternate"):
        chat.say("b")
    assert chat.messages == [{"role": "user", "content": "a"}]


GOOD: dict[str, Any] = {"format": "graphllm chat", "version": 1, "began": 1.5, "messages": []}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "expected a saved chat of version 1"),
        (b"[" * 100_000, "nested deeper"),
        (json.dumps(GOOD | {"version": 2}).encode(), "version 1"),
        (json.dumps(GOOD | {"messages": None}).encode(), "messages: expected a list"),
        (json.dumps(GOOD | {"messages": [1]}).encode(), r"messages\[0\]: expected an object"),
        (json.dumps(GOOD | {"messages": [{"role": "user"}]}).encode(), r"messages\[0\]: content"),
        (json.dumps(GOOD | {"messages": [{"role": "<|x|>", "content": ""}]}).encode(), r"messages\[0\]: role"),
        (json.dumps(GOOD | {"messages": [{"role": "user", "content": "\ud800"}]}).encode(), "not valid JSON"),
        (json.dumps(GOOD | {"began": None}).encode(), "began"),
        (json.dumps(GOOD | {"began": -1}).encode(), "began"),
        (json.dumps(GOOD | {"began": 1e300}).encode(), "began"),
        (json.dumps(GOOD | {"began": True}).encode(), "began"),
        (json.dumps(GOOD | {"variables": []}).encode(), "variables"),
        (json.dumps(GOOD | {"tools": {}}).encode(), "tools"),
        (json.dumps(GOOD | {"tools": [1]}).encode(), "tools"),
        (json.dumps(GOOD)[:-1].encode() + b',"messages":[]}', "appears twice"),
    ],
)
def test_a_file_that_is_no_session_changes_nothing(model: Model, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    chat = model.chat(system="s")
    with pytest.raises(RunError, match=words) as caught:
        chat.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert chat.messages == [{"role": "system", "content": "s"}]


def test_sessions_and_the_disk(model: Model, tmp_path: Path) -> None:
    chat = model.chat(variables={"x": 1})
    chat.ask("hello", max_tokens=3)
    path = tmp_path / "c.json"
    chat.save(path)
    assert json.loads(path.read_text("utf-8"))["messages"] == chat.messages
    calls: list[tuple[Callable[[], None], str]] = [
        (lambda: chat.load(tmp_path), "not a regular file"),
        (lambda: chat.load(tmp_path / "nowhere"), "no such file"),
        (lambda: chat.load("a\0b"), "no such file|cannot be read"),
        (lambda: chat.save(tmp_path / "no" / "c.json"), "no"),
    ]
    for call, words in calls:
        with pytest.raises((RunError, PlanError), match=words):
            call()
    refusing = model.chat(template="{{ raise_exception('never') }}")
    with pytest.raises(TemplateError, match="never"):
        refusing.load(path)
    assert refusing.messages == []
    assert issubclass(ContextFullError, GraphLLMError)
