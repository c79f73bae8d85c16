"""``graphllm report`` as a command: what it writes, and one line for what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphllm.api.report import report_subject
from graphllm.cli import main
from graphllm.cli.report import rate
from graphllm.errors import GraphLLMError
from tests.report_plans import profile_of
from tests.small_plans import small_plan


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(plan), "--bandwidth", "10GB/s"]) == 0
    assert "report.html" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    (tmp_path / "p.json").write_text(json.dumps(profile_of(report_subject(plan)).as_json()))
    assert main(["report", str(plan), str(plan), "--json", "--profile", "p.json", "--bandwidth", "none"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plans"][0]["profile"]["device"] == "numpy"
    assert told["plans"][1]["profile"] is None
    assert told["differences"]["weights"] == []
    assert main(["report", str(tmp_path / "model"), "--json", "--bandwidth", "none", "--target", "numpy"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "compiled in memory" in told["plans"][0]["notes"][0]
    assert main(["report", str(plan), "-o", "-", "--bandwidth", "none"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["small.gllm", "-o", "small.gllm"], "the model itself"),
        (["small.gllm", "other.gllm"], "no such file"),
        (["cut.gllm"], "cut short"),
        (["small.gllm", "--quantize", "int8"], "are for checkpoints"),
        (["small.gllm", "--bandwidth", "fast"], "expected a rate"),
        (["small.gllm", "--profile", "nothing.json"], "cannot be read"),
        (["small.gllm", "--profile", "bad.json"], "not JSON"),
        (["small.gllm", "--profile", "other.json"], "expected a profile of version 1"),
        (["small.gllm", "--profile", "larger.json"], "profile this plan"),
        (["small.gllm", "--profile", "device.json"], "of @decode on cpu, which is not what this plan runs on numpy"),
        (["small.gllm", "--profile", "ops.json"], "profile this plan"),
        (["small.gllm", "--resources"], "is lowered for numpy; expected the target cuda"),
        (["small.gllm", "--resources", "sm_1"], "'sm_1'; expected some of sm_75"),
        (["small.gllm", "-o", "no/such/folder.html"], "no such folder"),
    ],
)
def test_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = small_plan(tmp_path)
    Path("cut.gllm").write_bytes(plan.read_bytes()[:-9])
    Path("bad.json").write_text("{")
    Path("other.json").write_text("{}")
    if "--profile" in arguments:
        profile = profile_of(report_subject(plan)).as_json()
        Path("device.json").write_text(json.dumps(profile | {"device": "cpu"}))
        other = [k | {"ops": ["silu"]} for k in profile["kernels"]]
        Path("ops.json").write_text(json.dumps(profile | {"kernels": other}))
        profile["kernels"][-1]["index"] = 999
        Path("larger.json").write_text(json.dumps(profile))
    assert main(["report", *arguments, *([] if "--bandwidth" in arguments else ["--bandwidth", "none"])]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not Path("report.html").exists()


def test_rates() -> None:
    assert rate("x", "40GB/s") == 40e9
    assert rate("x", "2Tflop/s") == 2e12
    assert rate("x", "123") == 123
    assert rate("x", "none") == 0
    for text in ("0", "-1GB/s", "1e99", "GB", "nan"):
        with pytest.raises(GraphLLMError, match="expected a rate"):
            rate("x", text)
