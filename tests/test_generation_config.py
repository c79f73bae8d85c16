"""What a model's makers advise of sampling: read, kept in the plan, and overridden by what is asked for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import graphllm
from graphllm.cli.arguments import build_parser
from graphllm.cli.chat import sampling
from graphllm.cli.choices import sampler_choices
from graphllm.errors import CheckpointError, PlanError
from graphllm.frontends.generation_config import read_sampling
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import random_tensors
from tests.small_plans import SMALL, forged

QWEN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        (QWEN, {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}),
        (QWEN | {"do_sample": False}, {}),
        ({"temperature": 0.7}, {}),
        ({"do_sample": True, "temperature": 1, "top_p": 1, "top_k": 0, "min_p": None, "x": 1}, {"temperature": 1}),
        ({"do_sample": True, "temperature": 0, "top_k": -1}, {"temperature": 0}),
    ],
)
def test_what_is_advised(tmp_path: Path, said: dict[str, Any], settings: dict[str, float]) -> None:
    assert read_sampling(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert read_sampling(tmp_path) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        *({"temperature": value} for value in (-1, "hot", float("nan"))),
        *({"top_p": 1.5}, {"top_k": 2.5}, {"top_k": 2**40}, {"repetition_penalty": 1e9}, {"do_sample": "yes"}),
    ],
)
def test_what_no_setting_can_be(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True} | wrong))
    with pytest.raises(CheckpointError, match=rf"generation_config.json: {next(iter(wrong))} is .*expected"):
        read_sampling(tmp_path)


def chat_arguments(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["chat", "m.gllm", *words])


def test_a_chat_samples_as_advised_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL, 1))
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps(QWEN | {"eos_token_id": [3, 7]}))
    graphllm.compile(tmp_path / "hf", tmp_path / "m.gllm", target="numpy")
    model = graphllm.load(tmp_path / "m.gllm", device="numpy")
    assert model.sampling == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    assert model.stop_ids == {3, 7}
    assert len(model.generate([1, 2], max_tokens=2, ignore_eos=True, **model.sampling).tokens) == 2
    assert sampling(model, sampler_choices(chat_arguments())) == model.sampling
    listed = ", ".join(f"{name} {value:g}" for name, value in model.sampling.items())
    assert capsys.readouterr().err == f"graphllm: sampling as the model's makers advise: {listed}\n"
    mine = sampling(model, sampler_choices(chat_arguments("-t", "0", "--top-p", "1", "--seed", "5")))
    assert mine == {"temperature": 0, "top_p": 1, "seed": 5, "top_k": 20, "repetition_penalty": 1.05}
    other = sampling(model, sampler_choices(chat_arguments("--sampler", "llama2.c")))
    assert other == {"temperature": 0.7, "variant": "llama2.c"}
    forged(tmp_path / "m.gllm", tmp_path / "f.gllm", documents={"sampling": {"temperature": "hot"}})
    with pytest.raises(PlanError, match=r"record of sampling: sampler: temperature = 'hot'"):
        _ = graphllm.load(tmp_path / "f.gllm", device="numpy").sampling


def test_token_ids_end_an_answer(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL, 1))
    model = graphllm.load(graphllm.compile(tmp_path / "hf", tmp_path / "m.gllm", target="numpy").path, device="numpy")
    whole = model.generate([1, 2], max_tokens=8, ignore_eos=True)
    last = next(i for i, token in enumerate(whole.tokens) if i > 1 and token not in whole.tokens[:i])
    cut = model.generate([1, 2], max_tokens=8, ignore_eos=True, stop=[whole.tokens[last]])
    assert (cut.tokens, cut.finish) == (whole.tokens[:last], "stop")
    (batched,) = model.complete([[1, 2]], max_tokens=8, ignore_eos=True, stop=[whole.tokens[last]])
    assert (batched.tokens, batched.finish) == (cut.tokens, "stop")
    for wrong in ([SMALL.vocab], [-1], [True], [1.5], 3):
        with pytest.raises(graphllm.RunError, match=r"^stop: .*; expected a list of texts, and of token ids below 11$"):
            model.generate([1], stop=wrong)  # type: ignore[arg-type]
