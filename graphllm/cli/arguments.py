"""Every command's options. Only argparse is imported here: help and completion must not wait for anything."""

from __future__ import annotations

import argparse
from typing import NoReturn

from graphllm._version import __version__
from graphllm.cli.generation_arguments import add_batch, add_chat, add_demo, add_run
from graphllm.cli.shared_arguments import (
    add_device,
    add_device_options,
    add_meaning,
    add_model,
    add_model_options,
    add_quantization,
    whole,
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"graphllm: {message}; {self.prog} --help tells the options\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="graphllm",
        description="Compile a Llama or Qwen checkpoint into one file, a plan, and run it.",
        epilog="graphllm COMMAND --help tells a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"graphllm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add_demo(commands.add_parser("demo", help="compile the model that comes with graphllm and let it tell a story"))
    _compile(commands.add_parser("compile", help="compile a checkpoint into a plan"))
    add_run(commands.add_parser("run", help="generate text with a plan or a checkpoint"))
    add_chat(commands.add_parser("chat", help="talk with a model: a dialogue that keeps its cache between turns"))
    add_batch(commands.add_parser("batch", help="answer a file of prompts, JSON lines to JSON lines"))
    _convert(commands.add_parser("convert", help="write a checkpoint in the format of another program"))
    _show(commands.add_parser("show", help="look at a plan or a checkpoint: summary, IR, graph, source, memory"))
    _opt(commands.add_parser("opt", help="run passes over text IR"))
    _report(commands.add_parser("report", help="write one page to look at a plan, or at two and their differences"))
    _emit(commands.add_parser("emit", help="write a C++ program that generates text with a plan"))
    _verify(commands.add_parser("verify", help="check a plan whole: every digest, its IR, its code"))
    _diff(commands.add_parser("diff", help="two ways of computing a model side by side: where do they part, and why"))
    _eval(commands.add_parser("eval", help="perplexity, divergence from another plan, multiple choice"))
    _bench(commands.add_parser("bench", help="prompt and generation speeds, of one model or two turn by turn"))
    _profile(commands.add_parser("profile", help="where the time of a step goes, kernel by kernel"))
    _check(commands.add_parser("check", help="whether a plan or a checkpoint fits in some memory, to the byte"))
    _doctor(commands.add_parser("doctor", help="what this machine offers each target, and what would fix each lack"))
    _cache(commands.add_parser("cache", help="list or clear the plans that run has kept"))
    _completion(commands.add_parser("completion", help="print a completion script for a shell"))
    return parser


def _compile(p: argparse.ArgumentParser) -> None:
    p.description = "Compile a checkpoint (llama2.c, KuiperLLama, GGUF, Hugging Face, Meta) into a plan."
    add_model(p, "checkpoint", "a file or folder; its format is found by content; demo: our own")
    p.add_argument("-o", "--output", required=True, metavar="PLAN", help="the plan to write, as a rule *.gllm")
    p.add_argument(
        "--target",
        choices=["cpu", "numpy", "cuda"],
        help="what to lower it for (default: cpu where there is a C++ compiler)",
    )
    p.add_argument(
        "--arch",
        default="",
        metavar="A,B",
        help="with --target cuda: carry machine code for these GPUs, sm_90,sm_86; see run --trust-code",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="no progress, no table")
    p.add_argument("--measure", action="store_true", help="with --quantize: find and keep the error of every tensor")
    p.add_argument(
        "--calibrate",
        metavar="FILE",
        help="with --quantize: compare the rounded model with the unrounded one on this text",
    )
    p.add_argument("--dump-ir", metavar="DIR", help="write the IR after every pass that changed it")
    add_model_options(p)


def _convert(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Write a checkpoint as llama2.c (v0, v1, v2: int8) or KuiperLLama (kuiper: f32, kuiper-int8) reads it, or as a "
        "Hugging Face folder (hf); or its sentencepiece vocabulary as tokenizer.bin. It streams: memory does not grow "
        "with the model."
    )
    add_model(p, "checkpoint", "a file or folder; its format is found by content; demo: our own")
    formats = ["v0", "v1", "v2", "kuiper", "kuiper-int8", "hf", "tokenizer.bin"]
    p.add_argument("--to", required=True, choices=formats, metavar="FORMAT", help=", ".join(formats))
    p.add_argument("-o", "--output", required=True, metavar="PATH", help="the file to write, or for hf the new folder")
    p.add_argument(
        "--group-size",
        type=whole,
        default=0,
        metavar="G",
        help="int8: elements under one scale (default: the largest of 64, 32 … that divides D and F)",
    )
    p.add_argument("--dtype", choices=["f32", "f16", "bf16"], help="hf: of all tensors (default: each its own)")
    p.add_argument(
        "--rows",
        choices=["interleaved", "half"],
        help="kuiper: the order of q and k rows (default: as the build for such a model wants them)",
    )
    p.add_argument("--tokenizer", metavar="FILE", help="hf, tokenizer.bin: the tokenizer, when it lies elsewhere")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary")
    add_meaning(p)


def _show(p: argparse.ArgumentParser) -> None:
    p.description = "Without options: a summary of one page. A checkpoint is compiled in memory, its weights not read."
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--stage", choices=["traced", "optimised", "lowered"], help="the IR at this stage")
    what.add_argument(
        "--source",
        nargs="?",
        const="",
        choices=["", "cpu", "numpy", "cuda"],
        metavar="TARGET",
        help="the generated source",
    )
    what.add_argument("--memory", action="store_true", help="the memory map of a function: address by time")
    p.add_argument(
        "--resources",
        nargs="?",
        const="sm_90",
        metavar="ARCH",
        help="registers, shared memory, spills and bytes moved of every CUDA kernel (default: sm_90); with --source, "
        "its code too",
    )
    p.add_argument("--function", metavar="NAME", help="only this function: decode, prefill_32 …")
    p.add_argument("--layer", type=whole, metavar="N", help="only this layer")
    p.add_argument(
        "--format", choices=["text", "json", "dot", "svg"], help="dot and svg draw the graph, or the memory map"
    )
    p.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")
    add_model_options(p)


def _opt(p: argparse.ArgumentParser) -> None:
    p.description = "Text IR in, text IR out. --list tells the passes."
    p.add_argument("input", nargs="?", default="-", help="a file of text IR, - for standard input (default)")
    p.add_argument("--passes", default="", metavar="A,B", help="passes to run, in this order")
    p.add_argument(
        "--target", choices=["cpu", "numpy", "cuda"], default="numpy", help="whose templates (default: numpy)"
    )
    p.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="bf16", help="for the pass cast (default: bf16)")
    add_quantization(p)
    p.add_argument("--verify", action="store_true", help="check the input's rules too, and say on stderr that all held")
    p.add_argument("--time", action="store_true", help="what each pass did and how long it took, on stderr")
    p.add_argument("--list", action="store_true", help="list the passes and what each does")
    p.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard output")


