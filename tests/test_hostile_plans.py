"""Plans written by an enemy, with every digest in order: an error in one line, and nothing of theirs is run.

What cannot be refused by a rule is tried at random: texts mutated token by token either run or are refused.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphllm
from graphllm.cli import main
from graphllm.codegen.kernels.numpy.convert import tile_rows
from graphllm.plan.plan_file import PlanFile
from graphllm.plan.tokenizer_data import TokenizerData
from tests.small_plans import LOWERED, edited, forged, small_plan

ROOT = Path(__file__).resolve().parents[1]
Edit = Callable[[str], str]
TOKEN = re.compile(r"[%@]?[A-Za-z0-9_.+]+|\n|[^\s]")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_plan(tmp_path_factory.mktemp("small"))


def tried(path: Path, **options: Any) -> str:
    """The line with which a plan is refused, while loading or running; '' for one that runs. Little is allocated."""
    tracemalloc.start()
    try:
        model = graphllm.load(path, **options)
        model.logits([1, 2, 3])
        model.generate([1, 2, 3, 4, 5, 6, 7, 8, 9], max_tokens=2)
        message = ""
    except graphllm.GraphLLMError as error:
        message = str(error)
        assert message
        assert "\n" not in message
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000_000
    return message


def put(old: str, new: str, count: int = 1) -> Edit:
    """Text replaced, the first time it occurs or (-1) every time."""
    return lambda text: text.replace(old, new, count)


def without_function(name: str) -> Edit:
    return lambda text: re.sub(rf"func @{name}\(.*?\n}}\n", "", text, flags=re.DOTALL)


EDITS: dict[str, tuple[Edit, str]] = {
    "everything at one place": (lambda t: re.sub(r"in arena\+\d+", "in arena+0", t), "overlap in the arena"),
    "a place outside the arena": (put("in arena+192", "in arena+1000000000"), "inside 384"),
    "a place at an odd byte": (put("in arena+192", "in arena+193"), "multiple of 64"),
    "an arena of 2^59 bytes": (put("arena 384 {", f"arena {2**59} {{"), "memory"),
    "an arena of 2^63 bytes": (put("arena 384 {", f"arena {2**63} {{"), "integer"),
    "a weight the file has otherwise": (put("@tok_emb : f32[11,8]", "@tok_emb : f32[4096,8]"), "weight tok_emb"),
    "a weight of 2^60 elements": (
        put("@tok_emb : f32[11,8]", "@tok_emb : f32[144115188075855872,8]"),
        "weight tok_emb",
    ),
    "a weight the file lacks": (put("tok_emb", "tok_embed", -1), "weight tok_embed: missing"),
    "weights defined by each other": (
        put("weight @norm", "weight @a : f32[8,8] = concat @b\nweight @b : f32[8,8] = concat @a\nweight @norm"),
        "@b is not defined",
    ),
    "a weight defined by itself": (
        put("weight @norm", "weight @a : f32[8,8] = concat @a\nweight @norm"),
        "not defined",
    ),
    "no decode": (without_function("decode"), "expected decode"),
    "no score": (without_function("score_16"), "score_N"),
    "no functions": (lambda t: t[: t.index("func ")], "expected decode"),
    "nothing": (lambda t: "", "states"),
    "no states": (lambda t: re.sub(r"state .*\n", "", t), "not defined"),
    "a state of rank 1": (put("state @kv.0.k", "state @odd : f32[3]\nstate @kv.0.k"), "expected a KV cache"),
    "a state of integers": (put("state @kv.0.k", "state @odd : i32[1,1,16,4]\nstate @kv.0.k"), "expected a KV cache"),
    "a state of another context": (put("state @kv.0.k", "state @odd : f32[1,1,17,4]\nstate @kv.0.k"), "positions"),
    "a state of 2^60 elements": (
        put("state @kv.0.k", f"state @odd : f32[1,{2**30},16,{2**26}]\nstate @kv.0.k"),
        "memory",
    ),
    "a context of 2^30": (put(",16,4]", f",{2**30},4]", -1), "positions"),
    "a dimension of no size": (put("f32[1,1,16,4]", "f32[1,0,16,4]"), "positive sizes"),
    "inputs of other names": (put("ids", "words", -1), "inputs; expected %ids"),
    "inputs in another order": (put("%ids: i32[1], %pos: i32[1]", "%pos: i32[1], %ids: i32[1]"), "inputs; expected"),
    "inputs of other types": (put("%slot: i32[1])", "%slot: f32[1])"), "expected i32[1]"),
    "too many inputs": (put("%slot: i32[1])", "%slot: i32[1], %more: i32[1])"), "inputs; expected"),
    "positions for slots": (put("%pos, %slot {scale", "%slot, %pos {scale"), "operands"),
    "rows of one function in another": (put("func @prefill_8(", "func @prefill_9("), "inputs; expected"),
    "more rows than positions": (put("func @score_16(", "func @score_17("), "17 rows; expected 1 to 16"),
    "more rows than slots": (put("func @prefill_8(", "func @decode_8("), "8 rows; expected 2 to 1"),
    "rows that may be anywhere": (put(") consecutive arena", ") arena"), "expected consecutive"),
    "rows that follow each other": (put(") arena", ") consecutive arena"), "expected independent"),
    "no result": (put("  return %logits, ", "  return "), "results; expected"),
    "two results": (put("  return %logits, ", "  return %logits, %logits, "), "results; expected"),
    "a result elsewhere": (put("  return %logits, ", "  return %ids, "), "results; expected"),
    "a weight as the result": (put("  return %logits, ", "  return @lm_head, "), "results; expected"),
    "a state that is not handed back": (put(", @kv.0.v = %l0.values", ""), "handed back"),
    "a step nobody calls": (put("func @prefill_8(", "func @warm_up("), "not a step"),
    "a name that is code": (put("func @prefill_8(", "func @prefill_8.__class__("), "not a step"),
    "an operation that does not exist": (put("= silu ", "= eval "), "unknown operation"),
    "an operation not for run time": (
        put("= rmsnorm %x, @l0.att_norm {eps=1e-05}", "= interleave %x {heads=1}"),
        "",
    ),
    "an epsilon of infinity": (put("eps=1e-05", "eps=1e999"), "finite"),
    "an epsilon of many digits": (put("eps=1e-05", "eps=" + "9" * 5000), "finite"),
    "sizes that do not add up": (put("sizes=[4,8,4]", "sizes=[4,8,400000000]"), "split"),
    "an attribute that is code": (put('pairing="interleaved"', 'pairing="\\");import os;("'), "pairing"),
    "a long list of sizes": (put("sizes=[4,8,4]", "sizes=[" + "1," * 20_000 + "1]"), "split"),
    "many brackets": (lambda t: "{" * 20_000, "expected weight, state or func"),
    "characters of no language": (put("func @decode", "func \x00\x1b[2J@decode"), "character"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_ir_is_refused(tmp_path: Path, plan: Path, name: str) -> None:
    edit, expected = EDITS[name]
    message = tried(edited(plan, tmp_path / "p.gllm", edit))
    assert message
    assert expected in message
    assert message.startswith((str(tmp_path / "p.gllm"), "memory: "))
    assert len(message) < 700 + len(str(tmp_path))


# What another version's generator might have wanted: the plan is lowered again, so nothing of this is used at all.
UNFIT: dict[str, Edit] = {
    "an inner value without a place": put("f32[1,8] in arena+64\n", "f32[1,8]\n"),
    "no scratch": lambda t: re.sub(r" scratch arena\+\d+:\d+", "", t, count=1),
    "little scratch": put("scratch arena+0:192", "scratch arena+0:64"),
    "no template": put('kernel "linear"', 'kernel ""'),
    "a template that is code": put('kernel "linear"', r'kernel "f():\n  import os #"'),
    "a template that is a keyword": put('kernel "linear"', 'kernel "def"'),
    "a template that is a builtin": put('kernel "linear"', 'kernel "__import__"'),
    "no memory at all": lambda t: re.sub(r" arena \d+ \{| in arena\+\d+| scratch arena\+\d+:\d+", _without, t),
}


def _without(found: re.Match[str]) -> str:
    return " {" if found[0].endswith("{") else ""


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_kernels_are_made_again(tmp_path: Path, plan: Path, name: str) -> None:
    said: list[str] = []
    path = edited(plan, tmp_path / "p.gllm", UNFIT[name])
    assert graphllm.load(path, say=said.append).logits([1, 2]).tobytes() == graphllm.load(plan).logits([1, 2]).tobytes()
    assert said == [f"lowered again: the plan was not lowered by graphllm {graphllm.__version__} for numpy"]


def test_a_plan_of_another_version_is_lowered_again(tmp_path: Path, plan: Path) -> None:
    """Whatever its kernels are by now; also one that was never lowered for this target."""
    with PlanFile.open(plan) as file:
        provenance = {**file.documents["provenance"], "graphllm": "0.0.9"}
    expected = graphllm.load(plan).logits([1, 2]).tobytes()
    old = {"documents": {"provenance": provenance}, "texts": {LOWERED: "of another language"}}
    for changes in (old, {"texts": {LOWERED: None}}, {"documents": {"provenance": None}}):
        said: list[str] = []
        path = forged(plan, tmp_path / "p.gllm", **changes)
        assert graphllm.load(path, say=said.append).logits([1, 2]).tobytes() == expected
        assert len(said) == 1


def test_a_plan_without_prefill_still_runs(tmp_path: Path, plan: Path) -> None:
    """Nothing but speed depends on it."""

    def edit(text: str) -> str:
        return without_function("prefill_16")(without_function("prefill_8")(text))

    slow, fast = graphllm.load(edited(plan, tmp_path / "p.gllm", edit)), graphllm.load(plan)
    assert slow.generate([1, 2, 3, 4], max_tokens=9).tokens == fast.generate([1, 2, 3, 4], max_tokens=9).tokens


@pytest.mark.parametrize("seed", range(4))
def test_mutated_ir_runs_or_is_refused(tmp_path: Path, plan: Path, seed: int) -> None:
    """Tokens dropped, doubled, swapped, taken from elsewhere, numbers changed: no other exception, ever."""
    rng = random.Random(seed)
    with PlanFile.open(plan) as file:
        text = file.sections[LOWERED]
    spans = [m.span() for m in TOKEN.finditer(text)]
    ran = 0
    for _ in range(120):
        new = mutated(rng, text, spans)
        message = tried(forged(plan, tmp_path / "p.gllm", texts={LOWERED: new}))
        ran += not message
    assert ran < 60


def mutated(rng: random.Random, text: str, spans: list[tuple[int, int]]) -> str:
    """One to three mutations; types, names and places are as likely as punctuation."""
    changes: dict[int, str] = {}
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(spans))
        begin, end = spans[at]
        token = text[begin:end]
        other = text[slice(*rng.choice(spans))]
        same_kind = [s for s in rng.choices(spans, k=200) if text[s[0]] == text[begin] and text[slice(*s)] != token]
        choices = ["", f"{token} {token}", other, *(text[slice(*s)] for s in same_kind[:6])]
        if token.isdigit():
            choices += [str(int(token) * 2), str(int(token) + 1), "0", "1", "-1", str(2**40)] * 2
        changes[at] = rng.choice(choices)
    out, last = list[str](), 0
    for at in sorted(changes):
        out += [text[last : spans[at][0]], changes[at]]
        last = spans[at][1]
    return "".join([*out, text[last:]])


def test_a_plan_without_its_ir(tmp_path: Path, plan: Path) -> None:
    assert tried(forged(plan, tmp_path / "a.gllm", texts={"ir": None})) == ""  # which running it does not need
    for texts in ({"ir": None}, {"ir": None, LOWERED: None}):
        path = forged(plan, tmp_path / "p.gllm", texts=texts)
        assert "section ir: not in this plan" in tried(path, context=17)
        assert (LOWERED in texts) == ("section ir: not in this plan" in tried(path))


RECORDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "no config": ("config", {}, "lacks"),
    "sizes of nothing": ("config", {"heads": 0}, "heads is 0"),
    "heads that do not divide": ("config", {"heads": 3, "kv_heads": 2}, "3 heads with 2 kv heads"),
    "a negative size": ("config", {"dim": -8}, "dim (hidden size) is -8"),
    "a size that is text": ("config", {"dim": "8"}, "dim: expected int, got '8'"),
    "a size that is true": ("config", {"dim": True}, "dim: expected int, got True"),
    "a fraction": ("config", {"layers": 1.5}, "layers: expected int"),
    "more layers than weights": ("config", {"layers": 4096}, "4096 layers"),
    "2^40 layers": ("config", {"layers": 2**40}, "layers is"),
    "weights that are not there": ("config", {"qkv_bias": True}, "l0.bq"),
    "another vocabulary": ("config", {"vocab": 2**31 - 1, "tied": True}, ""),
    "a RoPE of no kind": ("config", {"rope_pairing": "sideways"}, "rope_pairing"),
    "a scaling that is a list": ("config", {"rope_scaling": []}, "rope_scaling: expected an object"),
    "a scaling by nothing": ("config", {"rope_scaling": {"kind": "linear", "factor": 0}}, "factor"),
    "a theta of 1": ("config", {"rope_theta": 1}, "theta"),
    "an epsilon of 0": ("config", {"norm_eps": 0}, "eps"),
    "windows of other layers": ("config", {"windows": [1, 2, 3]}, "3 windows; expected one for each of 1"),
    "a window of minus one": ("config", {"windows": [-1]}, "window"),
    "windows that are objects": ("config", {"windows": [{}]}, "windows: expected"),
    "no steps": ("options", {"steps": None}, "step sizes: expected an object"),
    "many steps": ("options", {"steps": {"context": 16, "prefill": list(range(2, 50))}}, "expected a few"),
    "a step of nothing": ("options", {"steps": {"context": 16, "prefill": [0]}}, "positive"),
    "a step of 2^40": ("options", {"steps": {"context": 16, "score": 2**40}}, "positive"),
    "a cache of 32-bit integers": ("options", {"steps": {"context": 16, "kv_dtype": "i32"}}, "f32, f16, bf16, i8"),
    "slots without end": ("options", {"steps": {"context": 16, "slots": 2**40}}, "slots"),
    "groups of text": ("options", {"group": "64"}, "group"),
    "an unknown dtype": ("options", {"dtype": "i8"}, "dtype"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_of_another_model_is_refused(tmp_path: Path, plan: Path, name: str) -> None:
    """The record matters when a plan is lowered again."""
    document, changes, expected = RECORDS[name]
    with PlanFile.open(plan) as file:
        record = {**file.documents[document], **changes} if changes else {}
    message = tried(forged(plan, tmp_path / "p.gllm", documents={document: record}), context=17)
    if expected:
        assert expected in message
        assert str(tmp_path) in message


@pytest.mark.parametrize("eos", [5, "2", None, [[1]], {"1": 2}, [1.5, "a"], [-1, 10**30]])
def test_end_tokens_that_are_none(tmp_path: Path, plan: Path, eos: Any) -> None:
    with PlanFile.open(plan) as file:
        config = {**file.documents["config"], "eos_ids": eos}
    tried(forged(plan, tmp_path / "p.gllm", documents={"config": config}))


@pytest.mark.parametrize("record", [3, {"fuse": 1}, ["fuse", None, 7], [{"name": ["\x1b[2J"], "ops": "\x1b[31m\n"}]])
def test_reports_and_sources_of_any_shape_are_shown(
    tmp_path: Path,
    plan: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    record: Any,
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setenv("GRAPHLLM_CACHE", str(cache))
    path = forged(plan, cache / "p.gllm", documents={"report": {"passes": record}, "provenance": {"files": record}})
    for command in (["show", str(path)], ["cache"]):
        assert main(command) == 0, capsys.readouterr().err
        assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["tokenizer.json", "sentencepiece", "llama2.c"])
@pytest.mark.parametrize("blob", [b"", b"{}", b"\x0a\xff\xff\xff", b"\xff" * 64, b"[" * 5000])
def test_broken_tokenizers(tmp_path: Path, plan: Path, kind: Any, blob: bytes) -> None:
    path = forged(plan, tmp_path / "p.gllm", tokenizer=TokenizerData(kind, blob, "", "{{ 1 / 0 }}"))
    assert tried(path)


@pytest.mark.parametrize("group", [1, 3, 64, 10**17])
def test_tiles_are_no_larger_than_their_matrix(group: int) -> None:
    """A forged dequantize may name groups far longer than its rows."""
    assert all(1 <= tile_rows((n, k), group) <= n for n in (1, 7, 64) for k in (1, 8, 96))


def test_a_compiled_plan_too_large_for_the_machine(tmp_path: Path) -> None:
    path = small_plan(tmp_path, context=1 << 24, slots=1024)
    assert re.search(r"memory: the KV cache takes 550 GB .*; choose a smaller --context or fewer --slots", tried(path))


WATCHED = """
import sys
names, texts = set(), []
STARTS_SOMETHING = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}
def hook(event, arguments):
    if event == "compile":
        texts.append(arguments[0])
    elif event == "exec" and arguments[0].co_filename.startswith("<gen"):
        names.add(arguments[0].co_filename)
    elif event in STARTS_SOMETHING or event in ("exec", "import", "pickle.find_class"):
        names.add(event)
