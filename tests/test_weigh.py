"""Weights of tokens, in NumPy and in native code, against e^x of long doubles; every bound that samplers rely on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.compiler.native.isa import Isa
from graphllm.runtime.device import BINS, BINS_PER_NAT, WEIGHED, Weigher, WeighingDevice
from graphllm.runtime.sampling.weights import NumpyWeights
from tests.cpu_models import cpu_device, cpu_lowered, quick_builds

__all__ = ["quick_builds"]


@pytest.fixture(params=["numpy", "native", "portable"])
def weigher(request: pytest.FixtureRequest) -> Weigher:
    if request.param == "numpy":
        return NumpyWeights()
    request.getfixturevalue("quick_builds")
    isa: Isa = request.param
    model = cpu_lowered("odd_sizes", context=16)
    device = cpu_device(model.module, model.weights, isa=isa)
    assert isinstance(device, WeighingDevice)
    device.close()  # what weighs outlives it
    return device.weigher


def row(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    logits = (rng.standard_normal(n) * rng.choice([0.1, 2.0, 9.0])).astype(np.float32)
    logits[rng.integers(n, size=n // 10)] = rng.choice([-np.inf, -1e9, -1e38, -700])
    logits[rng.integers(n)] = rng.choice([3.0, 30.0, -1e-3]).astype(np.float32)
    return logits


def by_block(weights: NDArray[Any]) -> NDArray[Any]:
    return np.add.reduceat(weights, np.arange(0, len(weights), WEIGHED))


@pytest.mark.parametrize("n", [1, WEIGHED - 1, WEIGHED, WEIGHED + 1, 5000, 151_936 - 271])
def test_sums_apart_from_a_range(weigher: Weigher, n: int) -> None:
    rng = np.random.default_rng()
    for temperature in (1e-3, 0.05, float(rng.uniform(0.3, 2)), 40.0):
        logits = row(rng, n)
        logits.flags.writeable = False
        largest = float(logits.max())
        low = np.inf if rng.random() < 0.3 else float(np.float32(largest - temperature * rng.uniform(0, 9)))
        high = float(np.nextafter(np.float32(low + temperature * rng.uniform(0, 3)), np.float32(np.inf)))
        exact = np.exp((logits.astype(np.longdouble) - largest) / temperature)
        for exactly, error, lost in ((False, 1.6e-5, WEIGHED * 1.6e-5 * np.exp(-40)), (True, 4e-12, 1e-300)):
            for two in (False, True) if low < np.inf else (False,):
                below, beyond = np.full((2, -(-n // WEIGHED)), np.nan)
                within = (logits >= low) & (logits < (high if two else np.inf))
                ids = np.flatnonzero(within)
                between = np.full(len(ids), -1)
                sides = {"high": high, "beyond": beyond} if two else {}

                count = weigher.weigh(
                    logits, temperature, largest, below, exactly=exactly, low=low, between=between, **sides
                )
                assert count == len(ids)
                assert between.tolist() == ids.tolist()
                wanted = by_block(np.where(logits < low, exact, 0))
                assert (np.abs(below - wanted) <= error * wanted + lost).all()
                if two:
                    wanted = by_block(np.where(logits >= high, exact, 0))
                    assert (np.abs(beyond - wanted) <= error * wanted + lost).all()
                if len(ids) > 1:  # no room for them: that is all it says, and nothing behind the room is touched
                    between[:] = -1
                    count = weigher.weigh(
                        logits, temperature, largest, below, exactly=exactly, low=low, between=between[:-1], **sides
                    )
                    assert count >= len(ids)
                    assert between[-1] == -1


@pytest.mark.parametrize("n", [1, 15, 16, 5000, 151_936 - 271])
def test_a_histogram_of_weights(weigher: Weigher, n: int) -> None:
    rng = np.random.default_rng()
    for temperature in (1e-3, float(rng.uniform(0.3, 2)), 40.0):
        logits = row(rng, n)
        largest = float(logits.max())
        counts = np.full(BINS, -1, np.int32)
        weigher.histogram(logits, temperature, largest, counts)
        assert counts.sum() == n
        place = (largest - logits.astype(np.longdouble)) / temperature * BINS_PER_NAT
        least, most = (np.sort(place * (1 + sign * 1e-6) + sign * 1e-4).clip(0, BINS - 1) for sign in (-1, 1))
        edges, reached = np.arange(1, BINS + 1), counts.cumsum()  # as many lie up to an edge as surely do
        assert (most.searchsorted(edges) <= reached).all()
        assert (reached <= least.searchsorted(edges)).all()  # and no more than can


def test_a_row_of_equals(weigher: Weigher) -> None:
    sums, counts = np.empty(3), np.empty(BINS, np.int32)
    equals = np.full(300, -7.25, np.float32)
    weigher.weigh(equals, 0.7, -7.25, sums, exactly=True)
    assert sums.tolist() == [128, 128, 44]
    weigher.histogram(equals, 0.7, -7.25, counts)
    assert counts[0] == counts.sum() == 300
