"""From any checkpoint to the files of other programs: llama2.c, KuiperLLama, a Hugging Face folder, tokenizer.bin."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Literal, get_args

from graphllm.errors import CheckpointError, GraphLLMError, PlanError, TokenizerError
from graphllm.frontends.checkpoint import Checkpoint, StoredDType
from graphllm.frontends.config import ModelConfig, RopePairing
from graphllm.frontends.flat_writer import flat_target, write_flat
from graphllm.frontends.huggingface_writer import write_huggingface
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.overrides import NO_OVERRIDES, PRESETS, Overrides
from graphllm.frontends.tokenizer_file import NAMES, find_tokenizer
from graphllm.plan.atomic_file import replacing
from graphllm.plan.place import refusal, shown
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer.export import to_tokenizer_bin, tokenizer_files

Progress = Callable[[str, int, int], None]
Format = Literal["v0", "v1", "v2", "kuiper", "kuiper-int8", "hf", "tokenizer.bin"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to convert.

    Attributes:
        to: the format to write.
        group: elements under one int8 scale, for v2 and kuiper-int8; 0 = the largest of 64, 32 … that fits.
        dtype: what a Hugging Face folder's tensors are stored in; None keeps each tensor's own.
        rows: the order of q and k rows in a kuiper file; None = as the build for such a model expects.
        overrides: what the checkpoint does not say, or says wrong.
    """

    to: Format
    group: int = 0
    dtype: StoredDType | None = None
    rows: RopePairing | None = None
    overrides: Overrides = NO_OVERRIDES

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise GraphLLMError(f"to: {self.to!r}; expected one of {', '.join(FORMATS)}")
        if self.dtype is not None and self.to != "hf":
            raise GraphLLMError(f"dtype {self.dtype}: {self.to} has one of its own; expected it with hf")
        if self.rows is not None and self.to != "kuiper" and self.to != "kuiper-int8":
            raise GraphLLMError(f"rows {self.rows}: {self.to} has one order; expected it with kuiper or kuiper-int8")
        if self.group and self.to not in ("v2", "kuiper-int8"):
            raise GraphLLMError(f"group size {self.group}: {self.to} holds no int8; expected it with v2 or kuiper-int8")


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: the file or folder, its bytes, and what a reader has to be told."""

    path: Path
    bytes: int
    notes: tuple[str, ...]


def convert(
    source: Path, out: Path, how: Conversion, tokenizer: Path | None = None, progress: Progress | None = None
) -> Converted:
    """Write ``source`` in another format to ``out``, atomically, in the memory of a few blocks of a tensor.

    Raises:
        CheckpointError: it cannot be read, the format cannot express it, or ``out`` cannot be written.
        TokenizerError: there is no tokenizer that a tokenizer.bin can express.
    """
    if how.to == "tokenizer.bin":
        return _tokenizer_bin(source, out, tokenizer)
    checkpoint = open_checkpoint(source, how.overrides)
    _refuse_sources(out, checkpoint)
    if how.to == "hf":
        data = checkpoint.tokenizer if tokenizer is None and checkpoint.tokenizer else find_tokenizer(source, tokenizer)
        size = _folder(out, checkpoint, how.dtype, data, progress)
        more = () if data is not None else ("no tokenizer was found, and none was written; --tokenizer names one",)
        return Converted(out, size, (*checkpoint.notes, *more))
    target = flat_target(checkpoint, how.to, how.group, how.rows)
    size = write_flat(out, checkpoint, target, progress)
    return Converted(out, size, (*checkpoint.notes, *_unsaid(checkpoint.config, target.pairing, how.to)))


def _unsaid(config: ModelConfig, pairing: RopePairing, to: Format) -> tuple[str, ...]:
    """What the file cannot say of the model, as options for whoever reads it."""
    default = PRESETS["kuiper-qwen2" if config.qkv_bias else "llama2"]
    said: list[str] = []
    if config.norm_eps != default.norm_eps:
        said.append(f"--norm-eps {config.norm_eps:g}")
    if config.rope_theta != default.rope_theta:
        said.append(f"--rope-theta {config.rope_theta:g}")
    if pairing != default.rope_pairing:
        said.append(f"--rope-pairing {pairing}")
    s = config.rope_scaling
    if s.kind != "default":
        said.append(f"--rope-scaling {s.kind}:{s.factor:g}" + (f":{s.original_context}" if s.original_context else ""))
    if not said:
        return ()
    other = "; llama2.c itself assumes eps 1e-5, theta 1e4 and no scaling" if to.startswith("v") else ""
    return (f"the file does not say it: read it with {' '.join(said)}{other}",)


def _refuse_sources(out: Path, checkpoint: Checkpoint) -> None:
    for file in checkpoint.files:
        with suppress(OSError, ValueError):
            if out.samefile(file) or out.samefile(file.parent):
                raise CheckpointError(f"{shown(out)}: it holds what is converted; expected another name")


def _folder(
    out: Path,
    checkpoint: Checkpoint,
    dtype: StoredDType | None,
    tokenizer: TokenizerData | None,
    progress: Progress | None,
) -> int:
    """Write a new folder, under its final name only when it is complete."""
    try:
        if out.is_dir() and any(out.iterdir()):
            raise CheckpointError(f"{shown(out)}: a folder with something in it; expected a new or an empty one")
        made = Path(mkdtemp(prefix=".graphllm-", dir=out.absolute().parent))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shown(out)}: cannot be written; {refusal(error)}") from None
    try:
        size = write_huggingface(made, checkpoint, dtype, progress)
        for name, content in tokenizer_files(tokenizer).items() if tokenizer is not None else ():
            with replacing(made / name, len(content)) as file:
                file.write(content)
        made.chmod(0o777 & ~_umask())
        os.replace(made, out)
    except OSError as error:
        raise CheckpointError(f"{shown(out)}: cannot be written; {refusal(error)}") from None
    except PlanError as error:
        raise CheckpointError(str(error)) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return size


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _tokenizer_bin(source: Path, out: Path, tokenizer: Path | None) -> Converted:
    given = tokenizer or source
    data = find_tokenizer(given, given)
    if data is None:
        raise TokenizerError(f"{given}: no tokenizer; expected one of {', '.join(NAMES)}")
    content = to_tokenizer_bin(data, shown(given))
    try:
        with replacing(out, len(content)) as file:
            file.write(content)
    except PlanError as error:
        raise TokenizerError(str(error)) from None
    return Converted(out, len(content), ())
