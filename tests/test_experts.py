"""Mixtures of experts: the choice and the products by definition, whole models, and what a step may touch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm
from graphllm.compiler.targets import resolve
from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.decoder import Weights, decode
from graphllm.frontends.open import open_checkpoint
from graphllm.ir import ops
from graphllm.ir.cost import step_bytes
from tests.checkpoint_writers import random_tensors
from tests.cpu_models import quick_builds
from tests.gguf_models import gguf_names, metadata
from tests.gguf_writer import q8_0, write_gguf

__all__ = ["quick_builds"]

CONFIG = ModelConfig(
    "qwen3_moe",
    *(32, 2, 4, 2, 8, 20, 41, 64, 1e-6, 1e4, "half"),
    qk_norm=True,
    bos_id=1,
    eos_ids=(2,),
    experts=5,
    experts_used=2,
)
NATIVE = resolve(None)[0] == "cpu" or resolve("cpu")[1] == ""
DEVICES = ["numpy", "cpu"]


@pytest.fixture(autouse=True)
def quickly_built(request: pytest.FixtureRequest) -> None:
    if NATIVE and "cpu" in request.node.name:
        request.getfixturevalue("quick_builds")


def mixture_tensors(config: ModelConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """A model's tensors, experts one below the other under the canonical names."""
    rng = np.random.default_rng(seed)
    tensors = random_tensors(config, rng)
    d, f, e = config.dim, config.ffn_dim, config.experts
    for layer in range(config.layers):
        for part in ("w_gate", "w_up", "w_down"):
            del tensors[f"l{layer}.{part}"]
        shapes = {"router": (e, d), "x_gate": (e * f, d), "x_up": (e * f, d), "x_down": (e * d, f)}
        for part, (rows, columns) in shapes.items():
            tensors[f"l{layer}.{part}"] = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
    return tensors


HF = {
    "qwen3_moe": ("mlp.gate", "mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj"),
    "mixtral": (
        "block_sparse_moe.gate",
        "block_sparse_moe.experts.{}.w1",
        "block_sparse_moe.experts.{}.w3",
        "block_sparse_moe.experts.{}.w2",
    ),
}


def write_mixture(folder: Path, config: ModelConfig, tensors: dict[str, NDArray[Any]], **more: Any) -> None:
    """A Hugging Face folder with a tensor for each expert, as transformers 4 writes it."""
    from safetensors.numpy import save_file

    from tests.checkpoint_writers import LAYER_NAMES, MODEL_NAMES

    folder.mkdir(parents=True, exist_ok=True)
    router, *parts = HF[config.family]
    named: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        prefix = f"model.layers.{layer[1:]}."
        if not layer:
            named[MODEL_NAMES[name]] = tensor
        elif part == "router":
            named[f"{prefix}{router}.weight"] = tensor
        elif part.startswith("x_"):
            pattern = parts[("x_gate", "x_up", "x_down").index(part)]
            for e, matrix in enumerate(np.split(tensor, config.experts)):
                named[f"{prefix}{pattern.format(e)}.weight"] = np.ascontiguousarray(matrix)
        else:
            named[prefix + LAYER_NAMES[part]] = tensor
    save_file(named, folder / "model.safetensors")
    mixtral = config.family == "mixtral"
    said: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM" if mixtral else "Qwen3MoeForCausalLM"],
        "hidden_size": config.dim,
        "intermediate_size" if mixtral else "moe_intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "num_local_experts" if mixtral else "num_experts": config.experts,
        "num_experts_per_tok": config.experts_used,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    said |= {} if mixtral else {"norm_topk_prob": config.experts_normalized}
    (folder / "config.json").write_text(json.dumps(said | more))


def plain_mixture(config: ModelConfig, tensors: dict[str, NDArray[Any]], x: NDArray[Any], layer: int) -> NDArray[Any]:
    """By the papers, in float64: softmax, the best, each expert's own network, weighted."""
    x = x.astype(np.float64)
    get = {n: tensors[f"l{layer}.{n}"].astype(np.float64) for n in ("router", "x_gate", "x_up", "x_down")}
    out = np.zeros_like(x)
    for t, row in enumerate(x):
        logits = get["router"] @ row
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        best = sorted(range(config.experts), key=lambda e: (-shares[e], e))[: config.experts_used]
        total = sum(shares[e] for e in best) if config.experts_normalized else 1.0
        for e in best:
            gate, up = (np.split(get[n], config.experts)[e] @ row for n in ("x_gate", "x_up"))
            out[t] += (
                shares[e] / total * (np.split(get["x_down"], config.experts)[e] @ (gate / (1 + np.exp(-gate)) * up))
            )
    return out


@pytest.mark.parametrize("normalized", [True, False])
def test_the_decoders_mixture_is_the_papers(normalized: bool) -> None:
    from graphllm.frontends.decoder import mixture

    config = replace(CONFIG, experts_normalized=normalized)
    tensors = mixture_tensors(config, 1)
    wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = np.random.default_rng(0).standard_normal((7, config.dim))
    np.testing.assert_allclose(
        mixture(config, Weights(wide), x, "l1."), plain_mixture(config, tensors, x, 1), rtol=1e-10, atol=1e-12
    )