def _report(p: argparse.ArgumentParser) -> None:
    p.description = (
        "One self-contained HTML page: graph, passes, memory map, weights, kernels and code of a plan, or of a "
        "checkpoint compiled in memory. Two plans show their differences. No weight is read."
    )
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    p.add_argument("other", nargs="?", help="another one to compare it with")
    p.add_argument(
        "-o", "--output", metavar="FILE", help="the page to write (default: report.html; --json: standard output)"
    )
    p.add_argument("--json", action="store_true", help="the data of the page instead of the page")
    p.add_argument("--profile", metavar="FILE", help="times of a step to show, the JSON of a profile")
    p.add_argument(
        "--bandwidth",
        default="measure",
        metavar="RATE",
        help="bytes a second for the least time of a step, as 40GB/s; none; measure (default): this machine's",
    )
    p.add_argument(
        "--flops", default="none", metavar="RATE", help="operations a second for it, as 2Tflop/s (default: none)"
    )
    p.add_argument(
        "--resources",
        nargs="?",
        const="sm_90",
        metavar="ARCH",
        help="of the target cuda: compile its kernels, show registers, spills, shared memory (default: sm_90)",
    )
    p.add_argument("--target", choices=["cpu", "numpy", "cuda"], help="what a checkpoint is lowered for")
    add_model_options(p)


def _emit(p: argparse.ArgumentParser) -> None:
    p.description = "Write a folder with a C++ program, its Makefile, weights and tokenizer: it needs a compiler only."
    p.add_argument("plan")
    p.add_argument("-o", "--output", required=True, metavar="DIR", help="the folder to write, new or empty")
    p.add_argument("--target", choices=["cpu"], default="cpu", help="what it runs on (default: cpu)")
    p.add_argument(
        "--context", type=whole, default=0, metavar="S", help="positions of the KV cache (default: the plan's)"
    )
    p.add_argument(
        "--kv", choices=["f32", "f16", "bf16", "int8"], help="what the KV cache stores (default: as the plan)"
    )
    p.add_argument("-q", "--quiet", action="store_true", help="no progress, no last line")


def _verify(p: argparse.ArgumentParser) -> None:
    p.description = "Read a plan whole: every digest, the rules of its IR, its code, each step run dry."
    p.add_argument("plan")


def _diff(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Runs two ways of computing a model on the same tokens and names the first value where they part. A side is "
        "interpreter, a device (cpu, cuda-sim …), transformers, another plan or checkpoint (other.gllm@cpu: on a "
        "device), or a folder of arrays. With one side, the other is the interpreter. Exit code 0: they agree, 1: they "
        "part."
    )
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    p.add_argument("sides", nargs="*", metavar="SIDE", help="one or two; see above")
    what = p.add_mutually_exclusive_group()
    what.add_argument("-p", "--prompt", metavar="TEXT")
    what.add_argument("-f", "--file", metavar="FILE", help="its first tokens")
    what.add_argument("--ids", metavar="IDS", help="token ids (default: random ones, from a fixed seed)")
    p.add_argument("-n", "--tokens", type=whole, metavar="N", help="how many (default: 32, or what the context holds)")
    p.add_argument(
        "--function",
        choices=["score", "decode", "prefill"],
        default="score",
        help="the steps that take them (default: score, all logits)",
    )
    p.add_argument("--tolerance", type=float, default=0.0, metavar="X", help="relative error (default: by formats)")
    p.add_argument("--bisect", choices=["passes", "weights"], help="which pass, or which weight of the other plan")
    p.add_argument("--all", action="store_true", help="every point, not only the worst of each layer")
    p.add_argument("--dump", metavar="DIR", help="write every value as .npy, under Hugging Face's names")
    p.add_argument("--plot", metavar="FILE", help="error by depth: .svg, or .png with matplotlib")
    p.add_argument("--json", action="store_true", help="the same as data")
    add_device_options(p)
    add_model_options(p)