import graphllm
def everything():
    model = graphllm.load(sys.argv[1], verify="all")
    model.lowered, model.plan.module, model.plan.source
    model.logits([1, 2])
    graphllm.load(sys.argv[1], context=20).generate([1], max_tokens=2)
    return len(model.generate([1, 2, 3], max_tokens=2, ignore_eos=True).tokens)
everything()  # all that is ours is imported
sys.addaudithook(hook)
done = everything()
print(sorted(names), done, len(texts), any("CANARY" in str(text) for text in texts))
"""


def test_nothing_of_theirs_is_executed(tmp_path: Path, plan: Path) -> None:
    """The one text that is executed is ours, from IR that cannot hold theirs; a plan's own copy is only for reading."""
    canary = "import os; os.system('echo CANARY'); raise SystemExit('CANARY')"
    with PlanFile.open(plan) as file:
        lowered = file.sections[LOWERED].replace("model.norm.weight", r"CANARY\n" + canary) + f"// {canary}\n"
        config = {**file.documents["config"], "family": canary}
    path = forged(
        plan,
        tmp_path / "p.gllm",
        texts={"source/numpy": canary, LOWERED: lowered, "source/cuda": canary},
        documents={"config": config, "CANARY": {canary: canary}},
    )
    done = subprocess.run([sys.executable, "-c", WATCHED, str(path)], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip() == "['<generated by graphllm>'] 2 2 False"
