"""Measures a trained model with graphllm and prints the part of its card that is measured: perplexity and stories.

python -m examples.tiny_tales.card >> graphllm/frontends/demo/MODEL_CARD.md
"""

from __future__ import annotations

import math
import sys

import numpy as np

import graphllm

from .corpus import BOS, EOS, documents

HELD_OUT = "tiny tales, held out"
DOCUMENTS = 200
TEMPERATURE = 0.7


def perplexity(model: graphllm.Model, count: int = DOCUMENTS) -> float:
    """exp of the mean negative log probability a token, EOS included, of the first held-out documents."""
    assert model.tokenizer is not None
    total, tokens = 0.0, 0
    for text in documents(HELD_OUT, count):
        ids = [BOS, *model.tokenizer.encode(text, bos=False), EOS]
        logits = model.logits(ids[:-1]).astype(np.float64)
        high = logits.max(axis=-1)
        log_sum = high + np.log(np.exp(logits - high[:, None]).sum(axis=-1))
        total += float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).sum())
        tokens += len(ids) - 1
    return math.exp(total / tokens)


def main() -> None:
    model = graphllm.load(sys.argv[1] if len(sys.argv) > 1 else "demo", device="numpy")
    print(f"\nPerplexity of {DOCUMENTS} held-out documents: {perplexity(model):.4f} a token (NumPy, f32).\n")
    print(f"## Twenty stories, unpicked\n\nPrompt `Once upon a time`, temperature {TEMPERATURE}, seeds 0 to 19.\n")
    for seed in range(20):
        text = model.generate("Once upon a time", temperature=TEMPERATURE, seed=seed, max_tokens=450).text
        print(f"{seed}. Once upon a time{text}")


if __name__ == "__main__":
    main()
