"""Modules as data: the schema written down here holds for every module, and the data says what the module does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graphllm.frontends.config import ModelConfig
from graphllm.ir import Module, print_module
from graphllm.ir.cost import step_bytes, step_flops
from graphllm.view.as_json import VERSION, module_json
from tests.model_zoo import BASE, ZOO
from tests.view_modules import HOSTILE, lowered, traced

# Kinds: a type, [kind] for a list, {field: kind} for an object whose fields ending in "?" may be missing, (kinds) for
# any of them, and the name of another entry.
Kind = Any
SCHEMA: dict[str, Kind] = {
    "module": {"version": int, "weights": ["weight"], "states": ["constant"], "functions": ["function"]},
    "type": {"dtype": str, "shape": [int]},
    "constant": {"name": str, "type": "type", "bytes": int},
    "weight": {"name": str, "type": "type", "bytes": int, "source?": str, "definition?": "definition"},
    "definition": {"op": str, "operands": [str], "attrs": dict},
    "function": {
        "name": str,
        "rows": str,
        "inputs": ["value"],
        "results": [str],
        "updates": [{"state": str, "value": str}],
        "ops": [("op", "kernel")],
        "steps": int,
        "flops": int,
        "bytes": int,
        "arena?": int,
    },
    "value": {"name": str, "type": "type", "bytes": int, "arena?": int, "lifetime?": {"first": int, "last": int}},
    "scratch": {"offset": int, "bytes": int},
    "op": {
        "id": int,
        "kind": str,
        "op": str,
        "operands": [str],
        "attrs": dict,
        "results": ["value"],
        "flops": int,
        "bytes?": int,
        "step": int,
        "scratch?": "scratch",
    },
    "kernel": {
        "id": int,
        "kind": str,
        "template": str,
        "operands": [str],
        "results": [str],
        "flops": int,
        "bytes": int,
        "scratch?": "scratch",
        "ops": ["op"],
    },
}


def problems(data: object, kind: Kind, where: str = "module") -> list[str]:
    """Where data does not fit; nothing if it does."""
    if isinstance(kind, str):
        return problems(data, SCHEMA[kind], where)
    if isinstance(kind, tuple):
        tries = [problems(data, k, where) for k in kind]
        return min(tries, key=len)
    if isinstance(kind, list):
        if not isinstance(data, list):
            return [f"{where}: expected a list, got {data!r}"]
        return [p for i, x in enumerate(data) for p in problems(x, kind[0], f"{where}[{i}]")]
    if isinstance(kind, dict):
        if not isinstance(data, dict):
            return [f"{where}: expected an object, got {data!r}"]
        known = {k.removesuffix("?"): v for k, v in kind.items()}
        out = [f"{where}: unknown field {k}" for k in data if k not in known]
        out += [f"{where}: missing field {k}" for k in kind if not k.endswith("?") and k not in data]
        return out + [p for k, v in data.items() if k in known for p in problems(v, known[k], f"{where}.{k}")]
    return [] if type(data) is kind else [f"{where}: expected {kind.__name__}, got {data!r}"]


@pytest.mark.parametrize("config", ZOO.values(), ids=ZOO)
@pytest.mark.parametrize("stage", ["traced", "lowered", "registers"])
def test_every_module_fits_the_schema_and_survives_json(config: ModelConfig, stage: str) -> None:
    module = traced(config) if stage == "traced" else lowered(config, stepwise=stage == "lowered")
    data = module_json(module)
    assert problems(data, "module") == []
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text) == data
    assert json.dumps(module_json(module)) == text
    assert data["version"] == VERSION == 1


def test_the_checker_finds_what_is_wrong() -> None:
    data = module_json(lowered(BASE))
    data["functions"][0]["ops"][2]["ops"][0]["step"] = "0"
    del data["weights"][0]["bytes"]
    assert len(problems(data, "module")) == 2


def flat(ops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [o for op in ops for o in (flat(op["ops"]) if op["kind"] == "kernel" else [op])]


@pytest.mark.parametrize("config", ZOO.values(), ids=ZOO)
def test_the_data_says_what_the_module_does(config: ModelConfig) -> None:
    module = lowered(config)
    data = module_json(module)
    assert [w["name"] for w in data["weights"]] == list(module.weights)
    assert any(HOSTILE in w.get("source", "") for w in data["weights"]), "strings are kept as they are"
    for written, function in zip(data["functions"], module.functions.values(), strict=True):
        ops = flat(written["ops"])
        assert [o["op"] for o in ops] == [op.name for op in function.walk()]
        assert [o["operands"] for o in ops] == [[v.ref for v in op.operands] for op in function.walk()]
        assert [o["step"] for o in ops] == list(range(written["steps"]))
        assert sum(o["flops"] for o in ops) == written["flops"] == step_flops(function)
        assert sum(o["bytes"] for o in written["ops"]) == written["bytes"] == step_bytes(function)
        ids = [i for op in written["ops"] for i in (op["id"], *(o["id"] for o in op.get("ops", ())))]
        assert ids == list(range(len(ids)))
        known = {f"@{n}" for n in (*module.weights, *module.states)} | {f"%{v['name']}" for v in written["inputs"]}
        for o in ops:
            assert known >= set(o["operands"])
            for value in o["results"]:
                known.add(f"%{value['name']}")
                assert ("arena" in value) <= ("lifetime" in value), "a place comes with the time it is held"
                if "lifetime" in value:
                    first, last = value["lifetime"]["first"], value["lifetime"]["last"]
                    assert o["step"] == first <= last <= written["steps"]


def test_views_and_states_hold_no_memory_of_their_own() -> None:
    written = module_json(lowered(BASE))["functions"][0]
    for o in flat(written["ops"]):
        if o["op"] in ("reshape", "split", "kv_write"):
            assert all("arena" not in v and "lifetime" not in v for v in o["results"])


def test_an_empty_module_has_all_fields() -> None:
    data = module_json(Module())
    assert data == {"version": 1, "weights": [], "states": [], "functions": []}
    assert print_module(Module()) == ""