def _eval(p: argparse.ArgumentParser) -> None:
    p.description = "How good a model is on a text, and what rounding or another change to it cost."
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", metavar="FILE", help="perplexity on a UTF-8 text")
    what.add_argument("--tokens", metavar="FILE", help="on token ids: .bin (uint16, as llama2.c), .npy, .json, or text")
    what.add_argument("--choices", metavar="FILE", help='JSON lines of {"prompt", "choices", "answer"}')
    p.add_argument("--against", metavar="PLAN", help="the reference: KL divergence from it, and top-1 agreement")
    p.add_argument("--window", type=whole, default=0, metavar="N", help="positions seen at once (default: 512)")
    p.add_argument("--stride", type=whole, default=0, metavar="N", help="tokens scored a window (default: all)")
    p.add_argument("--bos", choices=["auto", "yes", "no"], default="auto", help="begin each window with BOS")
    p.add_argument("--limit", type=whole, default=0, metavar="N", help="no more tokens, or questions, than these")
    p.add_argument("--json", action="store_true", help="the same as data")
    add_device(p)
    add_model_options(p)


def _bench(p: argparse.ArgumentParser) -> None:
    p.description = "Times prompts (pp) and generation (tg); numbers may be lists, as -p 128,512."
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    p.add_argument("-p", "--prompt", type=_list, metavar="N", help="tokens of a prompt, 0: none (default: 512)")
    p.add_argument("-n", "--generate", type=_list, metavar="N", help="tokens to generate, 0: none (default: 128)")
    p.add_argument("-b", "--batch", type=_list, metavar="B", help="sequences generated side by side (default: 1)")
    p.add_argument("-d", "--depth", type=_list, metavar="N", help="tokens in the cache before it starts (default: 0)")
    p.add_argument("-r", "--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    p.add_argument("--against", metavar="PLAN", help="another model, timed turn by turn with the first")
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same as data")
    form.add_argument("--markdown", action="store_true", help="the table in Markdown")
    add_device(p)
    add_model_options(p)


def _list(text: str) -> list[int]:
    return [whole(part) for part in text.split(",")]


_list.__name__ = "list of whole numbers"


def _profile(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Times every kernel of a step, in a variant of the code made for it; on a GPU with events between launches."
    )
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    p.add_argument("--function", default="decode", metavar="NAME", help="decode, prefill_N, score_N (default: decode)")
    p.add_argument("--position", type=whole, default=0, metavar="N", help="tokens in the cache before it (default: 0)")
    p.add_argument("--steps", type=int, default=30, metavar="N", help="how many are timed (default: %(default)s)")
    p.add_argument("--apart", action="store_true", help="each operation in a kernel of its own: time by operation")
    p.add_argument("--trace", metavar="FILE", help="write a trace that Perfetto and Chrome open")
    p.add_argument("--svg", metavar="FILE", help="draw the step: its layers and kernels as wide as their time")
    p.add_argument("-o", "--output", metavar="FILE", help="write the profile as JSON, for a report")
    p.add_argument("--json", action="store_true", help="print it as JSON")
    add_device(p)
    add_model_options(p)


def _check(p: argparse.ArgumentParser) -> None:
    p.description = (
        "What weights, KV cache, arena and workspace take, and the largest context and batch that fit. No weight is "
        "read. Exit code 0: it fits, 1: it does not."
    )
    add_model(p, "model", "a plan, or a checkpoint that is not compiled yet; demo: our own")
    p.add_argument("--memory", metavar="SIZE", help="as 8GiB or 500MB (default: what is free on the device)")
    add_device(p)
    p.add_argument("--json", action="store_true", help="the same as data")
    add_model_options(p)


def _doctor(p: argparse.ArgumentParser) -> None:
    p.description = "Exit code 1 where something is broken; what is only absent can be done without."
    p.add_argument("--json", action="store_true", help="the same as data")


def _cache(p: argparse.ArgumentParser) -> None:
    p.description = "Plans made by `graphllm run CHECKPOINT` are kept in $GRAPHLLM_CACHE or the user's cache folder."
    p.add_argument("--clear", action="store_true", help="delete them all")


def _completion(p: argparse.ArgumentParser) -> None:
    p.description = 'For bash: eval "$(graphllm completion bash)"'
    p.add_argument("shell", choices=["bash", "zsh", "tcsh"])
