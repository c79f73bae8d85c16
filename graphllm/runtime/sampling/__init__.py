"""Logits in, a token out: the one place where generation chooses.

    sampler = Sampler(SamplerConfig(temperature=0.8, top_p=0.9, seed=1), vocab=V, allowed=V)
    token = sampler.sample(logits, history)

``sampler`` has the order of the stages; ``stages`` and ``history`` have their formulas, ``variants`` the samplers of
other programs. ``make_sampler`` gives whichever a config asks for.
"""

from graphllm.runtime.sampling.config import SamplerConfig
from graphllm.runtime.sampling.logits import log_probs
from graphllm.runtime.sampling.sampler import Sampler
from graphllm.runtime.sampling.variants import TokenChooser, make_sampler

__all__ = ["Sampler", "SamplerConfig", "TokenChooser", "log_probs", "make_sampler"]
