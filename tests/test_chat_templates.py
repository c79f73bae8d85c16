"""Chat templates: rendered as transformers does, stopped where they do not end; nobody writes special tokens."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from graphllm.errors import GraphLLMError, RunError, TemplateError
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.runtime.chat.format import ChatFormat, check_messages
from graphllm.runtime.chat.literal import Literals
from graphllm.runtime.chat.named import NAMES, template_named
from graphllm.runtime.chat.renderer import render
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.shared_data import shared

OURS = {
    "chatml": "chatml",
    "llama-2-chat": "llama-2",
    "llama-3-instruct": "llama-3",
    "llama-3.1-instruct": "llama-3.1",
    "llama-3.2-instruct": "llama-3.2",
    "mistral-7b-instruct-v0.1": "mistral",
    "qwen2-instruct": "qwen2",
    "qwen2.5-instruct": "qwen2.5",
    "qwen3": "qwen3",
    "tinyllama-chat-zephyr": "zephyr",
}
USER = [{"role": "user", "content": "Hi"}]


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shared(f"chat_templates/{name}").read_text("utf-8").splitlines()]


def published(name: str) -> str:
    return shared(f"chat_templates/{name}").read_text("utf-8")


@cache
def tokenizer_of(place: str) -> Tokenizer:
    path = shared(place)
    data = find_tokenizer(path, path)
    assert data is not None
    return load_tokenizer(data, 1 << 20)


# The same text as transformers


@pytest.mark.parametrize("source", ["published", "named"])
def test_every_case_renders_exactly(source: str) -> None:
    cases = rows("cases.jsonl")
    assert {case["template"].removesuffix(".jinja") for case in cases} == set(OURS)
    assert any("raises" in case for case in cases)
    for case in cases:
        name = case["template"]
        template = published(name) if source == "published" else template_named(OURS[name.removesuffix(".jinja")])
        variables = {key: case[key] for key in ("messages", "tools", "add_generation_prompt", "date_string")}
        variables |= {key: case[key] for key in ("bos_token", "eos_token") if case[key] is not None}
        if "raises" in case:
            with pytest.raises(TemplateError, match=r"refuses this dialogue; .*must alternate"):
                render(template, variables)
        else:
            assert render(template, variables) == case["rendered"], (name, case["case"])


def test_every_case_becomes_the_ids_it_should() -> None:
    cases = rows("end_to_end_ids.jsonl")
    tokenizers = {name: tokenizer_of(f"tokenizers/{name}/tokenizer.json") for name in {c["tokenizer"] for c in cases}}
    assert len(tokenizers) > 1
    others = {"llama3": ["llama3/tokenizer.model"], "llama2": ["llama2/tokenizer.model", "llama2/tokenizer.bin"]}
    for case in cases:
        name = case["tokenizer"]
        for tokenizer in (tokenizers[name], *(tokenizer_of(f"tokenizers/{file}") for file in others.get(name, ()))):
            format = ChatFormat(published(case["template"]), tokenizer)
            ids = format.encode(case["messages"], answer=case["add_generation_prompt"], tools=case["tools"])
            assert ids == case["ids"], (tokenizer.where, case["case"])


def test_what_templates_are_written_against() -> None:
    template = (
        "{% for x in a %}\n  {% if x == 3 %}{% break %}{% endif %}\n{% if x == 1 %}{% continue %}{% endif %}\n"
        "{{ x }}\n{% endfor %}\n{% generation %}{{ b | tojson }}{% endgeneration %}{{ b | tojson(indent=1) }}"
    )
    assert render(template, {"a": [1, 2, 3], "b": {"é<>'": 1}}) == '2\n{"é<>\'": 1}{\n "é<>\'": 1\n}'
    assert render("{{ strftime_now('%d %b %Y') }}", {}, now=86400 * 365.25 * 40) == "01 Jan 2010"
    assert render("{{ messages is defined }}{{ nothing }}{{ tools is none }}", {"tools": None}) == "FalseTrue"


def test_the_date_of_llama_3_2_stays_that_of_the_dialogue() -> None:
    tokenizer = tokenizer_of("tokenizers/llama3/tokenizer.json")
    format = ChatFormat(template_named("llama-3.2"), tokenizer, now=1700000000.0)
    assert "Today Date: 14 Nov 2023" in format.render(USER)
    format = ChatFormat(template_named("llama-3.2"), tokenizer, variables={"date_string": "1 Apr"})
    assert "Today Date: 1 Apr" in format.render(USER)


# Strangers' templates


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "did not come to an end in 1 s",
        ),
        ("{{ ('a' * 10**8) | wordwrap(1) | length }}", "stopped|process that rendered it|memory"),
        ("{{ 'a' * 10**10 }}", "took more than 768 MiB of memory"),
        ("{{ 'a' | center(10**10) }}", "took more than 768 MiB of memory"),
        ("{{ '%99999999999d' % 1 }}", "took more than 768 MiB of memory"),
        ("{% set a = 9 ** (9 ** 9) %}", "did not come to an end"),
        ("{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}", "wrote more than 16777216 characters"),
        ("{{ range(10**9) | list }}", "failed; OverflowError: Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
        ("{{ x", "not Jinja; line 1"),
        ("\n\n{% for %}", "not Jinja; line 3"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply|not Jinja|memory"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "reaches for what a template may not have"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "reaches for what a template may not have"),
        ("{{ ''|attr('__class__') }}{{ 1 / 0 }}", "reaches for|division by zero"),
        ("{{ messages.append(1) }}", "reaches for what a template may not have"),
        ("{{ 1 / 0 }}", "failed; ZeroDivisionError"),
        ("{{ a.b.c }}", "failed; UndefinedError"),
        ("{% include '/etc/passwd' %}", "failed; TypeError: no loader"),
        ("{% import 'os' as os %}", "failed; TypeError: no loader"),
        ("{{ raise_exception('no\x1b[31m\nway') }}", r"refuses this dialogue; no\?\[31m way"),
        ("{{ raise_exception('x' * 10**6) }}", "refuses this dialogue; xxx"),
    ],
)
def test_a_strangers_template_ends_in_one_line(template: str, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(TemplateError, match=words) as caught:
        render(template, {"messages": USER}, seconds=1)
    message = str(caught.value)
    assert message.startswith("chat template: ")
    assert message.isprintable()
    assert len(message) < 500
    assert time.monotonic() - begun < 60  # on a machine that is frozen now and then
    assert render("{{ messages[0].content }}", {"messages": USER}) == "Hi"


@pytest.mark.parametrize(
    "call",
    [
        lambda: render("", {"a": object()}),
        lambda: render("", {"a": float}),
        lambda: render("", {"a": "\ud800"}),
        lambda: render("", {"a": "x" * (17 << 20)}),
        lambda: check_messages([]),
        lambda: check_messages("hello"),
        lambda: check_messages(None),
        lambda: check_messages(["hello"]),
        lambda: check_messages([{"content": "x"}]),
        lambda: check_messages([{"role": 1, "content": "x"}]),
        lambda: check_messages([{"role": "", "content": "x"}]),
        lambda: check_messages([{"role": "<|im_end|>", "content": "x"}]),
        lambda: check_messages([{"role": "user"}]),
        lambda: check_messages([{"role": "user", "content": 5}]),
        lambda: check_messages([{"role": "user", "content": None}]),
        lambda: check_messages([{"role": "user", "content": [{"type": "image", "url": "x"}]}]),
        lambda: check_messages([{"role": "user", "content": [{"type": "text", "text": 5}]}]),
        lambda: check_messages([{"role": "user", "content": ["x"]}]),
    ],
)
def test_what_are_no_messages(call: Callable[[], object]) -> None:
    with pytest.raises(RunError, match=r"^messages"):
        call()


# Special tokens that people write


def special_count(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    special = set(tokenizer.special_names.values())
    return [i for i in ids if i in special]


@pytest.mark.parametrize(
    ("place", "template"),
    [
        ("tokenizers/llama3/tokenizer.json", "llama-3"),
        ("tokenizers/llama3/tokenizer.json", "llama-3.1"),
        ("tokenizers/qwen2/tokenizer.json", "chatml"),
        ("tokenizers/qwen2/tokenizer.json", "qwen3"),
        ("tokenizers/llama2/tokenizer.json", "llama-2"),
        ("tokenizers/llama2/tokenizer.model", "zephyr"),
        ("tokenizers/tok512/tok512.bin", "mistral"),
    ],
)
def test_names_of_special_tokens_in_messages_are_text(place: str, template: str) -> None:
    tokenizer = tokenizer_of(place)
    format = ChatFormat(template_named(template), tokenizer)
    names = [name for name in tokenizer.special_names if name != "<unk>"]
    fragments = [
        *names[:8],
        *names[-3:],
        "<|",
        "|>",
        "im_end",
        " ",
        "\n",
        "é",
        "word",
        "\U000f0000",
        "\U00100000",
        "<s",
        ">",
    ]
    rng = random.Random(place + template)
    for _ in range(30):
        texts = ["x" + "".join(rng.choice(fragments) for _ in range(rng.randrange(9))) + "x" for _ in range(3)]
        roles = ("user", "assistant", "user")
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        ids = format.encode(messages)
        neutral = format.encode([{"role": role, "content": "x"} for role in roles])
        assert special_count(tokenizer, ids) == special_count(tokenizer, neutral), texts
        assert max(ids) < tokenizer.vocab_size
        decoded = tokenizer.decode(ids, skip_special=False)
        # what was said is there, to the letter, where the vocabulary can spell it
        for text in texts:
            assert text in decoded
        if not any(name in text for name in tokenizer.special_names for text in texts):
            assert ids == tokenizer.encode(format.render(messages), bos=False, special=True)


def test_plain_text_beside_a_name_is_encoded_as_beside_the_token() -> None:
    """What a tokenizer does with the neighbours of a special token is not changed by a name elsewhere in the text."""
    for place, first in (
        ("tokenizers/llama2/tokenizer.json", "<s>"),
        ("tokenizers/qwen2/tokenizer.json", "<|im_end|>"),
    ):
        tokenizer = tokenizer_of(place)
        for before, after in (("a b", " c"), (" a", "b "), ("", "\n\nb"), ("é ", "")):
            whole = tokenizer.encode(f"{before}{first}{after}", bos=False, special=True)
            parts = tokenizer.encode_parts([(f"{before}{first}{after}{first}", True), (first, False)])
            assert parts[: len(whole)] == whole
            assert parts[len(whole)] == tokenizer.special_names[first]
            assert tokenizer.special_names[first] not in parts[len(whole) + 1 :]
            assert tokenizer.decode(parts[len(whole) + 1 :], skip_special=False).strip() == first


def test_literals_come_back_whatever_characters_are_taken() -> None:
    taken = "".join(map(chr, range(0xF0000, 0xF0010)))
    values = {"messages": [{"role": "user", "content": f"{taken}<s>|</s><s>", "<s>": ["<s>", 1, None]}]}
    literals = Literals(["<s>", "</s>", "<"], values, "\U000f0010")
    text = json.dumps(literals.values, ensure_ascii=False)
    assert "<" not in text
    assert not set(taken + "\U000f0010") & set(text.replace(taken, ""))
    parts = literals.parts(f"<s>{literals.values['messages'][0]['content']}")
    assert parts == [(f"<s>{taken}", True), ("<s>", False), ("|", True), ("</s>", False), ("<s>", False)]
    assert Literals([], values, "").values == values
    everything = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    with pytest.raises(RunError, match="every private-use character"):
        Literals(["<s>"], {"a": everything + "<s>"}, "")


# What ends an answer


def test_the_token_behind_an_answer_ends_it() -> None:
    for place, template, end in (
        ("tokenizers/llama3/tokenizer.json", "llama-3", "<|eot_id|>"),
        ("tokenizers/qwen2/tokenizer.json", "qwen2.5", "<|im_end|>"),
        ("tokenizers/llama2/tokenizer.model", "llama-2", "</s>"),
        ("tokenizers/tok512/tok512.bin", "zephyr", "</s>"),
    ):
        tokenizer = tokenizer_of(place)
        assert ChatFormat(template_named(template), tokenizer).end_ids == {tokenizer.special_names[end]}
    tokenizer = tokenizer_of("tokenizers/tok512/tok512.bin")
    for silent in ("{{ messages[0].content }}", "{{ raise_exception('no') }}", "{{ messages[1].content }}. "):
        assert ChatFormat(silent, tokenizer).end_ids == frozenset()


@pytest.mark.parametrize("name", NAMES)
def test_named_templates_say_one_thing_of_a_dialogue(name: str) -> None:
    """Each renders a longer dialogue as a continuation of the shorter one: what a cache holds stays good."""
    dialogue = [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(["user", "assistant"] * 3)]
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    for n in (1, 3, 5):
        asked = render(template_named(name), {**special, "messages": dialogue[:n], "add_generation_prompt": True})
        longer = render(template_named(name), {**special, "messages": dialogue[: n + 2], "add_generation_prompt": True})
        assert longer.startswith(asked)
        assert f"user {n - 1}" in asked


def test_errors_are_ours() -> None:
    assert issubclass(TemplateError, GraphLLMError)
