"""The weights of a Hugging Face folder: one safetensors file, or shards and the index that names them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import TensorSource
from graphllm.frontends.json_fields import read_json
from graphllm.frontends.safetensors_file import SafetensorsFile, read_safetensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Formats of weights that we do not read, by the names their own tools give them.
OTHER_WEIGHTS = {
    "pytorch_model*.bin": "PyTorch weights",
    "consolidated*": "Meta's own weights",
    "*.gguf": "a GGUF file",
    "*.safetensors": "safetensors under another name",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a folder by name, whichever file holds them."""

    where: Path  # the file that says which tensors there are
    files: tuple[Path, ...]
    holders: dict[str, SafetensorsFile]

    def source(self, name: str) -> TensorSource:
        return self.holders[name].source(name)


def read_weights(folder: Path) -> Weights:
    """Check the headers of all weight files of a folder. Where both are there, the single file wins over the index."""
    single, index = folder / SINGLE, folder / INDEX
    if os.path.lexists(single):
        file = read_safetensors(single)
        return Weights(single, (single,), dict.fromkeys(file.entries, file))
    if os.path.lexists(index):
        return read_shards(index)
    found = [f"{what} ({pattern})" for pattern, what in OTHER_WEIGHTS.items() if any(folder.glob(pattern))]
    got = f", got {', '.join(found)}, which is not supported" if found else ""
    raise CheckpointError(f"{folder}: no weights; expected {SINGLE} or {INDEX}{got}")


def read_shards(index: Path) -> Weights:
    """Follow an index: every tensor it names must be in the file that it says."""
    said = read_json(index).object("weight_map")
    if said is None or not said.data:
        raise CheckpointError(f"{index}: no weight_map; expected an object from tensor name to file name")
    shards: dict[str, SafetensorsFile] = {}
    holders: dict[str, SafetensorsFile] = {}
    for name in said.data:
        file_name = said.text(name, expected="a file name")
        if file_name not in shards:
            shards[file_name] = read_safetensors(path_inside(index, file_name))
        if name not in shards[file_name].entries:
            raise CheckpointError(f"{index}: {name[:100]} is not in {file_name}; expected it there")
        holders[name] = shards[file_name]
    return Weights(index, (index, *(shard.file.path for shard in shards.values())), holders)


def path_inside(index: Path, name: str) -> Path:
    """The path of a shard; CheckpointError when it would lie outside the folder, by name or by link.

    Hugging Face's own cache is made of links: ``snapshots/REVISION/FILE`` to ``blobs/HASH`` beside ``snapshots``.
    """
    if not name or name in (".", "..") or any(character in name for character in "/\\:\0"):
        raise CheckpointError(f"{index}: shard {name[:100]!r}; expected a bare file name inside {index.parent}")
    path = index.parent / name
    target, folder = Path(os.path.realpath(path)), Path(os.path.realpath(index.parent))
    allowed = [folder] + ([folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [])
    if not any(target.is_relative_to(root) for root in allowed):
        raise CheckpointError(f"{index}: shard {name[:100]!r} is a link to {target}; expected it inside {folder}")
    return path
