"""Weights of tokens, in NumPy and in native code, against e^x of long doubles; every bound that samplers rely on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.compiler.native.isa import Isa
from graphllm.runtime.device import WEIGHED, Weigh, WeighingDevice
from graphllm.runtime.sampling.weights import NumpyWeights
from tests.cpu_models import cpu_device, cpu_lowered, quick_builds

__all__ = ["quick_builds"]


@pytest.fixture(params=["numpy", "native", "portable"])
def weigh(request: pytest.FixtureRequest) -> Weigh:
    if request.param == "numpy":
        return NumpyWeights()
    request.getfixturevalue("quick_builds")
    isa: Isa = request.param
    model = cpu_lowered("odd_sizes", context=16)
    device = cpu_device(model.module, model.weights, isa=isa)
    assert isinstance(device, WeighingDevice)
    device.close()  # what weighs outlives it
    return device.weigh


def row(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    logits = (rng.standard_normal(n) * rng.choice([0.1, 2.0, 9.0])).astype(np.float32)
    logits[rng.integers(n, size=n // 10)] = rng.choice([-np.inf, -1e9, -1e38, -700])
    logits[rng.integers(n)] = rng.choice([3.0, 30.0, -1e-3]).astype(np.float32)
    return logits


def by_block(weights: NDArray[Any]) -> NDArray[Any]:
    return np.add.reduceat(weights, np.arange(0, len(weights), WEIGHED))


@pytest.mark.parametrize("n", [1, WEIGHED - 1, WEIGHED, WEIGHED + 1, 5000, 151_936 - 271])
def test_sums_and_weights(weigh: Weigh, n: int) -> None:
    rng = np.random.default_rng()
    for temperature in (1e-3, 0.05, float(rng.uniform(0.3, 2)), 40.0):
        logits = row(rng, n)
        logits.flags.writeable = False
        largest = float(logits.max())
        below = np.inf if rng.random() < 0.3 else float(np.float32(largest - temperature * rng.uniform(0, 9)))
        exact = np.exp((logits.astype(np.longdouble) - largest) / temperature)
        kept = np.where(logits < below, exact, 0)
        sums, weights = np.full(-(-n // WEIGHED), np.nan), np.full(n, np.nan)
        ids = np.flatnonzero(logits >= below)
        above = np.full(len(ids), -1)

        assert weigh(logits, temperature, largest, below, sums, exactly=False, above=above) == len(ids)
        assert above.tolist() == ids.tolist()
        assert (np.abs(sums - by_block(kept)) <= 1.6e-5 * by_block(kept) + WEIGHED * 1.6e-5 * np.exp(-40)).all()

        assert weigh(logits, temperature, largest, below, sums, exactly=True, weights=weights) == len(ids)
        assert (np.abs(sums - by_block(kept)) <= 1e-12 * by_block(kept) + 1e-300).all()
        assert (np.abs(weights - kept) <= 1e-12 * kept + 1e-300).all()
        assert not weights[np.isneginf(logits)].any()

        if len(ids) > 1:  # no room for them: that is all it says, and nothing behind the room is touched
            above[:] = -1
            assert weigh(logits, temperature, largest, below, sums, exactly=False, above=above[:-1]) >= len(ids)
            assert above[-1] == -1


def test_a_row_of_equals(weigh: Weigh) -> None:
    sums, weights = np.empty(3), np.empty(300)
    weigh(np.full(300, -7.25, np.float32), 0.7, -7.25, np.inf, sums, exactly=True, weights=weights)
    assert (weights == 1).all()
    assert sums.tolist() == [128, 128, 44]
