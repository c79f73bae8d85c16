"""Evaluations as text."""

from __future__ import annotations

import math

from graphllm.measure.evaluate.multiple_choice import Choices
from graphllm.measure.evaluate.perplexity import Perplexity
from graphllm.measure.evaluate.statistics import share_interval


def perplexity_text(p: Perplexity) -> str:
    """Perplexity with its interval; against a reference, how far they are apart."""
    begun = "no BOS" if p.bos is None else f"BOS {p.bos} before each"
    lines = [
        f"{p.tokens:,} tokens scored in {p.windows:,} windows of {p.window}, stride {p.stride}, {begun}",
        f"  perplexity            {p.perplexity:.5f}   95 % {math.exp(p.nll.low):.4f} to {math.exp(p.nll.high):.4f}",
        f"  nll, nats a token     {p.nll.value:.6f} +- {p.nll.error:.6f}",
    ]
    if (d := p.against) is not None:
        low, high = (100 * x for x in share_interval(d.same_top, p.tokens))
        reference = math.exp(d.reference_nll.value)
        lines += [
            f"  reference             {reference:.5f}   ratio {p.perplexity / reference:.5f}",
            f"  KL divergence         {d.kl.value:.6f} +- {d.kl.error:.6f} nats a token",
            f"    median, 99 %, most  {d.kl_median:.6f}  {d.kl_99:.6f}  {d.kl_largest:.6f}",
            f"  same likeliest token  {100 * d.same_top / p.tokens:.2f} %   95 % {low:.2f} to {high:.2f}",
        ]
    return "\n".join(lines)


def choices_text(c: Choices) -> str:
    """Accuracies with their intervals."""
    n = len(c.questions)
    lines = [f"{n:,} questions"]
    for name, hits in (("accuracy", c.right), ("accuracy, by length", c.right_by_length)):
        low, high = (100 * x for x in share_interval(hits, n))
        lines.append(f"  {name:20}  {100 * hits / n:6.2f} %   95 % {low:.2f} to {high:.2f}   {hits} right")
    return "\n".join(lines)
