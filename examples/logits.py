"""Score a text: the logits of every position, and from them what the model thought of each token.

python examples/logits.py stories.gllm "Once upon a time there was a cat"
"""

import sys

import numpy as np

import graphllm

path, text = sys.argv[1:]
model = graphllm.load(path)
assert model.tokenizer is not None, "this example wants a model with a tokenizer"

ids = model.encode(text)
logits = model.logits(ids)  # f32 [T,V]: row t is the prediction after ids[: t + 1]
log_probs = logits - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
log_probs -= logits.max(axis=1, keepdims=True)

nll = -log_probs[np.arange(len(ids) - 1), ids[1:]]
for token, cost, row in zip(ids[1:], nll, logits, strict=False):
    likeliest = model.tokenizer.piece(int(row[: model.allowed].argmax()))
    print(f"{model.tokenizer.piece(token)!r:12} {cost:6.2f} nats   expected {likeliest!r}")
print(f"perplexity {np.exp(nll.mean()):.2f} over {len(nll)} tokens")
