"""Checkpoint to plan to tokens in native code, the way a user goes, against independent implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.cli import main
from graphllm.compiler import kept
from graphllm.compiler.native import build
from graphllm.ir.printer import print_module
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.cores import logical_cores
from tests.checkpoint_writers import write_huggingface
from tests.cpu_models import quick_builds, shipped_builds
from tests.golden_checkpoints import DENSE_TINY
from tests.model_zoo import ZOO, random_tensors
from tests.shared_data import shared
from tests.test_goldens import REAL, TOKENIZERS, assert_logits
from tests.test_whole_models import MODELS, assert_model, close, ids_of, rounded

__all__ = ["quick_builds", "shipped_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def model_of(relative: str, folder: Path, **choices: Any) -> graphllm.Model:
    """A checkpoint of the public test data in native code, with a cache as exact as the goldens'."""
    tokenizer = TOKENIZERS.get(relative)
    plan = graphllm.compile(
        shared(relative),
        folder / "golden.gllm",
        tokenizer=shared(tokenizer) if tokenizer else None,
        target="cpu",
        **({"kv_dtype": "f32"} | choices),
    )
    return graphllm.load(plan.path, device="cpu", threads=2)


@pytest.mark.parametrize("name", DENSE_TINY)
def test_tiny(name: str, tmp_path: Path) -> None:
    folder, model = shared(f"tiny/{name}/golden"), model_of(f"tiny/{name}", tmp_path)
    for prompt, facts in document(folder / "golden.json")["prompts"].items():
        noise = facts["max_abs_err_hf_f32_vs_numpy_f64"]
        # bf16 weights meet the activations of a prompt's many rows as bf16
        prompt_bound = 3e-2 if "bf16" in name else 0.0
        assert_logits(model, facts["prompt_ids"], np.load(folder / f"logits_{prompt}.npy"), noise, prompt_bound)
        answer = model.generate(facts["prompt_ids"], max_tokens=48, ignore_eos=True)
        same = 16 if "bf16" in name else 48
        assert list(answer.tokens)[:same] == facts["greedy_ids"][:same]


@pytest.mark.usefixtures("shipped_builds")  # which many tokens are worth
@pytest.mark.parametrize("source", REAL)
def test_real_models(source: str, tmp_path: Path) -> None:
    model, golden = model_of(source, tmp_path), shared(REAL[source])
    meta = document(golden / "meta.json")
    noise = meta["max_abs_err_hf_f32_vs_numpy_f64"]
    assert_logits(model, meta["logits32_ids"], np.load(golden / "logits32.npy"), noise)
    for facts in document(golden / "greedy.json"):
        answer = model.generate(facts["prompt_ids"], max_tokens=200, ignore_eos=True)
        assert list(answer.tokens) == facts["greedy_ids"]
    ids, facts = document(golden / "ppl_ids.json"), meta["ppl"]
    nll: list[Any] = []
    for at in range(0, len(ids), facts["window"]):
        window = ids[at : at + facts["window"]]
        logits = model.logits([1, *window[:-1]]).astype(np.float64)
        top = logits.max(axis=1)
        nll.append(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(window)), window])
    assert abs(np.concatenate(nll).mean() - facts["mean_nll"]) < 1e-4


@pytest.mark.parametrize("source", ["real/stories260K/stories260K.bin", "real/story-hf"])
def test_the_cache_that_is_the_default(source: str, tmp_path: Path) -> None:
    """f16 keys and values: the first ids are the golden ones, and the logits stay near."""
    model, golden = model_of(source, tmp_path, kv_dtype=None), shared(REAL[source])
    assert {s.type.dtype for s in model.lowered.states.values()} == {"f16"}
    meta = document(golden / "meta.json")
    expected = np.load(golden / "logits32.npy")
    assert 0 < np.abs(model.logits(meta["logits32_ids"]) - expected).max() < 0.02 * np.abs(expected).max()
    facts = document(golden / "greedy.json")[0]
    answer = model.generate(facts["prompt_ids"], max_tokens=30, ignore_eos=True)
    assert list(answer.tokens) == facts["greedy_ids"][:30]


@pytest.mark.parametrize(("name", "dtype"), [("everything", "bf16"), ("tied", "f16"), ("window_some", "f32")])
def test_huggingface(tmp_path: Path, name: str, dtype: str) -> None:
    config, long = MODELS[name], {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]
    tensors = random_tensors(config, 4)
    write_huggingface(tmp_path / "model", config, tensors, long)
    model = graphllm.load(tmp_path / "model", device="cpu", kv_dtype="f32")
    assert model.engine.device.name == "cpu"
    assert_model(model, config, rounded(tensors, dtype), 4, 3e-2 if dtype == "bf16" else 1e-5)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "model", ZOO["plain"], random_tensors(ZOO["plain"], 2))
    return tmp_path / "model"


