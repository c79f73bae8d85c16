"""``diff``: sides that compute the same agree; planted faults are named: where they part, and why."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import graphllm
from graphllm.cli import main
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.errors import GraphLLMError
from graphllm.frontends.overrides import Overrides
from graphllm.ir.core import Module
from graphllm.measure.diff.bisect import bisect_passes, bisect_weights
from graphllm.measure.diff.compare import compare, half_split, interleaved
from graphllm.measure.diff.explain import causes, weight_difference
from graphllm.measure.diff.on_device import kept, one_by_one
from graphllm.measure.diff.run import Difference, difference
from graphllm.measure.diff.sides import How, open_subject, side
from graphllm.measure.diff.text import difference_text, passes_text, weights_text
from graphllm.measure.diff.trace import Trace
from graphllm.passes import pipeline
from graphllm.passes.merge_linears import merge_linears
from graphllm.passes.rewrite import map_functions
from graphllm.plan.plan_file import PlanFile
from tests.checkpoint_writers import write_huggingface, write_llama2c
from tests.cpu_models import quick_builds
from tests.model_zoo import ZOO, random_tensors
from tests.shared_data import shared
from tests.small_plans import edited, forged

__all__ = ["quick_builds"]
CONFIG = replace(ZOO["qwen2"] if "qwen2" in ZOO else ZOO["all_biases"], layers=2, vocab=37, context=40)
BIASED = replace(ZOO["all_biases"], layers=2, vocab=37, context=40)
IDS = [5, 3, 17, 30, 2, 8, 8, 1, 0, 36, 22, 9, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("diff")
    write_huggingface(base / "model", BIASED, random_tensors(BIASED, 3))
    graphllm.compile(base / "model", base / "good.gllm", target="numpy", context=32)
    return base


def between(model: Path, *words: str, **how: Any) -> Difference:
    subject = open_subject(model)
    a, b = (side(word, subject, How(IDS, **how)) for word in words)
    return difference(a, b, subject.config.head_dim)


class TestAgreement:
    @pytest.mark.parametrize("kind", ["score", "decode", "prefill"])
    def test_the_interpreter_and_numpy(self, folder: Path, kind: Any) -> None:
        found = between(folder / "good.gllm", "interpreter", "numpy", kind=kind)
        assert found.found.parted is None
        assert max(p.relative for p in found.found.points) < 1e-5
        names = {p.name for p in found.found.points}
        assert {"model.embed_tokens", "model.layers.1.self_attn.q_rotated", "model.layers.0.mlp.act_fn"} <= names
        assert {"model.layers.1", "model.norm", "lm_head"} <= names

    @pytest.mark.parametrize(
        "options", [{"dtype": "bf16"}, {"quantize": "int8"}, {"quantize": "int8-dynamic", "kv_dtype": "i8"}]
    )
    def test_whatever_is_stored(self, folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
        plan = graphllm.compile(folder / "model", tmp_path / "p.gllm", target="numpy", context=32, **options).path
        assert between(plan, "interpreter", "numpy").found.parted is None
        assert between(plan, "interpreter", str(folder / "good.gllm")).found.parted is None

    @pytest.mark.usefixtures("quick_builds")
    def test_native_code_by_kernel_and_by_operation(self, folder: Path) -> None:
        subject = open_subject(folder / "good.gllm")
        native, meaning = (side(word, subject, How(IDS)) for word in ("cpu", "interpreter"))
        coarse, fine = (compare(meaning.run(False), native.run(apart), BIASED.head_dim) for apart in (False, True))
        assert coarse.parted is None
        assert fine.parted is None
        assert {p.name for p in coarse.points} < {p.name for p in fine.points}
        assert "model.layers.0.mlp.gate_proj" in {p.name for p in fine.points}

    def test_layouts_of_rope(self, folder: Path, tmp_path: Path) -> None:
        """One model stored in either layout; its heads are in another order, and nothing else differs."""
        dump = tmp_path / "dump"
        assert main(["diff", str(folder / "good.gllm"), "--ids", " ".join(map(str, IDS)), "--dump", str(dump)]) == 0
        found = between(folder / "good.gllm", "interpreter", str(dump))
        assert found.found.parted is None
        assert {p.name for p in found.found.points if p.reordered} >= {"model.layers.0.self_attn.q_proj"}

    def test_dumped_values_are_those_of_hugging_face(self, tmp_path: Path) -> None:
        golden = np.load(shared("golden/stories260K/hidden32.npz"))
        ids = json.loads(shared("golden/stories260K/meta.json").read_text())["logits32_ids"]
        plan = graphllm.compile(shared("real/stories260K-hf"), tmp_path / "p.gllm", target="numpy", kv_dtype="f32").path
        dump = tmp_path / "dump"
        assert main(["diff", str(plan), "--ids", " ".join(map(str, ids)), "--dump", str(dump)]) == 0
        pairs = [("embed", "model.embed_tokens"), ("final_norm", "model.norm")]
        pairs += [(f"layer{i}", f"model.layers.{i}") for i in range(5)]
        for ours, theirs in pairs:
            np.testing.assert_allclose(np.load(dump / f"{theirs}.npy"), golden[ours], atol=2e-4)

    def test_dumped_heads_attend_as_published(self, tmp_path: Path) -> None:
        """Somebody's Rust program printed the attention of both layers on this prompt; ours from queries and keys."""
        golden = np.load(shared("golden/story/attn_probs_thirdparty_rust.npy"))  # [L,H,T,T]
        plan = graphllm.compile(shared("real/story-hf"), tmp_path / "p.gllm", target="numpy", kv_dtype="f32").path
        dump = tmp_path / "dump"
        assert main(["diff", str(plan), "--ids", "1 80 147 201 282 57", "--dump", str(dump)]) == 0
        for layer, expected in enumerate(golden):
            at = f"model.layers.{layer}.self_attn"
            q, k = (np.load(dump / f"{at}.{name}_rotated.npy").reshape(6, -1, 16) for name in "qk")
            scores = np.einsum("thd,shd->hts", q, k.repeat(2, axis=1)) / 4
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * np.tri(6)
            np.testing.assert_allclose(weights / weights.sum(axis=-1, keepdims=True), expected, atol=1e-5)

    def test_transformers(self) -> None:
        pytest.importorskip("torch", reason="torch is not installed")
        pytest.importorskip("transformers", reason="transformers is not installed")
        for name in ("qwen2_tied", "qwen3", "llama_gqa_tied_rope3", "llama_bias"):
            found = between(shared(f"tiny/{name}"), "transformers", "interpreter")
            assert found.found.parted is None, found.verdict
            assert len(found.found.points) > 30


