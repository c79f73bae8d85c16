"""The one-page summary: its numbers are the module's, its columns stand in line."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from graphllm.frontends.trace import Steps, trace
from graphllm.ir import Module, TensorType, Weight
from graphllm.ir.cost import step_bytes, step_flops
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import portable
from graphllm.passes.plan_memory import arena_bounds
from graphllm.view.summary import functions_table, kv_facts, passes_table, step_facts, summary, weights_table
from graphllm.view.units import bytes_text, count_text
from tests.model_zoo import BASE, ZOO
from tests.view_modules import HOSTILE, TINYLLAMA, lowered, shapes


def test_the_numbers_are_the_modules() -> None:
    module = lowered(TINYLLAMA)
    decode, prefill = module.functions["decode"], module.functions["prefill_8"]
    facts = step_facts(module, decode)
    assert facts["kernels"] == "113, 8 distinct"
    assert facts["tokens"] == "1"
    assert facts["bytes moved"] == bytes_text(step_bytes(decode))
    cache = sum(s.type.bytes for s in module.states.values())
    assert facts["with full cache"] == bytes_text(step_bytes(decode) + cache), "one slot: a step reads all of it"
    assert facts["intensity"].startswith(f"{step_flops(decode) / (step_bytes(decode) + cache):.3g} flop a byte")
    assert step_facts(module, prefill)["tokens"] == "8"
    assert step_facts(module, prefill)["bytes moved"].endswith(f"{bytes_text(step_bytes(prefill) // 8)} a token")
    assert kv_facts(module, decode) == {
        "a token": bytes_text(22 * 2 * 4 * 64 * 4),
        "full": f"{bytes_text(22 * 2 * 4 * 64 * 4 * 48)} in 44 tensors",
    }


def test_slots_are_counted_in_what_a_full_cache_costs() -> None:
    weights = {n: Weight(n, TensorType("f32", s)) for n, s in shapes(BASE).items()}
    module, _ = run_passes(trace(BASE, weights, 0, Steps(context=32, slots=3, prefill=(8,), score=4)), portable())
    cache = sum(s.type.bytes for s in module.states.values())
    for name, share in (("decode", 1), ("decode_2", 2), ("decode_3", 3), ("prefill_8", 1)):
        f = module.functions[name]
        full = step_bytes(f) + cache * share // 3
        assert step_facts(module, f)["with full cache"].split(",")[0] == bytes_text(full), name


def test_weights_are_counted_once_by_dtype() -> None:
    module = lowered(BASE)
    stored = module.stored_weights()
    assert weights_table(module).splitlines()[1].split() == [
        "f32",
        str(len(stored)),
        *bytes_text(sum(w.type.bytes for w in stored)).split(),
    ]
    mixed = Module({"a": Weight("a", TensorType("i8", (4,)))}, {}, {})
    assert weights_table(mixed).splitlines()[-1].split() == ["total", "0", "0", "B"], "nothing reads it"


def test_the_arena_stands_beside_its_lower_bound() -> None:
    module = lowered(BASE)
    f = module.functions["decode"]
    arena, bound = arena_bounds(f)
    row = functions_table(module, {"decode": bound // 2}).splitlines()[1].split()
    assert row[0] == "decode"
    assert row[-1] == f"{arena / (bound // 2):.3f}"
    assert functions_table(module, {}).splitlines()[1].split()[-2:] == ["-", "-"]


@pytest.mark.parametrize("name", ["everything", "plain", "rope_yarn"])
def test_the_page_is_aligned_plain_text(name: str) -> None:
    module = lowered(ZOO[name])
    passes = [
        {"name": "fuse", "rewrites": 678, "ops": 55, "kernels": 13, "bytes_per_step": 20_000, "arena": 0},
        {"name": "plan-memory", "rewrites": 0, "ops": 55, "kernels": 13, "bytes_per_step": 20_000, "arena": 123_456},
    ]
    bounds = {f.name: arena_bounds(f)[1] for f in module.functions.values()}
    page = summary(module, asdict(ZOO[name]), bounds, passes)
    assert page == summary(module, asdict(ZOO[name]), bounds, passes)
    titles = [line for line in page.splitlines() if line and not line.startswith(" ")]
    assert titles == ["Model", "Weights", "KV cache", "A step of @decode", "Functions", "Passes"]
    assert all(line == line.rstrip() and "\x1b" not in line for line in page.splitlines())
    for title in ("Functions", "Passes", "Weights"):
        table = page[page.index(f"{title}\n") :].split("\n\n")[0].splitlines()[1:]
        assert len({len(line) for line in table}) == 1, "the last column is to the right"
    assert passes_table(passes).splitlines()[1].split() == ["fuse", "678", "55", "13", "20", "kB", "-"]
    assert "123 kB" in page
    assert len(page.splitlines()) < 60


def test_hostile_values_stay_on_their_line() -> None:
    page = summary(lowered(BASE), {"family": f"a\nb{HOSTILE}", "layers": 2}, passes=[{"name": "x\x1b[31m"}])
    assert "\x1b" not in page
    family = next(line for line in page.splitlines() if line.startswith("  family"))
    assert family.startswith("  family  'a\\nb")


def test_an_empty_module_has_a_page() -> None:
    assert summary(Module()).startswith("Weights")


def test_units() -> None:
    assert [bytes_text(n) for n in (0, 999, 1000, 4_100_000_000)] == ["0 B", "999 B", "1 kB", "4.1 GB"]
    assert [count_text(n) for n in (0, 12, 1500, 2.44e9, 1.2e12)] == ["0 ", "12 ", "1.5 k", "2.44 G", "1.2 T"]
