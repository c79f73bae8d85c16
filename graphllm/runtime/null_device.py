"""The null device: computes nothing and checks every step, so that a plan is tried before it is trusted.

It refuses calls that break what the step promises of its rows, then follows the function over a shadow of the memory
(``runtime.shadow``). What it returns is zeros of the right shape. It shares nothing with the memory planner.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import PlanError
from graphllm.ir.core import Function, Module
from graphllm.runtime.device import DeviceMemory, Logits, Row
from graphllm.runtime.shadow import Array, Caches, Shadow


class NullDevice:
    """A lowered module on nothing. Every method raises PlanError naming function, operation and value."""

    name = "null"
    storage = ""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._caches = Caches(module)

    @property
    def memory(self) -> DeviceMemory:
        """Nothing of its own: what the states and the largest arena would take."""
        arena = max((f.arena or 0 for f in self._module.functions.values()), default=0)
        return DeviceMemory(0, 0, arena, sum(s.type.bytes for s in self._module.states.values()))

    @property
    def arena(self) -> NDArray[np.uint8]:
        """Zeros: nothing was computed."""
        return np.zeros(self.memory.arena, np.uint8)

    def prepare(self, function: str) -> None:
        """Nothing to do."""

    def row(self, token: int, position: int, slot: int) -> Logits:
        return self._step("decode", [Row(token, position, slot)], "independent").reshape(-1)

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        if len({row.slot for row in rows}) != len(rows):
            raise PlanError(f"func @{function}: called with two rows of one slot; expected each of its own")
        return self._step(function, rows, "independent")

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Logits:
        rows = [Row(token, start + t, slot) for t, token in enumerate(tokens)]
        return self._step(function, rows, "consecutive")

    def _step(self, name: str, rows: Sequence[Row], order: str) -> Logits:
        function = self._module.functions.get(name)
        if function is None:
            raise PlanError(f"func @{name}: not in this module; it has {', '.join(self._module.functions)}")
        if function.arena is None:
            raise PlanError(f"func @{name}: its memory was not planned")
        given = self._given(function, rows)
        if function.rows != order and len(given["pos"]) > 1:
            raise PlanError(f"func @{name}: called with {order} rows; it was made for {function.rows} ones")
        Shadow(function, self._caches, given).run()
        return np.zeros(function.results[0].type.shape, np.float32)

    def _given(self, function: Function, rows: Sequence[Row]) -> dict[str, Array]:
        """The inputs as every device fills them: rows that are not there have position -1."""
        where = f"func @{function.name}"
        count = function.inputs[0].type.shape[0]
        if not 1 <= len(rows) <= count:
            raise PlanError(f"{where}: called with {len(rows)} rows; expected 1 to {count}")
        for row in rows:
            if row.position < 0 or row.slot < 0:
                raise PlanError(f"{where}: called with {row}; expected a position and a slot from 0 on")
        blanks = [Row(0, -1, 0)] * (count - len(rows))
        ids, pos, slot = (np.array(column, np.int64) for column in zip(*rows, *blanks, strict=True))
        return {"ids": ids, "pos": pos, "slot": slot, "rows": np.array([len(rows) - 1])}
