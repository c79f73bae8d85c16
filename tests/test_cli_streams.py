"""The command line in a hostile shell: streams closed, full or ASCII, endless input, being ended at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from graphllm.cli import main
from tests.checkpoint_writers import random_tensors, write_huggingface
from tests.model_zoo import ZOO
from tests.small_tokenizer import write_tokenizer

GRAPHLLM = f"'{sys.executable}' -m graphllm"
RUN = f"{GRAPHLLM} run plan.gllm -n 3 --ignore-eos"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint `hf` and its plan `plan.gllm`, with a tokenizer of bytes."""
    base = tmp_path_factory.mktemp("streams")
    config = ZOO["odd_sizes"]
    write_huggingface(base / "hf", config, random_tensors(config, np.random.default_rng(11)))
    write_tokenizer(base / "hf" / "tokenizer.bin")
    assert main(["compile", str(base / "hf"), "-o", str(base / "plan.gllm"), "-q"]) == 0
    return base


def shell(folder: Path, line: str, **environment: str) -> tuple[int, bytes, str]:
    """Exit code, stdout and stderr of a line of bash."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=env, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


class TestClosed:
    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
    @pytest.mark.parametrize("command", [f"{RUN} -p a --stats", f"{GRAPHLLM} show plan.gllm", f"{GRAPHLLM} --version"])
    def test_a_closed_stream_is_no_failure(self, folder: Path, command: str, closed: str) -> None:
        code, _, err = shell(folder, f"{command} {closed}")
        assert code == 0
        assert "Traceback" not in err

    def test_no_file_takes_the_number_of_a_closed_stream(self, folder: Path) -> None:
        line = f"{GRAPHLLM} compile hf -o closed.gllm -q <&- >&- 2>&- && cmp closed.gllm plan.gllm"
        assert shell(folder, line) == (0, b"", "")

    def test_a_mistake_is_one_also_where_it_cannot_be_told(self, folder: Path) -> None:
        for nowhere in ("2>&-", "2>/dev/full"):
            assert shell(folder, f"{RUN} -p a -t -1 {nowhere}")[0] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
class TestFull:
    @pytest.mark.parametrize(
        "command", [f"{RUN} -p a", *(f"{GRAPHLLM} {c}" for c in ("show plan.gllm --source", "cache", "--help"))]
    )
    def test_output_that_is_full_is_one_line(self, folder: Path, command: str) -> None:
        code, _, err = shell(folder, f"{command} >/dev/full", GRAPHLLM_CACHE=str(folder / "cache"))
        assert (code, err) == (2, "graphllm: output: refused by the system; No space left on device\n")


class TestCut:
    @pytest.mark.parametrize("buffering", [{}, {"PYTHONUNBUFFERED": "1"}])
    def test_output_that_is_cut_is_told(self, folder: Path, buffering: dict[str, str]) -> None:
        code, _, err = shell(folder, f"ulimit -f 1; {GRAPHLLM} show plan.gllm --source > cut.txt", **buffering)
        assert (code, err) == (2, "graphllm: output: refused by the system; File too large\n")


class TestAscii:
    def test_what_cannot_be_spelt_is_replaced(self, folder: Path) -> None:
        code, out, err = shell(folder, rf"printf 'h\xc3\xa9' | {RUN}", PYTHONIOENCODING="ascii")
        assert (code, err) == (0, "")
        assert out.startswith(b"h?")

    def test_an_argument_is_utf8_whatever_the_locale(self, folder: Path) -> None:
        c = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8"}
        _, expected, _ = shell(folder, f"{RUN} -p 'é🙂'", PYTHONUTF8="1")
        assert shell(folder, f"{RUN} -p 'é🙂'", **c) == (0, expected, "")
        code, out, err = shell(folder, f"env -u PYTHONIOENCODING {RUN} -p 'é🙂'", **c)
        assert (code, out[:2], err) == (0, b"??", "")

    def test_half_a_character_is_refused(self, folder: Path) -> None:
        for prompt in (r"-p $'abc\xf0\x9f'", r"< <(printf 'abc\xf0\x9f')"):
            code, out, err = shell(folder, f"{RUN} {prompt}")
            assert (code, out) == (2, b"")
            assert err.count("\n") == 1
            assert "not UTF-8 text; unexpected end of data" in err


class TestPrompts:
    def test_a_file_the_standard_input_and_an_argument_are_one_prompt(self, folder: Path) -> None:
        (folder / "prompt.txt").write_bytes("\ufeffthe rain\r\n".encode())  # as a Windows editor leaves it
        expected = shell(folder, f"{RUN} -p 'the rain'")
        assert expected[0] == 0
        for prompt in ("-f prompt.txt", "< prompt.txt", "-f - < prompt.txt", "-f <(echo 'the rain')"):
            assert shell(folder, f"{RUN} {prompt}") == expected

    def test_endless_input_is_refused(self, folder: Path) -> None:
        for command in (f"{RUN} -f /dev/zero", f"{RUN} < /dev/zero", f"{GRAPHLLM} opt /dev/zero"):
            code, out, err = shell(folder, f"ulimit -v 4000000; {command}")
            assert (code, out) == (2, b"")
            assert "longer than 67108864 bytes; expected text\n" in err

    @pytest.mark.parametrize("mistake", ["-n -2", "--context 3"])
    def test_nothing_is_printed_of_a_prompt_that_is_refused(self, folder: Path, mistake: str) -> None:
        code, out, _ = shell(folder, f"{RUN} -p 'a long prompt' {mistake}")
        assert (code, out) == (2, b"")


class TestNames:
    def test_a_name_cannot_break_the_line_or_drive_the_terminal(self, folder: Path) -> None:
        odd = folder / "two\nlines\x1b[2J🙂"
        odd.mkdir(exist_ok=True)
        (odd / "text").write_text("no model")
        for command in (f"{GRAPHLLM} run", f"{GRAPHLLM} show", f"{GRAPHLLM} verify", f"{GRAPHLLM} opt"):
            for name in ("", "/text", "/gone.gllm"):
                code, out, err = shell(folder, f"{command} $'two\\nlines\\x1b[2J🙂{name}'")
                assert (code, out) == (2, b"")
                shows_the_place = command.endswith("opt") and name == "/text"
                assert err.count("\n") == (3 if shows_the_place else 1), err
                assert r"two\nlines\x1b[2J🙂" in err
                assert "\x1b" not in err


class TestEnded:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
    def test_no_part_of_a_plan_is_left(self, folder: Path, name: str) -> None:
        code = (
            "import sys, time, graphllm.compiler.compile as c\n"
            "from graphllm.cli import main\n"
            "real = c.WeightReader.__call__\n"
            "def slow(self, weight):\n"
            "    print('reading', flush=True); time.sleep(0.2); return real(self, weight)\n"
            "c.WeightReader.__call__ = slow\n"
            "sys.exit(main(['compile', 'hf', '-o', 'late.gllm', '-q']))"
        )
        before = {p.name for p in folder.iterdir()}
        process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        assert any(p.suffix == ".tmp" for p in folder.iterdir())  # it is being written
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=30)
        assert process.returncode == 128 + getattr(signal, name)
        assert {p.name for p in folder.iterdir()} == before
