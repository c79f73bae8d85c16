"""Options that several commands have."""

from __future__ import annotations

import argparse


def add_model(p: argparse.ArgumentParser, name: str, help: str) -> None:
    """A positional argument that shells complete by files and our model's name."""
    by_shell = {"bash": "_graphllm_model", "zsh": "_graphllm_model", "tcsh": "f"}
    p.add_argument(name, help=help).complete = by_shell  # pyright: ignore[reportAttributeAccessIssue]  # read by shtab


def whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}; expected 0 or more")
    return value


whole.__name__ = "whole number"  # argparse names the type in its messages


def add_model_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--tokenizer", metavar="FILE", help="tokenizer.json, tokenizer.model or tokenizer.bin, or its folder"
    )
    p.add_argument(
        "--context",
        type=whole,
        default=0,
        metavar="S",
        help="positions of the KV cache (default: the model's, at most 4096)",
    )
    p.add_argument("--slots", type=whole, default=0, metavar="B", help="sequences held at once (default: 1)")
    p.add_argument(
        "--kv",
        choices=["f32", "f16", "bf16", "int8"],
        help="what the KV cache stores, int8 with a scale for each head (default: f16 on cpu, f32 on numpy)",
    )
    p.add_argument(
        "--dtype", choices=["f32", "f16", "bf16"], help="what matrices are stored in (default: the checkpoint's)"
    )
    add_quantization(p)
    add_meaning(p)


def add_meaning(p: argparse.ArgumentParser) -> None:
    meaning = p.add_argument_group("what a flat checkpoint does not say")
    meaning.add_argument(
        "--preset", choices=["llama2", "llama3", "kuiper-llama3", "kuiper-qwen2"], help="a known set of the below"
    )
    meaning.add_argument("--norm-eps", type=float, metavar="X")
    meaning.add_argument("--rope-theta", type=float, metavar="X")
    meaning.add_argument("--rope-pairing", choices=["interleaved", "half"])
    meaning.add_argument("--model-context", type=whole, metavar="S", help="the longest position the model claims")

    meaning.add_argument(
        "--rope-scaling",
        metavar="KIND:FACTOR[:S]",
        help="llama3:32, linear:4, yarn:4:32768; S: the context first trained on (default of llama3: 8192)",
    )


def add_quantization(p: argparse.ArgumentParser) -> None:
    q = p.add_argument_group("int8")
    q.add_argument(
        "--quantize",
        choices=["int8", "int8-dynamic"],
        help="round matrices to int8 groups; int8-dynamic: activations too, as they are multiplied",
    )
    q.add_argument("--group", type=group, metavar="G", help="elements of a row under one scale (default: 64), or row")
    q.add_argument("--scales", choices=["f16", "f32"], help="what scales are stored in (default: f16)")
    q.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="leave tensors of that name as they are: a part of it, * for anything; may be given again",
    )


def group(text: str) -> int:
    """A size of groups; 0 stands for whole rows."""
    value = 0 if text == "row" else int(text)
    if value < 0 or text == "0":
        raise argparse.ArgumentTypeError(f"{text}; expected 1 or more, or row")
    return value


group.__name__ = "size of groups"


def add_template(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--template",
        metavar="NAME",
        help="one that came with the model, chatml, llama-2, llama-3, llama-3.1, llama-3.2, mistral, qwen2, qwen2.5, "
        "qwen3, zephyr, or a file *.jinja (default: the model's own)",
    )
    p.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="for the template: enable_thinking=false"
    )


def add_ends(p: argparse.ArgumentParser, max_tokens: int, without: str = "-1: no limit (default: %(default)s)") -> None:
    """Where an answer ends; ``without`` tells what -1, or nothing, means."""
    p.add_argument(
        "-n", "--max-tokens", type=int, default=max_tokens, metavar="N", help=f"at most N tokens an answer; {without}"
    )
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end at this text; may be given again")
    p.add_argument(
        "--stop-id", action="append", default=[], type=whole, metavar="ID", help="end at this token, likewise"
    )


def add_logprobs(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--logprobs",
        type=whole,
        nargs="?",
        const=0,
        metavar="K",
        help="each token's log-probability, and those of the K likeliest in its place",
    )


def add_sampling(p: argparse.ArgumentParser, temperature: float | None) -> None:
    """Settings that were not given are None; ``temperature`` None: it is the model's to say."""
    s = p.add_argument_group("sampling")
    default = "%(default)s" if temperature is not None else "what the model's makers advise, else 0.7"
    s.add_argument(
        "-t", "--temperature", type=float, default=temperature, metavar="X", help=f"0: greedy (default: {default})"
    )
    s.add_argument("--top-k", type=int, metavar="K")
    s.add_argument("--top-p", type=float, metavar="X")
    s.add_argument("--min-p", type=float, metavar="X")
    s.add_argument("--repetition-penalty", type=float, metavar="X")
    s.add_argument("--presence-penalty", type=float, metavar="X")
    s.add_argument("--frequency-penalty", type=float, metavar="X")
    s.add_argument("--penalty-window", type=int, metavar="N", help="tokens that penalties look back; 0: all")
    s.add_argument("--logit-bias", action="append", default=[], metavar="ID=X", help="may be given again")
    s.add_argument("--seed", type=int, metavar="N")
    s.add_argument(
        "--sampler",
        choices=["llama2.c", "sample.py", "meta", "learning-lm-rs"],
        help="the sampler of another program, with those of these settings that it has",
    )


def add_device(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--device", metavar="NAME", help="cpu, numpy, cuda or cuda-sim (default: cpu where there is a C++ compiler)"
    )
    p.add_argument("--trust-code", action="store_true", help="on cuda: run machine code that the plan carries")
    add_device_options(p)


def add_device_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--threads", type=whole, default=0, metavar="N", help="on cpu (default: one for each physical core)")
    p.add_argument(
        "--expand",
        choices=["auto", "always", "never"],
        default="auto",
        help="on numpy, expand 16-bit weights to f32 in memory",
    )
