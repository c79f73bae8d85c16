"""The command line as a user meets it: what show, opt and verify print."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors.numpy import load_file

from tests.command_line import called, folder, refused

__all__ = ["folder"]


class TestShow:
    def test_a_page_about_a_plan_and_about_a_checkpoint(self, folder: Path) -> None:
        plan, checkpoint = (called(folder, "show", what).stdout for what in ("plan.gllm", "hf"))
        assert plan == checkpoint
        for word in ("Model", "KV cache", "decode", "ratio", "1.000", "merge-linears"):
            assert word in plan

    @pytest.mark.parametrize("stage", ["traced", "optimised", "lowered"])
    def test_every_stage_is_text_that_opt_takes(self, folder: Path, stage: str) -> None:
        text = called(folder, "show", "plan.gllm", "--stage", stage).stdout
        assert text == called(folder, "show", "hf", "--stage", stage).stdout
        assert called(folder, "opt", stdin=text.encode()).stdout == text
        (folder / "some.ir").write_text(text)
        assert called(folder, "show", "some.ir", "--stage", stage).stdout == text

    def test_one_function_one_layer(self, folder: Path) -> None:
        text = called(folder, "show", "plan.gllm", "--stage", "lowered", "--function", "decode", "--layer", "0").stdout
        assert "func @decode" in text
        assert "%l0.att" in text
        assert "%l1." not in text
        assert "prefill" not in text

    def test_pictures(self, folder: Path) -> None:
        for arguments in (("--format", "svg"), ("--memory", "--format", "svg")):
            done = called(folder, "show", "plan.gllm", *arguments, "-o", "picture.svg")
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            assert ElementTree.parse(folder / "picture.svg").getroot().tag.endswith("svg")
        assert called(folder, "show", "plan.gllm", "--format", "dot").stdout.startswith("digraph")
        assert re.match(r"@decode: arena \d+ bytes", called(folder, "show", "plan.gllm", "--memory").stdout)

    def test_json_for_tools(self, folder: Path) -> None:
        data = json.loads(called(folder, "show", "plan.gllm", "--format", "json").stdout)
        assert {f["name"] for f in data["functions"]} >= {"decode", "prefill_8"}
        chosen = ("--format", "json", "--function", "decode", "--layer", "1")
        (decode,) = json.loads(called(folder, "show", "plan.gllm", *chosen).stdout)["functions"]
        assert decode["name"] == "decode"
        assert {ref for op in decode["ops"] for ref in op["results"]} > {"%l1.keys", "%l1.values"}
        assert not any(ref.startswith("%l0.") for op in decode["ops"] for ref in op["results"])

    def test_source_is_python(self, folder: Path) -> None:
        ast.parse(called(folder, "show", "plan.gllm", "--source").stdout)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("nowhere",), ("nowhere",)),
            (("plan.gllm", "--function", "nope"), ("nope", "decode")),
            (("plan.gllm", "--stage", "lowered", "--layer", "99"), ("99",)),
            (("plan.gllm", "-o", "missing/x"), ("missing",)),
            (("plan.gllm", "-o", "plan.gllm"), ("plan.gllm", "the model itself")),
            (("plan.gllm", "--context", "9"), ("plan.gllm", "a plan", "for checkpoints")),
            (("plan.gllm", "--dtype", "f16"), ("plan.gllm", "a plan", "for checkpoints")),
            (("plan.gllm", "--memory", "--format", "json"), ("--memory", "json", "expected --format text or svg")),
            (("plan.gllm", "--layer", "0", "-o", "layer.svg"), ("--layer", "svg", "expected --format text or json")),
        ],
    )
    def test_a_mistake_is_one_line(self, folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
        refused(called(folder, "show", *arguments), *words)


class TestOpt:
    TEXT = "weight @w : f32[4,6]\n\nfunc @f(%x: f32[1,6]) {\n  %y = linear %x, @w : f32[1,4]\n  return %y\n}\n"

    def test_text_to_text(self, tmp_path: Path) -> None:
        done = called(tmp_path, "opt", "--passes", "fuse,plan-memory", "--time", "--verify", stdin=self.TEXT.encode())
        assert done.returncode == 0, done.stderr
        assert 'kernel "linear" (%x) -> %y {' in done.stdout
        assert "arena+0" in done.stdout
        assert "fuse" in done.stderr
        assert "verified" in done.stderr

    def test_nothing_asked_nothing_changed(self, tmp_path: Path) -> None:
        assert called(tmp_path, "opt", stdin=self.TEXT.encode()).stdout == self.TEXT

    def test_an_error_shows_where(self, tmp_path: Path) -> None:
        done = called(tmp_path, "opt", stdin=self.TEXT.replace("f32[1,4]", "f32[1,5]").encode())
        assert done.returncode == 2
        first, source, caret = done.stderr.splitlines()
        assert re.match(r"graphllm: <stdin>:4:\d+: linear: result %y; expected f32\[1,4\], got f32\[1,5\]", first)
        assert source.strip() == "%y = linear %x, @w : f32[1,5]"
        assert caret.strip() == "^"

    def test_unknown_pass(self, tmp_path: Path) -> None:
        refused(called(tmp_path, "opt", "--passes", "magic", stdin=b""), "magic", "known ones are interleave-rope")

    def test_list(self, tmp_path: Path) -> None:
        out = called(tmp_path, "opt", "--list").stdout
        assert re.search(r"^fuse +Groups operations into kernels", out, re.MULTILINE)


class TestVerify:
    def test_good_and_damaged(self, folder: Path, tmp_path: Path) -> None:
        assert "all digests match" in called(folder, "verify", "plan.gllm").stdout
        damaged = bytearray((folder / "plan.gllm").read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / "damaged.gllm").write_bytes(damaged)
        refused(called(tmp_path, "verify", "damaged.gllm"), "damaged.gllm")

    def test_a_plan_is_a_safetensors_file(self, folder: Path) -> None:
        tensors = load_file(folder / "plan.gllm")
        assert any(name.startswith("weight/") for name in tensors)
