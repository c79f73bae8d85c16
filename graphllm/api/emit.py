"""A plan, or a checkpoint, as a program of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graphllm.api.lowered import Say, Wanted
from graphllm.api.model import PathLike, stop_ids_of
from graphllm.api.source import source_of
from graphllm.errors import GraphLLMError, RunError
from graphllm.plan.plan_file import PlanFile, is_plan

if TYPE_CHECKING:
    from graphllm.ir.core import Module
    from graphllm.ir.types import DType

TARGETS = ("cpu",)


def emit(
    plan: PathLike,
    folder: PathLike,
    *,
    target: str = "cpu",
    context: int = 0,
    kv_dtype: DType | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    say: Say = lambda line: None,
) -> Path:
    """Write a C++ project that generates text with a plan's model; it builds with nothing but a compiler.

    Args:
        plan: a plan; a checkpoint is compiled with ``compile`` first.
        folder: to be made; it may be there if it is empty.
        target: ``cpu``.
        context, kv_dtype: of its KV cache; 0 and None keep the plan's own. It holds one sequence.
        progress: called with (what, done, total).
        say: is told in one line what was done without being asked for.

    Raises:
        PlanError: the plan is damaged, or describes something that is not a model; the folder cannot be written.
        TokenizerError: its tokenizer is damaged.
        RunError: another target.
        GraphLLMError: not a plan.
    """
    from graphllm.codegen.cpu.target import CPU
    from graphllm.compiler.emit.project import Emission, refuse_folder
    from graphllm.compiler.emit.tokenizer_file import emitted_tokenizer
    from graphllm.compiler.link import LoweredForOther, check_kernels, check_weights
    from graphllm.runtime.interface import check_interface
    from graphllm.runtime.tokenizer import load_tokenizer

    if target not in TARGETS:
        raise RunError(f"target: {target!r:.40}; expected {', '.join(TARGETS)}")
    source = source_of(plan)
    refuse_folder(Path(folder))
    if source.exists() and not is_plan(source):
        raise GraphLLMError(f"{source}: not a plan; expected one, as `graphllm compile {source} -o FILE.gllm` makes it")

    def checked(module: Module) -> Module:
        where = str(source)
        check_interface(module, where)
        check_kernels(module, where, CPU)
        check_weights(file, module)
        return module

    with PlanFile.open(source, verify="all") as file:
        wanted = Wanted(file, context, 1, kv_dtype, say)
        try:
            own = wanted.own("cpu")
            module = checked(own) if own is not None else None
        except LoweredForOther:
            module = None
        module = module if module is not None else checked(wanted.again("cpu"))
        vocab = module.functions["decode"].results[0].type.shape[-1]
        tokenizer = load_tokenizer(file.tokenizer, vocab) if file.tokenizer is not None else None
        emission = Emission(
            plan=file,
            module=module,
            stop_ids=stop_ids_of(file, tokenizer),
            allowed=min(vocab, tokenizer.vocab_size) if tokenizer is not None else vocab,
            tokenizer=emitted_tokenizer(file.tokenizer, tokenizer) if file.tokenizer and tokenizer else None,
        )
        emission.write(Path(folder), progress)
        if emission.tokenizer is not None and emission.tokenizer.why_not:
            say(f"prompts are ids: {emission.tokenizer.why_not}")
    return Path(folder)
