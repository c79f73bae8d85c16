"""Opens a checkpoint of any format that we read. The content decides, never the name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.huggingface import read_huggingface
from graphllm.frontends.huggingface_config import CONFIG_FILES
from graphllm.frontends.llama2c import read_llama2c
from graphllm.frontends.mapped_file import MappedFile, map_file, unreadable
from graphllm.frontends.overrides import NO_OVERRIDES, Overrides
from graphllm.frontends.safetensors_file import looks_like_safetensors, parse_safetensors

KNOWN = "expected a Hugging Face folder or a llama2.c file (v0, v1, v2)"
# The first value that torch.save pickled before zip files. Two bytes of it could be a llama2.c model of D 640.
OLD_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")


def open_checkpoint(path: str | os.PathLike[str], overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint at a path: a Hugging Face folder, or a llama2.c file of version 0, 1 or 2.

    Headers and sizes are checked and files are mapped; no weight is read. Raises CheckpointError, whose message names
    the format where it is one that we know and do not read.
    """
    where = Path(path)
    try:
        folder = stat.S_ISDIR(where.stat().st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(where, error) from None
    if folder:
        check_folder(where)
        return read_huggingface(where, overrides)
    refuse_other_formats(map_file(where))
    return read_llama2c(where, overrides)


def check_folder(folder: Path) -> None:
    """Refuse folders that are of no Hugging Face model."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise unreadable(folder, error) from None
    if CONFIG_FILES[0] in names:
        return
    if "params.json" in names:
        raise CheckpointError(f"{folder}: a folder of Meta's own format (params.json), which is not supported; {KNOWN}")
    raise CheckpointError(f"{folder}: a folder without config.json; {KNOWN}")


def refuse_other_formats(file: MappedFile) -> None:
    """CheckpointError naming the format of a file that is not a flat one, where its first bytes tell."""
    format_name = other_format(file)
    if format_name:
        raise CheckpointError(f"{file.path}: {format_name}; {KNOWN}")


def other_format(file: MappedFile) -> str:
    """Name and advice for a format that we recognize and do not read here; "" for the rest."""
    start = file.data[: len(OLD_TORCH)]
    if start.startswith(b"GGUF"):
        return "a GGUF file, which is not supported"
    if start.startswith(b"PK\x03\x04"):
        return "a zip file, as torch.save makes (.pt, .pth, .bin), which is not supported"
    if start == OLD_TORCH:
        return "a pickle, as old torch.save makes (.pt, .pth, .bin), which is never opened"
    if looks_like_safetensors(file):
        if parse_safetensors(file).metadata.get("format") == "gllm":
            return "a compiled plan and not a checkpoint; load or run it as it is"
        return "a lone safetensors file; its folder with config.json makes a checkpoint, so give the folder"
    if start.startswith(b"{"):
        return "a JSON file; give its folder"
    return ""
