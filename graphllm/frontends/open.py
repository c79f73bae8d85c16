"""Opens a checkpoint of any format that we read. The content decides, never the name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.flat_file import read_flat
from graphllm.frontends.gguf import read_gguf_checkpoint
from graphllm.frontends.gguf_file import looks_like_gguf
from graphllm.frontends.huggingface import read_huggingface
from graphllm.frontends.huggingface_config import CONFIG_FILES
from graphllm.frontends.mapped_file import MappedFile, map_file, unreadable
from graphllm.frontends.meta import PARAMS, is_training, read_meta, read_training
from graphllm.frontends.overrides import NO_OVERRIDES, Overrides
from graphllm.frontends.safetensors_file import looks_like_safetensors, parse_safetensors
from graphllm.frontends.torch_file import OLD_TORCH, looks_like_torch, parse_torch

KNOWN = "expected a folder of Hugging Face or Meta, or a file of llama2.c, KuiperLLama or GGUF"


def open_checkpoint(path: str | os.PathLike[str], overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint at a path, of whichever format its content says.

    Headers and sizes are checked and files are mapped; no weight is read. Raises CheckpointError, whose message names
    the format where it is one that we know and do not read, and else what was considered.
    """
    where = Path(path)
    try:
        folder = stat.S_ISDIR(where.stat().st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(where, error) from None
    return open_folder(where, overrides) if folder else open_file(map_file(where), overrides)


def open_folder(folder: Path, overrides: Overrides) -> Checkpoint:
    """A Hugging Face folder has a config.json, Meta's a params.json."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise unreadable(folder, error) from None
    if CONFIG_FILES[0] in names:
        return read_huggingface(folder, overrides)
    if PARAMS in names:
        return read_meta(folder, overrides)
    raise CheckpointError(f"{folder}: a folder without {CONFIG_FILES[0]} or {PARAMS}{inside(names)}; {KNOWN}")


def inside(names: set[str]) -> str:
    """What else a folder holds that somebody may have meant."""
    meant = sorted(name for name in names if name.endswith((".gguf", ".bin", ".pt", ".pth", ".gllm", ".safetensors")))
    return f", with {', '.join(meant[:4])}{' …' if len(meant) > 4 else ''} in it" if meant else ""


def open_file(file: MappedFile, overrides: Overrides) -> Checkpoint:
    """Formats with a magic by their magic; the flat ones, which have none, by their exact size."""
    start = file.data[: len(OLD_TORCH)]
    if looks_like_torch(file):
        torch = parse_torch(file)
        if is_training(torch):
            return read_training(torch, overrides)
        what = "a state dict of PyTorch" if torch.entries else "a file of torch.save that is no state dict"
        raise CheckpointError(
            f"{file.path}: {what}; its folder with config.json or {PARAMS} makes a checkpoint; {KNOWN}"
        )
    if start == OLD_TORCH:
        parse_torch(file)  # says why not
    if looks_like_gguf(file):
        return read_gguf_checkpoint(file, overrides)
    if looks_like_safetensors(file):
        if parse_safetensors(file).metadata.get("format") == "gllm":
            raise CheckpointError(f"{file.path}: a compiled plan and not a checkpoint; load or run it as it is")
        raise CheckpointError(
            f"{file.path}: a lone safetensors file; its folder with config.json makes a checkpoint, so give the folder"
        )
    if start.startswith(b"{"):
        raise CheckpointError(f"{file.path}: a JSON file; give its folder")
    return read_flat(file, overrides)