def test_a_plan_runs_on_either_device(checkpoint: Path, tmp_path: Path) -> None:
    """Whatever it was lowered for: it is lowered again, from the IR that it holds, and that is said."""
    ids, found = ids_of(ZOO["plain"], 3), list[Any]()
    for target in ("cpu", "numpy"):
        plan = graphllm.compile(checkpoint, tmp_path / f"{target}.gllm", target=target, kv_dtype="f32")  # type: ignore[arg-type]
        assert plan.target == target
        with PlanFile.open(plan.path) as file:
            assert {n for n in file.sections if "/" in n} == {f"lowered/{target}", f"source/{target}"}
        for device in ("cpu", "numpy"):
            said: list[str] = []
            model = graphllm.load(plan.path, device=device, say=said.append)  # type: ignore[arg-type]
            assert model.engine.device.name == device
            again = [line for line in said if line.startswith("lowered again")]
            assert again == (
                [] if device == target else [f"lowered again for {device}: the plan was made for {target}"]
            )
            found.append((device, print_module(model.lowered), model.logits(ids)))
    for device, lowered, logits in found:
        same = [f for f in found if f[0] == device]
        assert all(f[1] == lowered for f in same)
        assert all(f[2].tobytes() == logits.tobytes() for f in same)
    close(found[0][2], found[1][2].astype(np.float64))


def test_other_steps_are_lowered_for_the_device(checkpoint: Path, tmp_path: Path) -> None:
    plan, said = graphllm.compile(checkpoint, tmp_path / "p.gllm", target="cpu"), list[str]()
    model = graphllm.load(plan.path, device="cpu", context=24, slots=3, say=said.append)
    assert (model.engine.context, model.engine.slots) == (24, 3)
    assert said[0] == "lowered again for context 24, slots 3, f16 cache"
    answers = model.generate_batch([[1, 2], [3], [4, 5, 6]], max_tokens=5, ignore_eos=True)
    alone = graphllm.load(plan.path, device="cpu")
    assert [a.tokens for a in answers] == [
        alone.generate(p, max_tokens=5, ignore_eos=True).tokens for p in ([1, 2], [3], [4, 5, 6])
    ]


def test_the_default_is_cpu_and_says_so(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHLLM_TARGET")
    said: list[str] = []
    model = graphllm.load(checkpoint, say=said.append)
    assert model.engine.device.name == "cpu"
    assert {s.type.dtype for s in model.lowered.states.values()} == {"f16"}
    assert "target cpu" in said
    said.clear()
    graphllm.load(checkpoint, say=said.append)
    assert said == ["target cpu"]  # built before, and found again


def test_a_number_of_threads_that_makes_no_sense(checkpoint: Path) -> None:
    for threads in (-1, 1000):
        with pytest.raises(graphllm.RunError, match=rf"^threads: {threads}; expected 1 to 256"):
            graphllm.load(checkpoint, device="cpu", threads=threads)


def test_no_more_threads_than_processors(checkpoint: Path) -> None:
    said: list[str] = []
    model = graphllm.load(checkpoint, device="cpu", threads=200, say=said.append)
    most = logical_cores()
    assert model.engine.device.threads == most  # type: ignore[attr-defined]
    assert f"threads: 200 asked for, {most} used: more than there are processors would wait for each other" in said
    assert model.generate([1, 2, 3], max_tokens=3, ignore_eos=True).tokens


def test_the_command_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = str(tmp_path / "p.gllm")
    assert main(["compile", str(checkpoint), "-o", plan, "--target", "cpu"]) == 0
    assert "target cpu" in capsys.readouterr().out.splitlines()
    outputs: list[str] = []
    for choice in (["--device", "cpu"], ["--device", "cpu", "--threads", "1"], ["--device", "numpy"]):
        assert main(["run", plan, "--ids", "1 2 3", "-n", "6", *choice]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert main(["verify", plan]) == 0
    capsys.readouterr()
    for target, words in (("cpu", "\nvoid step_decode("), ("numpy", "def function_decode(")):
        for subject in (plan, str(checkpoint)):
            assert main(["show", subject, "--source", target]) == 0
            assert words in capsys.readouterr().out


def test_the_text_in_a_plan_is_never_built(checkpoint: Path, tmp_path: Path) -> None:
    """What is built is printed afresh; the copy in the plan is for reading."""
    from tests.small_plans import forged

    plan = graphllm.compile(checkpoint, tmp_path / "p.gllm", target="cpu")
    text = PlanFile.open(plan.path).sections["source/cpu"]
    evil = forged(plan.path, tmp_path / "evil.gllm", texts={"source/cpu": "#error this must not be compiled"})
    model = graphllm.load(evil, device="cpu")
    assert model.engine.device.name == "cpu"
    assert any(build.built(text) == library for library in kept.built_libraries())
