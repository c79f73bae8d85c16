"""Small containers with random content, and how the tests of the plan write, break and refuse them."""

from __future__ import annotations

import math
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import PlanError
from graphllm.plan.container import Container, PlanDType, TensorSpec, numpy_dtype, write_container

DTYPES: tuple[PlanDType, ...] = ("f32", "f16", "bf16", "i8", "i32", "u8")
Tensors = dict[str, tuple[PlanDType, NDArray[Any]]]


def random_array(rng: random.Random, dtype: PlanDType, shape: tuple[int, ...]) -> NDArray[Any]:
    """Random bits, NaNs included: storage must not care."""
    count = math.prod(shape) * numpy_dtype(dtype).itemsize
    return np.frombuffer(rng.randbytes(count), numpy_dtype(dtype)).reshape(shape)


def random_tensors(rng: random.Random, count: int) -> Tensors:
    tensors: Tensors = {}
    for i in range(count):
        dtype = rng.choice(DTYPES)
        shape = tuple(rng.choice((0, 1, 2, 3, 7, 8, 16, 33)) for _ in range(rng.randrange(4)))
        name = rng.choice(("w", "a/b", 'q"\\{'))
        tensors[f"t{i}.{name}"] = (dtype, random_array(rng, dtype, shape))
    return tensors


def specs_of(tensors: Tensors) -> list[TensorSpec]:
    return [TensorSpec(name, dtype, array.shape) for name, (dtype, array) in tensors.items()]


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None):
    write_container(path, specs_of(tensors), lambda name: tensors[name][1], metadata or {})


def small(path: Path) -> bytes:
    """A container of every dtype, and its bytes."""
    rng = random.Random(5)
    write(path, {dtype: (dtype, random_array(rng, dtype, (3, 5))) for dtype in DTYPES}, {"note": "häh\n"})
    return path.read_bytes()


def refused(path: Path, content: bytes | None = None) -> str:
    """The message with which a file is refused, by `open` or by `verify`; one line, and no large allocation."""
    if content is not None:
        path.write_bytes(content)
    size = path.stat().st_size if path.is_file() else 0
    tracemalloc.start()
    try:
        with pytest.raises(PlanError) as caught, Container.open(path) as container:
            container.verify()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))
    assert peak < 40 * size + 200_000
    return message


def left_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
