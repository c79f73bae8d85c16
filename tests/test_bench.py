"""``bench``: what is run and in what order, what is counted, what is refused. Never how fast anything is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.api import Model
from graphllm.cli import main
from graphllm.errors import RunError
from graphllm.ir.cost import cached_bytes_per_position, step_bytes
from graphllm.measure import bandwidth
from graphllm.measure.bench.cases import Case, cases
from graphllm.measure.bench.energy import read_energy
from graphllm.measure.bench.run import Bench, Subject, Timed, bench, moved
from graphllm.measure.bench.text import bench_text
from tests.small_plans import small_plan


@pytest.fixture(autouse=True)
def little_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER", 4 << 20)
    monkeypatch.setattr(bandwidth, "LEAST", 4 << 20)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_plan(tmp_path_factory.mktemp("bench"), slots=3)


@pytest.fixture
def model(plan: Path) -> Model:
    return graphllm.load(plan, device="numpy")


class Recorder:
    """Stands in front of a model's device and keeps what it was asked for."""

    def __init__(self, model: Model, log: list[tuple[str, str, int]], name: str) -> None:
        self._device, self._log, self._as = model.engine.device, log, name
        model.engine.device = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def row(self, token: int, position: int, slot: int) -> Any:
        self._log.append((self._as, "decode", position))
        return self._device.row(token, position, slot)

    def rows(self, function: str, rows: Sequence[Any]) -> Any:
        self._log.append((self._as, function, rows[0].position))
        return self._device.rows(function, rows)

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Any:
        self._log.append((self._as, function, start))
        return self._device.block(function, tokens, start, slot)


def test_names_are_those_of_llama_bench() -> None:
    every = cases([8, 0], [4], [1, 3], [0, 2])
    assert [c.name for c in every] == ["pp8", "pp8 @ d2", "tg4", "tg4 x3", "tg4 @ d2", "tg4 x3 @ d2"]


def test_what_is_run_and_in_what_order(plan: Path) -> None:
    """Turn by turn, behind the depth asked for, as many steps as were asked for, warm-up apart."""
    log: list[tuple[str, str, int]] = []
    subjects: list[Subject] = []
    for name in ("a", "b"):
        model = graphllm.load(plan, device="numpy")
        Recorder(model, log, name)
        subjects.append(Subject(name, model))
    found = bench(subjects, [Case("tg", 3, 1, 2), Case("tg", 2, 3), Case("pp", 5)], rounds=2)
    assert [len(t.speeds) for timed in found.timed for t in timed] == [2] * 6
    generation = [(who, f, p) for who, f, p in log if f == "decode" and p >= 2]
    assert generation == [(who, "decode", p) for _ in range(3) for who in "ab" for p in (2, 3, 4)]
    batch = [(who, p) for who, f, p in log if f.startswith("decode_")]
    assert batch == [(who, p) for _ in range(3) for who in "ab" for p in (0, 1)]
    who = [w for w, _, _ in log]
    assert who[: who.index("b")] == ["a"] * who.index("b")


def test_bytes_a_token(model: Model) -> None:
    decode, batch = model.lowered.functions["decode"], model.lowered.functions["decode_3"]
    each = cached_bytes_per_position(decode)
    assert moved(model.lowered, Case("tg", 4, 1, 6)) == step_bytes(decode) + each * 8
    assert moved(model.lowered, Case("tg", 5, 3)) == step_bytes(batch) // 3 + each * 3
    assert moved(model.lowered, Case("pp", 5)) == 0


def test_figures_follow_from_the_rounds() -> None:
    case = Case("tg", 4)
    a, b = Timed(case, (10.0, 30.0, 20.0), 0.5, 100), Timed(case, (5.0, 20.0, 5.0), None, 100)
    about = {"device": "numpy", "threads": 1, "weight_bytes": 7}
    found = Bench(("a", "b"), (about, about), ((a,), (b,)), 4000.0)
    assert a.speed == 20
    assert a.share(4000.0) == 0.5
    assert found.ratio(0) == 2.0  # of 2, 1.5 and 4
    said = found.as_json()
    assert said["ratios"] == {"tg4": 2.0}
    assert said["models"][0]["tests"][0]["share_of_bandwidth"] == 0.5
    page = bench_text(found)
    for words in ("J/token", "50 %", "2.000", "medians of 3 rounds"):
        assert words in page
    table = bench_text(found, markdown=True).splitlines()
    assert {line.count("|") for line in table[:5]} == {table[0].count("|")}