class TestPlantedFaults:
    def parted(self, found: Difference) -> str:
        assert found.found.parted is not None
        return found.found.parted.name

    def test_a_dropped_bias(self, folder: Path) -> None:
        def drop(text: str) -> str:
            for f in re.findall(r"%l1\.gate_up\S*\.biased = add.*", text):
                assert "l1.b_gate" in f
            text = re.sub(r"\n    ?%l1\.gate_up\.biased = add .*", "", text)
            return text.replace("split %l1.gate_up.biased", "split %l1.gate_up")

        bad = edited(folder / "good.gllm", folder / "bias.gllm", drop, "ir")
        found = between(folder / "good.gllm", "interpreter", str(bad))
        assert self.parted(found) == "model.layers.1.mlp.gate_proj"
        said = r"add: only in interpreter, which reads @l1\.b_gate"
        assert any(re.match(said, cause) for cause in found.causes), found.causes

    def test_a_wrong_eps(self, folder: Path) -> None:
        def change(text: str) -> str:
            return re.sub(r"(%l1\.h = rmsnorm .*eps=)[^}]+", r"\g<1>0.25", text)

        bad = edited(folder / "good.gllm", folder / "eps.gllm", change, "ir")
        found = between(folder / "good.gllm", "interpreter", str(bad))
        assert self.parted(found) == "model.layers.1.input_layernorm"
        assert found.causes[0] == f"rmsnorm: eps is {BIASED.norm_eps!r} in interpreter, 0.25 in eps.gllm"

    def test_a_wrong_rope_pairing(self, tmp_path: Path) -> None:
        config = replace(ZOO["plain"], rope_pairing="interleaved", norm_eps=1e-5, rope_theta=10000.0)
        write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 5))
        plans = [
            graphllm.compile(
                tmp_path / "m.bin",
                tmp_path / f"{pairing}.gllm",
                target="numpy",
                overrides=Overrides(rope_pairing=pairing),
            ).path
            for pairing in ("interleaved", "half")
        ]
        found = between(plans[0], "interpreter", str(plans[1]))
        assert self.parted(found) == "model.layers.0.self_attn.q_rotated"
        expected = "rope: pairs a head's elements interleaved in interpreter, half in half.gllm"
        assert found.causes[0] == expected

    def test_one_corrupted_weight(self, folder: Path) -> None:
        with PlanFile.open(folder / "good.gllm") as plan:
            weight = np.array(plan.weight("l1.w_down"))
        weight[5, 7] += 40
        bad = forged(folder / "good.gllm", folder / "weight.gllm", weights={"l1.w_down": weight})
        found = between(folder / "good.gllm", "interpreter", str(bad))
        assert self.parted(found) == "model.layers.1.mlp.down_proj"
        assert found.causes == (f"weight @l1.w_down: 1 of {weight.size} elements differ, most by 40 at [5,7]",)
        a, b = open_subject(folder / "good.gllm"), open_subject(bad)
        (only,) = bisect_weights(a, b, IDS, "score", 1e-4)
        assert only.names == ("l1.w_down",)
        assert "l1.w_down" in weights_text([only], a, b)
        assert bisect_weights(a, a, IDS, "score", 1e-4) == []

    def test_weights_that_rounding_moves_are_ranked(self, folder: Path, tmp_path: Path) -> None:
        plan = graphllm.compile(folder / "model", tmp_path / "i.gllm", target="numpy", context=32, quantize="int8").path
        found = bisect_weights(open_subject(folder / "good.gllm"), open_subject(plan), IDS, "score", 1e-4)
        assert len(found) > 4
        assert [e.effect for e in found] == sorted((e.effect for e in found), reverse=True)

    def test_a_wrong_pass(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from graphllm.compiler.options import Options

        def swaps_gate_and_up(module: Module) -> Module:
            def swap(f: Any) -> Any:
                ops = [
                    replace(op, operands=op.operands[::-1]) if op.name == "mul" and op.result.name == "l1.ffn" else op
                    for op in f.ops
                ]
                silu = next(op for op in ops if op.name == "silu" and op.result.name == "l1.gate.silu")
                made = {v.name: v for op in ops for v in op.results}
                i = ops.index(silu)
                ops[i] = replace(silu, operands=(made["l1.up"],))
                at_up = next(n for n, op in enumerate(ops) if any(v.name == "l1.up" for v in op.results))
                if at_up > i:
                    ops.insert(at_up, ops.pop(i))
                return replace(f, ops=tuple(ops))

            return map_functions(merge_linears(module), swap)

        options = Options(context=32, target="numpy")
        good = bisect_passes(folder / "model", options, IDS, "score")
        assert all(step.found.parted is None for step in good)
        assert {"interleave-rope", "merge-linears", "fuse", "plan-memory"} <= {step.name for step in good}
        assert "every pass keeps the meaning" in passes_text(good)
        monkeypatch.setattr(pipeline, "merge_linears", swaps_gate_and_up)
        bad = bisect_passes(folder / "model", options, IDS, "score")
        assert bad[-1].name == "merge-linears"
        assert bad[-1].found.parted is not None
        assert bad[-1].found.parted.name == "model.layers.1.mlp.act_fn"
        assert "the pass merge-linears changes the meaning" in passes_text(bad)

    def test_wrong_generated_code(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("graphllm.codegen.kernels.numpy.swiglu.add", lambda x, c, out: np.add(x, 1.5, out=out))
        found = between(folder / "good.gllm", "interpreter", "numpy")
        assert self.parted(found) == "model.layers.0.mlp.act_fn"
        assert found.causes == ()
        assert "nothing that they read or are told differs" in difference_text(found)

    def test_nan_is_named_where_it_begins(self, folder: Path) -> None:
        with PlanFile.open(folder / "good.gllm") as plan:
            weight = np.array(plan.weight("l0.wo"))
        weight[2, 3] = np.nan
        bad = forged(folder / "good.gllm", folder / "nan.gllm", weights={"l0.wo": weight})
        found = between(folder / "good.gllm", "interpreter", str(bad))
        assert self.parted(found) == "model.layers.0.self_attn.o_proj"
        assert found.found.parted is not None
        assert found.found.parted.bad == (0, len(IDS))
        assert "0/13" in difference_text(found, every=True)


class TestPieces:
    def test_orders_undo_each_other(self) -> None:
        x = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
        assert np.array_equal(interleaved(half_split(x, 8), 8), x)
        assert half_split(np.arange(8, dtype=np.float32)[None], 4).tolist() == [[0, 2, 1, 3, 4, 6, 5, 7]]

    def test_kept_memory_is_never_shared(self, folder: Path) -> None:
        module = kept(open_subject(folder / "good.gllm").module, NUMPY, "score")
        assert set(module.functions) == {"decode", "score_32"}
        for function in module.functions.values():
            values = [v for op in function.walk() for v in op.results if v.arena is not None]
            places = sorted((v.arena, v.type.bytes) for v in values)
            assert all(a + size <= b for (a, size), (b, _) in pairwise(places))

    def test_one_by_one_kernels_hold_one_operation(self, folder: Path) -> None:
        module = kept(open_subject(folder / "good.gllm").module, NUMPY, "score", apart=True)
        for op in module.functions["score_32"].ops:
            body = op.body.ops if op.body is not None else (op,)
            assert sum(o.name not in ("cast", "dequantize", "embed") for o in body) <= 1
        assert one_by_one(NUMPY).name == NUMPY.name

    def test_weights_in_words(self) -> None:
        x = np.zeros((3, 4), np.float32)
        y = x.copy()
        assert weight_difference(x, y) == ""
        y[2, 1], y[0, 0] = -3, 1
        assert weight_difference(x, y) == "2 of 12 elements differ, most by 3 at [2,1]"

    def test_traces_of_two_models(self) -> None:
        a, b, c = Trace("a", 0.0), Trace("b", 0.0), Trace("c", 0.0)
        a.add("x", np.ones((2, 3)))
        b.add("x", np.ones((2, 4)))
        c.add("y", np.ones((2, 3)))
        with pytest.raises(GraphLLMError, match="not one model"):
            compare(a, b, 2)
        with pytest.raises(GraphLLMError, match="no value of one name"):
            compare(a, c, 2)


class TestCommand:
    def test_exit_codes_json_and_plot(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        good, plot = str(folder / "good.gllm"), tmp_path / "e.svg"
        assert main(["diff", good, "numpy", "-n", "5", "--plot", str(plot)]) == 0
        assert "interpreter and numpy agree at all" in capsys.readouterr().out
        root = ElementTree.fromstring(plot.read_text())
        points = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "point"]
        assert points[-1].get("data-id") == "lm_head"

        def half(text: str) -> str:
            return text.replace('pairing="interleaved"', 'pairing="half"')

        bad = edited(folder / "good.gllm", tmp_path / "b.gllm", half, "ir")
        assert main(["diff", good, str(bad), "-n", "5", "--json"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert said["parted"] == "model.layers.0.self_attn.q_rotated"
        assert said["causes"]
        assert said["names"] == ["good.gllm", "b.gllm"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "nothing to compare with"),
            (["tpu"], "'tpu'; expected interpreter, cpu, numpy, cuda, cuda-sim, transformers"),
            (["numpy", "cpu", "numpy"], "3 sides; expected one"),
            (["numpy", "--ids", "99"], "99"),
            (["numpy", "--ids", "x"], "expected whole numbers"),
            (["numpy", "-p", "Hello"], "no tokenizer"),
            (["numpy", "--ids", "1 " * 33], "33 tokens; expected 1 to 32"),
            (["numpy", "-n", "33"], "33 tokens; expected 1 to 32"),
            (["numpy", "-n", "0"], "0 tokens; expected 1 to 32"),
            (["numpy", "--plot", "a.gif"], "expected a name that ends in .svg or .png"),
            (["demo"], "not one model"),
            (["empty"], "expected interpreter"),
            (["damaged"], "not an array that NumPy reads"),
            (["--bisect", "weights"], "expected one other plan"),
            (["--bisect", "passes"], "a plan; bisecting passes starts from a checkpoint"),
            (["numpy", "--dtype", "bf16"], "a plan; dtype is for checkpoints"),
        ],
    )
    def test_mistakes(
        self,
        folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("damaged").mkdir()
        Path("damaged/lm_head.npy").write_bytes(b"\x93NUMPY")
        assert main(["diff", str(folder / "good.gllm"), *arguments]) == 2
        said = capsys.readouterr()
        assert words in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""

    def test_what_is_not_installed_is_one_line(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for module in ("in_transformers", "plot"):
            monkeypatch.setattr(f"graphllm.measure.diff.{module}.find_spec", lambda name: None)
        assert main(["diff", str(folder / "model"), "transformers"]) == 2
        assert "pip install torch transformers" in capsys.readouterr().err
        assert main(["diff", str(folder / "good.gllm"), "numpy", "-n", "3", "--plot", "a.png"]) == 2
        assert "pip install matplotlib" in capsys.readouterr().err


def test_a_machine_without_a_compiler_says_so(folder: Path) -> None:
    if compiler_command() is not None:
        pytest.skip("there is a C++ compiler here")
    with pytest.raises(GraphLLMError, match="none found"):
        between(folder / "good.gllm", "interpreter", "cpu")


class TestFromValues:
    """Sides without IR, as transformers and dumps are: the difference speaks for itself."""

    def said(self, name: str, change: Any, shape: tuple[int, int] = (6, 24)) -> tuple[str, ...]:
        x = np.random.default_rng(0).standard_normal(shape)
        a, b = Trace("a", 0.0), Trace("b", 0.0)
        a.add(name, x)
        b.add(name, change(x))
        return tuple(causes(a, b, compare(a, b, 8), 8))

    def test_a_bias(self) -> None:
        vector = np.where(np.arange(24) % 2, 0.5, 0)
        (said,) = self.said("model.layers.0.mlp.up_proj", lambda x: x + vector)
        assert said == "every token is off by the same vector, in 12 of 24 elements: a bias, dropped or another"
        interleaved_vector = half_split(vector[None], 8)
        (said,) = self.said(
            "model.layers.0.self_attn.k_proj", lambda x: half_split(x, 8) + interleaved_vector
        )  # heads in the other order
        assert "the same vector" in said

    def test_rows_of_a_weight(self) -> None:
        off = np.zeros(24)
        off[[3, 17]] = 1
        rng = np.random.default_rng(1)
        (said,) = self.said("model.layers.2.mlp.down_proj", lambda x: x + off * rng.standard_normal((6, 1)))
        assert said == "tokens are off in element 3, 17 and nowhere else: those rows of the weight"
        (said,) = self.said("model.layers.2.self_attn.q_proj", lambda x: x + off * rng.standard_normal((6, 1)))
        assert "in head 0, 2 and nowhere else" in said

    def test_norms(self) -> None:
        (said,) = self.said("model.layers.0.input_layernorm", lambda x: x * np.linspace(0.9, 0.95, 6)[:, None])
        assert said == "each token is off by a factor, 0.9 to 0.95: the norm's eps"
        (said,) = self.said("model.norm", lambda x: x * np.where(np.arange(24) == 5, 2, 1))
        assert said == "elements 5 are off by a factor, the same in every token: the norm's weight"

    def test_what_has_no_known_shape_is_not_guessed_at(self) -> None:
        noise = np.random.default_rng(2).standard_normal((6, 24))
        for name in ("model.layers.0.mlp.up_proj", "model.norm", "model.layers.0.mlp.act_fn"):
            assert self.said(name, lambda x: x + noise) == ()
        assert self.said("model.norm", lambda x: x * np.nan) == ()