def test_choices_by_definition() -> None:
    logits = np.array([[0.0, 3.0, 3.0, -1.0], [5.0, 5.0, 5.0, 5.0]], np.float32)
    ids, shares = ops.top_experts(logits, used=3, normalized=False)
    np.testing.assert_array_equal(ids, [[1, 2, 0], [0, 1, 2]])  # of equal ones the lower number
    e = np.exp(np.array([3.0, 3.0, 0.0]))
    np.testing.assert_allclose(shares[0], e / (e.sum() + np.exp(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(shares[1], 0.25)
    _, normal = ops.top_experts(logits, used=3, normalized=True)
    np.testing.assert_allclose(normal.sum(axis=1), 1, rtol=1e-6)
    huge, _ = ops.top_experts(np.array([[1e30, -1e30, 0.0]], np.float32), used=2, normalized=True)
    np.testing.assert_array_equal(huge, [[0, 2]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_models_agree_with_the_decoder_in_float64(tmp_path: Path, family: str, device: Any) -> None:
    if device == "cpu" and not NATIVE:
        pytest.skip("no C++ compiler")
    config = replace(CONFIG, family=family, qk_norm=family == "qwen3_moe", norm_eps=1e-5)
    tensors = mixture_tensors(config, 2)
    write_mixture(tmp_path / "m", config, tensors)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.config == config
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), tensor, name)
        np.testing.assert_array_equal(checkpoint.tensors[name].rows(1, 4), tensor[1:4])
    ids = np.random.default_rng(3).integers(3, config.vocab, 40)
    caches = {f"kv.{i}.{k}": np.zeros((1, 2, 64, 8)) for i in range(2) for k in "kv"}
    wide = Weights({name: tensor.astype(np.float64) for name, tensor in tensors.items()})
    steps = (ids.astype(np.int32), np.arange(40, dtype=np.int32), np.zeros(40, np.int32))
    expected, _ = decode(config, wide, caches, *steps)
    model = graphllm.load(tmp_path / "m", device=device, slots=3, kv_dtype="f32")
    np.testing.assert_allclose(model.logits(ids.tolist()), expected, atol=3e-5)
    model.engine.truncate(0)
    np.testing.assert_allclose(np.array(model.engine.feed(ids.tolist())), expected[-1], atol=3e-5)
    prompts = [ids[:9].tolist(), ids[5:12].tolist(), ids[20:38].tolist()]
    together = model.generate_batch(prompts, max_tokens=12, ignore_eos=True)
    for prompt, answer in zip(prompts, together, strict=True):
        assert model.generate(prompt, max_tokens=12, ignore_eos=True).tokens == answer.tokens


@pytest.mark.parametrize(
    ("device", "store"),
    [*((device, store) for device in DEVICES for store in ("f32", "bf16", "int8")), ("cuda-sim", "bf16")],
)
def test_decoding_touches_only_the_experts_that_were_chosen(tmp_path: Path, device: Any, store: str) -> None:
    """Experts that no token of a run chooses hold NaN, and nothing of it arrives."""
    if device != "numpy" and not NATIVE:
        pytest.skip("no C++ compiler")
    config, run = replace(CONFIG, experts=40), [3, 9, 14, 20, 33]
    tensors = mixture_tensors(config, 5)
    clean = {name: tensor.copy() for name, tensor in tensors.items()}
    for layer, used in enumerate(used_experts(config, clean, run)):
        assert len(used) < 20
        for part in ("x_gate", "x_up", "x_down"):
            for e in set(range(40)) - used:
                np.split(tensors[f"l{layer}.{part}"], 40)[e][...] = np.nan
    choice: dict[str, Any] = {"quantize": "int8"} if store == "int8" else {"dtype": store}
    logits: list[NDArray[Any]] = []
    for name, content in (("clean", clean), ("poisoned", tensors)):
        write_mixture(tmp_path / name, config, content)
        model = graphllm.load(tmp_path / name, device=device, expand="never", **choice)
        model.engine.truncate(0)
        logits.append(np.array([np.array(model.engine.step(t)) for t in run]))
        logits.append(np.array(model.logits(run)))
    np.testing.assert_array_equal(logits[0], logits[2])
    np.testing.assert_array_equal(logits[1], logits[3])


def used_experts(config: ModelConfig, tensors: dict[str, NDArray[Any]], ids: list[int]) -> list[set[int]]:
    """The experts that a run chooses, layer by layer, in float64."""
    seen: list[set[int]] = []
    real = ops.top_experts.reference

    def watched(logits: NDArray[Any], **attrs: Any) -> Any:
        found = real(logits, **attrs)
        seen.append(set(found[0].ravel().tolist()))
        return found

    from graphllm.frontends import decoder

    kept = decoder.top_experts
    decoder.top_experts = lambda logits, name="", **attrs: watched(logits, **attrs)  # type: ignore[assignment]
    try:
        n = len(ids)
        caches = {f"kv.{i}.{k}": np.zeros((1, 2, 64, 8)) for i in range(2) for k in "kv"}
        wide = Weights({name: tensor.astype(np.float64) for name, tensor in tensors.items()})
        decode(config, wide, caches, np.array(ids, np.int32), np.arange(n, dtype=np.int32), np.zeros(n, np.int32))
    finally:
        decoder.top_experts = kept
    return seen


@pytest.mark.parametrize(("device", "store"), [("numpy", "f32"), ("numpy", "int8"), ("cpu", "int8")])
def test_a_prompts_rows_do_not_know_each_other(tmp_path: Path, device: Any, store: str) -> None:
    """To the bit: whoever else is in the chunk, and chooses the same experts or others."""
    if device == "cpu" and not NATIVE:
        pytest.skip("no C++ compiler")
    config = replace(CONFIG, layers=1, experts=3, windows=(1,))  # a row sees itself alone
    window = {"sliding_window": 1, "use_sliding_window": True, "max_window_layers": 0}
    write_mixture(tmp_path / "m", config, mixture_tensors(config, 8), **window)
    choice: dict[str, Any] = {"quantize": "int8"} if store == "int8" else {}
    model = graphllm.load(tmp_path / "m", device=device, expand="never", **choice)
    rng = np.random.default_rng(4)
    first = rng.integers(3, 41, 32)
    others = np.where(np.arange(32) % 5 == 0, first, rng.integers(3, 41, 32))
    one, other = (model.logits(ids.tolist()) for ids in (first, others))
    same = first == others
    assert 7 <= same.sum() < 20
    np.testing.assert_array_equal(one[same], other[same])


def test_bytes_a_token_are_those_of_the_chosen(tmp_path: Path) -> None:
    few, many = (replace(CONFIG, experts=e) for e in (4, 40))
    moved: list[int] = []
    for config in (few, many):
        write_mixture(tmp_path / str(config.experts), config, mixture_tensors(config, 0))
        moved.append(step_bytes(graphllm.load(tmp_path / str(config.experts)).lowered.functions["decode"]))
    router = 2 * 36 * CONFIG.dim * 4
    assert router <= moved[1] - moved[0] <= 2 * router  # nothing but the router grew


def test_mixtures_in_gguf(tmp_path: Path) -> None:
    config = replace(CONFIG, ffn_dim=32, experts_normalized=True)
    tensors = mixture_tensors(config, 7)
    said = metadata(config) | {
        "qwen3moe.expert_count": config.experts,
        "qwen3moe.expert_used_count": config.experts_used,
        "qwen3moe.expert_feed_forward_length": config.ffn_dim,
    }
    stored: dict[str, Any] = dict(tensors)
    for name, tensor in tensors.items():
        if ".x_" in name:
            kind, _, raw = q8_0(tensor)
            stored[name] = (kind, (config.experts, tensor.shape[0] // config.experts, tensor.shape[1]), raw)
    write_gguf(tmp_path / "m.gguf", said, gguf_names(stored))
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert replace(checkpoint.config, norm_eps=config.norm_eps) == config
    whole = dict(tensors)
    for name in tensors:
        if ".x_" in name:
            q, s = (checkpoint.tensors[n].read().astype(np.float32) for n in (name, f"{name}.scale"))
            whole[name] = (q.reshape(-1, 32) * s.reshape(-1, 1)).reshape(q.shape)
            assert np.abs(whole[name] - tensors[name]).max() < 0.05
    write_mixture(tmp_path / "hf", config, whole)
    ids = list(range(3, 30))
    one, other = (graphllm.load(tmp_path / name).logits(ids) for name in ("m.gguf", "hf"))
    np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_experts_per_tok": 6}, "6 experts used by a token; expected 1 to 5"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"num_experts": 1}, "1 experts; expected 2 to 1024"),
        ({"num_experts": 10**9}, "experts; expected 2 to 1024"),
        ({"num_experts": 1000, "num_hidden_layers": 4096}, "expected those of 1000 experts in each of 4096 layers"),
        ({"num_experts": 4}, r"mlp.gate.weight has shape \[5, 32\]; expected \[4, 32\]"),
        ({"num_experts": 6}, r"experts.5.* missing|has shape \[5, 32\]|experts.5"),
        ({"moe_intermediate_size": 21}, r"expected \[21, 32\]"),
        ({"mlp_only_layers": [1]}, "some layers without experts"),
        ({"decoder_sparse_step": 2}, "some layers without experts"),
    ],
)
def test_wrong_configs_are_told(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    write_mixture(tmp_path, CONFIG, mixture_tensors(CONFIG, 0), **more)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*({message})[^\n]*$"):
        open_checkpoint(tmp_path)