class TestEnergy:
    def domain(self, folder: Path, name: str, count: int, most: int = 1000) -> None:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{count}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{most}\n")

    def test_packages_are_added_and_their_parts_are_not(self, tmp_path: Path) -> None:
        for name, count in (("intel-rapl:0", 100), ("intel-rapl:1", 200), ("intel-rapl:0:0", 7)):
            self.domain(tmp_path, name, count)
        before = read_energy(tmp_path)
        for name, count in (("intel-rapl:0", 150), ("intel-rapl:1", 210), ("intel-rapl:0:0", 900)):
            self.domain(tmp_path, name, count)
        assert read_energy(tmp_path).joules_since(before) == pytest.approx(60e-6)

    def test_a_counter_that_began_again(self, tmp_path: Path) -> None:
        self.domain(tmp_path, "intel-rapl:0", 950)
        before = read_energy(tmp_path)
        self.domain(tmp_path, "intel-rapl:0", 30)
        assert read_energy(tmp_path).joules_since(before) == pytest.approx(80e-6)

    def test_what_cannot_be_read_is_not_told(self, tmp_path: Path) -> None:
        assert read_energy(tmp_path / "none").joules_since(read_energy(tmp_path / "none")) is None
        self.domain(tmp_path, "intel-rapl:0", 5)
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("secret")
        assert read_energy(tmp_path).counts == {}


class TestCommand:
    def test_table_json_and_markdown(self, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["bench", str(plan), "--device", "numpy", "-r", "2"]
        assert main([*arguments, "--json", "-p", "4,9", "-n", "3", "-b", "1,2"]) == 0
        said = json.loads(capsys.readouterr().out)
        tests = said["models"][0]["tests"]
        assert [t["test"] for t in tests] == ["pp4", "pp9", "tg3", "tg3 x2"]
        assert all(len(t["rounds"]) == 2 and min(t["rounds"]) > 0 for t in tests)
        assert main([*arguments, "--markdown", "--against", str(plan), "-p", "0", "-n", "2"]) == 0
        assert capsys.readouterr().out.startswith("| model |")

    def test_without_numbers_it_does_what_the_context_allows(
        self, plan: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["bench", str(plan), "--device", "numpy", "-r", "1", "--json"]) == 0
        tests = json.loads(capsys.readouterr().out)["models"][0]["tests"]
        assert [t["test"] for t in tests] == ["pp16", "tg16"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-p", "17"], "pp17: takes 17 positions; this model has 16"),
            (["-d", "10", "-n", "7"], "tg7 @ d10: takes 17 positions"),
            (["-p", "0", "-n", "0"], "nothing to time"),
            (["-d", "16"], "--depth: 16; this model has 16 positions"),
            (["-b", "0"], "batch: 0; expected 1 or more"),
            (["-r", "0"], "--rounds: 0"),
            (["-p", "x"], "invalid list of whole numbers"),
            (["--against", "none.gllm"], "none.gllm"),
        ],
    )
    def test_mistakes(self, plan: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
        try:
            code = main(["bench", str(plan), "--device", "numpy", *arguments])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert (code, said.out) == (2, "")
        assert words in said.err
        assert said.err.count("\n") == 1


def test_a_batch_without_slots_is_refused(model: Model) -> None:
    with pytest.raises(RunError, match="takes 4 slots; this model has 3"):
        bench([Subject("a", model)], [Case("tg", 1, 4)], 1)
    assert np.isfinite(bench([Subject("a", model)], [Case("tg", 1, 3)], 1).timed[0][0].speed)
