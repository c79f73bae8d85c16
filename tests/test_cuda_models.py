"""Whole models in CUDA kernels, on the simulator, against independent implementations: ids and logits.

Launches begin before those ahead of them have ended, shared memory and arena are full of NaN, and every access to
memory is looked at: that nothing is reported is part of every test here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.frontends.trace import Steps
from graphllm.runtime.sampling import Sampler, SamplerConfig
from tests.cuda_models import compiled, greedy, running, scored
from tests.golden_checkpoints import DENSE_TINY
from tests.shared_data import shared
from tests.test_goldens import REAL

SMALL = Steps(context=128, prefill=(8,), score=32)
# Each has kernels that no other has: ways to store weights, odd sizes, windows, biases, norms of heads, experts.
TINY = ("llama_bf16", "llama_bias", "llama_odd", "llama_mqa_bigeps", "mistral_swa", "qwen2_f16", "qwen3", "qwen3_moe")


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("source", ["real/stories260K/stories260K.bin", "real/story-hf"])
def test_real_models(source: str) -> None:
    """Logits, and 64 greedy ids: the first few chosen by the host from logits, all by the device itself."""
    model, golden = compiled(shared(source), SMALL), shared(REAL[source])
    meta, facts = document(golden / "meta.json"), document(golden / "greedy.json")[0]
    prompt, ids = facts["prompt_ids"], facts["greedy_ids"][:64]
    with running(model, seed=5) as engine:
        logits = scored(engine, meta["logits32_ids"])
        bound = max(2e-4, 10 * meta["max_abs_err_hf_f32_vs_numpy_f64"])
        assert np.abs(logits - np.load(golden / "logits32.npy")).max() <= bound
        assert greedy(engine, prompt, 4) == ids[:4]
        engine.truncate(0)
        sampler = Sampler(SamplerConfig(), engine.vocab, engine.vocab)
        first = int(np.argmax(engine.feed(prompt)))
        assert [first, *engine.tokens(first, 0, sampler, 63)] == ids


@pytest.mark.parametrize("name", (*DENSE_TINY, "qwen3_moe") if os.environ.get("GRAPHLLM_TEST_ALL") else TINY)
def test_tiny(name: str) -> None:
    """Rows together, as a prompt, and one by one."""
    folder = shared(f"tiny/{name}/golden")
    facts, expected = document(folder / "golden.json")["prompts"]["long"], np.load(folder / "logits_long.npy")
    ids, greedy_ids = facts["prompt_ids"], facts["greedy_ids"]
    bound = max(2e-4, 10 * facts["max_abs_err_hf_f32_vs_numpy_f64"])
    with running(compiled(shared(f"tiny/{name}"), SMALL), seed=len(name)) as engine:
        assert np.abs(scored(engine, ids) - expected).max() <= bound
        assert greedy(engine, ids, 4) == greedy_ids[:4]


def test_bits_do_not_depend_on_the_order_of_threads() -> None:
    model = compiled(shared("tiny/llama_odd"), SMALL)
    ids = document(shared("tiny/llama_odd/golden") / "golden.json")["prompts"]["long"]["prompt_ids"][:20]
    found: set[bytes] = set()
    for seed, ahead, together in ((0, True, False), (1, False, False), (2, True, True), (3, True, False)):
        with running(model, seed=seed, ahead=ahead, together=together) as engine:
            logits = scored(engine, ids).tobytes()
            engine.truncate(0)
            found.add(logits + engine.feed(ids).tobytes() + engine.step(3).tobytes())
    assert len(found) == 1
