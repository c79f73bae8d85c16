"""``graphllm.convert``: a checkpoint in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphllm.api.model import PathLike
from graphllm.api.source import source_of
from graphllm.compiler.convert import Conversion, Converted, Format, Progress
from graphllm.compiler.convert import convert as convert_checkpoint
from graphllm.frontends.overrides import NO_OVERRIDES

if TYPE_CHECKING:
    from graphllm.frontends.checkpoint import StoredDType
    from graphllm.frontends.config import RopePairing
    from graphllm.frontends.overrides import Overrides


def convert(
    path: PathLike,
    out: PathLike,
    to: Format,
    *,
    group: int = 0,
    dtype: StoredDType | None = None,
    rows: RopePairing | None = None,
    tokenizer: PathLike | None = None,
    overrides: Overrides | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write a checkpoint in another format, complete or not at all, in the memory of a few blocks of a tensor.

    Args:
        path: a checkpoint of any format that ``compile`` takes; ``demo`` is our own.
        out: the file, or for ``hf`` the folder, to write.
        to: ``v0``, ``v1``, ``v2`` (llama2.c), ``kuiper``, ``kuiper-int8``, ``hf``, or ``tokenizer.bin``.
        group: elements under one int8 scale, for v2 and kuiper-int8; 0 = the largest of 64, 32 … that fits.
        dtype: f32, f16 or bf16, what the tensors of ``hf`` are stored in; None keeps each tensor's own.
        rows: the order of q and k rows in a kuiper file; None = as the build for such a model expects.
        tokenizer: the tokenizer for ``hf`` and ``tokenizer.bin``, when it does not lie beside the checkpoint.
        overrides: what the checkpoint does not say, or says wrong.
        progress: called with (what, done, total).

    Raises:
        GraphLLMError: settings that do not go together.
        CheckpointError: it cannot be read, the format cannot express it, or ``out`` cannot be written.
        TokenizerError: there is no tokenizer that a tokenizer.bin can express.
    """
    how = Conversion(to, group, dtype, rows, overrides or NO_OVERRIDES)
    named = Path(tokenizer) if tokenizer is not None else None
    return convert_checkpoint(source_of(path), Path(out), how, named, progress)
