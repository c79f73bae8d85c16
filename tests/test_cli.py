"""The command line as a user meets it: help, completion, compile and run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from graphllm.plan.place import size_text
from tests.checkpoint_writers import random_tensors, write_llama2c
from tests.command_line import called, folder, graphllm, refused
from tests.model_zoo import ZOO
from tests.shared_data import shared

__all__ = ["folder"]


class TestFirstContact:
    def test_help_names_every_command_and_loads_nothing(self, tmp_path: Path) -> None:
        code = (
            "import sys; from graphllm.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "print([m for m in ('numpy', 'rich', 'tokenizers', 'networkx', 'ml_dtypes') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for command in ("compile", "run", "show", "opt", "verify", "cache", "completion"):
            assert re.search(rf"^ +{command}\b", done.stdout, re.MULTILINE)
        assert done.stdout.endswith("[]\n")

    def test_version(self, tmp_path: Path) -> None:
        done = graphllm(tmp_path, "--version")
        assert re.fullmatch(r"graphllm \d+\.\d+\.\d+\n", done.stdout)

    @pytest.mark.parametrize("shell", ["bash", "zsh"])
    def test_completion_knows_commands_and_options(self, tmp_path: Path, shell: str) -> None:
        script = called(tmp_path, "completion", shell).stdout
        assert "compile" in script
        assert "--temperature" in script

    def test_bash_completes(self, tmp_path: Path) -> None:
        script = tmp_path / "completion.bash"
        script.write_text(called(tmp_path, "completion", "bash").stdout)
        code = f'source {script}; COMP_WORDS=(graphllm co); COMP_CWORD=1; _shtab_graphllm; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
        assert {"compile", "completion"} <= set(done.stdout.split()), done.stderr

    @pytest.mark.parametrize("command", ["compile", "run", "show"])
    def test_bash_completes_our_model(self, tmp_path: Path, command: str) -> None:
        script = tmp_path / "completion.bash"
        script.write_text(called(tmp_path, "completion", "bash").stdout)
        (tmp_path / "demons.gllm").touch()
        words = f'COMP_WORDS=(graphllm {command} dem); COMP_CWORD=2; _shtab_graphllm; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", f"source {script}; {words}"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert {"demo", "demons.gllm"} <= set(done.stdout.split()), done.stderr


class TestCompile:
    def test_the_table_tells_what_was_made(self, folder: Path) -> None:
        done = graphllm(folder, "compile", "hf", "-o", "again.gllm")
        assert done.returncode == 0
        for word in ("weights", "arena", "kernels", "fuse", "merge-linears", "no tokenizer"):
            assert word in done.stdout.lower(), done.stdout
        assert done.stdout.endswith(f"\nwritten: again.gllm, {size_text((folder / 'again.gllm').stat().st_size)}\n")
        assert (folder / "again.gllm").read_bytes() == (folder / "plan.gllm").read_bytes()

    def test_dump_ir_writes_what_each_pass_changed(self, folder: Path) -> None:
        done = called(folder, "compile", "hf", "-o", "dumped.gllm", "-q", "--dump-ir", "ir")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        names = sorted(p.name for p in (folder / "ir").iterdir())
        assert names[0] == "00-traced.ir"
        assert {"01-interleave-rope.ir", "02-merge-linears.ir"} <= set(names)
        # each is text that opt takes back
        again = called(folder, "opt", f"ir/{names[-1]}")
        assert again.stdout == (folder / "ir" / names[-1]).read_text()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("nowhere", "-o", "x.gllm"), ("nowhere", "no such file")),
            (("hf", "-o", "missing/x.gllm"), ("missing", "x.gllm")),
            (("hf", "-o", "hf"), ("hf", "folder")),
            (("hf", "-o", "x.gllm", "--tokenizer", "nowhere.json"), ("nowhere.json",)),
            (("hf", "-o", "x.gllm", "--context", "99999999999"), ("context", "99999999999")),
            (("hf", "-o", "x.gllm", "--norm-eps", "nan"), ("norm_eps", "nan")),
            (("hf/config.json", "-o", "x.gllm"), ("config.json",)),
        ],
    )
    def test_a_mistake_is_one_line(self, folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
        refused(called(folder, "compile", *arguments), *words)
        assert not (folder / "x.gllm").exists()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                ("compile", "hf", "-o", "x.gllm", "--context", "-1"),
                ("expected 0 or more", "compile --help"),
            ),
            (("compile", "hf"), ("-o/--output", "required")),
            (("run", "plan.gllm", "-n", "1.5"), ("-n", "'1.5'", "graphllm run --help")),
            (("run", "plan.gllm", "--bogus"), ("unrecognized", "--bogus")),
            (("magic",), ("magic", "compile")),
        ],
    )
    def test_options_argparse_refuses(self, folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
        refused(called(folder, *arguments), *words)


class TestRun:
    def test_ids_in_ids_out(self, folder: Path) -> None:
        done = graphllm(folder, "run", "plan.gllm", "--ids", "1 2 3", "-n", "12", "--ignore-eos")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) == 12
        assert done.stderr == ""

    def test_a_checkpoint_needs_no_compile_step(self, folder: Path) -> None:
        plan = graphllm(folder, "run", "plan.gllm", "--ids", "1 2 3", "-n", "8")
        for _ in range(2):
            done = graphllm(folder, "run", "hf", "--ids", "1 2 3", "-n", "8")
            assert (done.returncode, done.stdout) == (0, plan.stdout)
        listed = graphllm(folder, "cache")
        assert "1 plan, " in listed.stdout
        assert "deleted" in graphllm(folder, "cache", "--clear").stdout
        assert "0 plans" in graphllm(folder, "cache").stdout

    def test_a_cache_with_other_things_in_it(self, folder: Path) -> None:
        called(folder, "run", "hf", "--ids", "1", "-n", "1")
        (folder / "cache" / "gone.gllm").symlink_to("nowhere")
        (folder / "cache" / "text.gllm").write_text("no plan")
        listed = called(folder, "cache")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert "3 plans" in listed.stdout
        assert listed.stdout.count("damaged; it will be made again") == 2
        assert called(folder, "cache", "--clear").returncode == 0
        assert not list((folder / "cache").iterdir())

    def test_stats_go_to_stderr(self, folder: Path) -> None:
        done = called(folder, "run", "plan.gllm", "--ids", "1 2 3", "-n", "8", "--ignore-eos", "--stats")
        assert len(done.stdout.split()) == 8
        assert "tok/s" in done.stderr
        assert "arena" in done.stderr
        assert "seed" not in done.stderr  # greedy takes no random number
        sampled = called(folder, "run", "plan.gllm", "--ids", "1", "-n", "1", "--stats", "-t", "1", "--seed", "7")
        assert "seed 7 " in sampled.stderr

    def test_a_seed_repeats(self, folder: Path) -> None:
        sampled = [
            called(folder, "run", "plan.gllm", "--ids", "1 2", "-n", "16", "-t", "1.5", "--seed", seed).stdout
            for seed in ("5", "5", "6")
        ]
        assert sampled[0] == sampled[1] != sampled[2]

    def test_another_context_is_lowered_again_and_says_so(self, folder: Path) -> None:
        done = called(folder, "run", "plan.gllm", "--ids", "1 2 3", "-n", "30", "--context", "9", "--ignore-eos")
        assert len(done.stdout.split()) == 7  # six positions are left, and the last token needs none
        assert "lowered again" in done.stderr
        assert "context of 9 positions is full" in done.stderr

    def test_the_compiler_half_stays_out(self, folder: Path) -> None:
        code = (
            "import sys; from graphllm.cli import main\n"
            "main(['run', 'plan.gllm', '--ids', '1 2 3', '-n', '3'])\n"
            "print([m for m in sys.modules if m.startswith(('graphllm.frontends', 'graphllm.passes'))])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("plan.gllm", "-p", "hello"), ("no tokenizer", "ids")),
            (("plan.gllm", "--ids", "one"), ("--ids", "whole numbers")),
            (("plan.gllm", "--ids", ""), ("no tokens",)),
            (("plan.gllm", "--ids", "99999999"), ("99999999", "vocabulary")),
            (("plan.gllm", "--ids", "-1"), ("-1", "vocabulary")),
            (("plan.gllm", "--ids", "1", "-t", "-1"), ("temperature",)),
            (("plan.gllm", "--ids", "1", "--top-p", "7"), ("top_p", "7")),
            (("plan.gllm", "--ids", "1", "--logit-bias", "x"), ("--logit-bias", "ID=NUMBER")),
            (("plan.gllm", "--ids", "1", "-n", "-5"), ("max_tokens", "-5")),
            (("plan.gllm", "-f", "missing.txt"), ("missing.txt",)),
            (("plan.gllm", "-f", "plan.gllm"), ("plan.gllm", "UTF-8")),
            (("missing.gllm", "--ids", "1"), ("missing.gllm",)),
            (("plan.gllm", "--ids", "1 2 3 4", "--context", "3"), ("4 tokens", "3 positions")),
        ],
    )
    def test_a_mistake_is_one_line(self, folder: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
        done = called(folder, "run", *arguments)
        lines = [line for line in done.stderr.splitlines() if "lowered again" not in line]
        refused(subprocess.CompletedProcess([], done.returncode, done.stdout, "\n".join(lines) + "\n"), *words)

    def test_the_readers_end_of_a_pipe_may_close(self, folder: Path) -> None:
        command = f"{sys.executable} -m graphllm run plan.gllm --ids '1 2' -n 200 --ignore-eos | head -c 5"
        done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
        assert len(done.stdout) == 5
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr

    def test_ctrl_c_ends_cleanly(self, folder: Path) -> None:
        process = subprocess.Popen(
            f"{sys.executable} -m graphllm run plan.gllm -n -1 --ignore-eos --context 2000000 --ids 1,2".split(),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.read(20)  # it is talking
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert out.endswith("\n")
        assert "Traceback" not in err


class TestCtrlCWhileCompiling:
    def test_nothing_is_left_under_the_final_name(self, folder: Path) -> None:
        code = (
            "import sys, time, graphllm.compiler.compile as c\n"
            "from graphllm.cli import main\n"
            "real = c.WeightReader.__call__\n"
            "def slow(self, weight):\n"
            "    print('reading', flush=True); time.sleep(0.2); return real(self, weight)\n"
            "c.WeightReader.__call__ = slow\n"
            "sys.exit(main(['compile', 'hf', '-o', 'late.gllm', '-q']))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        before = set(folder.iterdir())
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert err == "graphllm: interrupted\n"
        assert not (folder / "late.gllm").exists()
        assert not [p for p in set(folder.iterdir()) | before if p.exists() and p.suffix == ".tmp"]


class TestStories:
    """The commands of the README on the real checkpoint."""

    def test_compile_and_run(self, tmp_path: Path) -> None:
        model, vocabulary = shared("real/stories260K/stories260K.bin"), shared("real/stories260K/tok512.bin")
        done = graphllm(tmp_path, "compile", str(model), "--tokenizer", str(vocabulary), "-o", "stories.gllm")
        assert done.returncode == 0, done.stderr
        told = graphllm(tmp_path, "run", "stories.gllm", "-p", "Once upon a time", "-n", "196", "--temperature", "0")
        assert told.stdout == (
            "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she"
            " saw a big, red ball. She wanted to play with it, but it was too high.\n"
            "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, \"I"
            " want to play with your ball, but I can't find it.\"\n"
            "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\n"
            "Lily didn't want to help her mom, so she\n"
        )
        piped = graphllm(tmp_path, "run", "stories.gllm", "-n", "4", "--no-echo", stdin=b"Once upon a time\n")
        assert piped.stdout == ", there was a\n"

    def test_untied_flat_file(self, tmp_path: Path) -> None:
        config = next(c for c in ZOO.values() if c.rope_pairing == "interleaved" and not c.tied)
        write_llama2c(tmp_path / "m.bin", config, random_tensors(config, np.random.default_rng(3)), version=1)
        done = graphllm(tmp_path, "run", "m.bin", "--ids", "1 2 3", "-n", "4")
        assert len(done.stdout.split()) == 4
