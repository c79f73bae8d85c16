"""The weights of a Hugging Face folder: one file, or shards and the index that names them; safetensors or PyTorch's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import TensorSource
from graphllm.frontends.json_fields import read_json
from graphllm.frontends.mapped_file import MappedFile, map_file
from graphllm.frontends.safetensors_file import SafetensorsFile, parse_safetensors
from graphllm.frontends.torch_file import TorchFile, looks_like_torch, parse_torch

# Where several are there, the first wins.
SINGLES = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Weights that a folder with a config.json is not read from, by the names their own tools give them.
OTHER_WEIGHTS = {
    "consolidated*": "Meta's own weights, whose folder has a params.json",
    "*.gguf": "a GGUF file, to be given by itself",
    "*.safetensors": "safetensors under another name",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a folder by name, whichever file holds them."""

    where: Path  # the file that says which tensors there are
    files: tuple[Path, ...]
    holders: dict[str, SafetensorsFile | TorchFile]

    @property
    def maps(self) -> tuple[MappedFile, ...]:
        return tuple({id(holder): holder.file for holder in self.holders.values()}.values())

    def source(self, name: str) -> TensorSource:
        return self.holders[name].source(name)


def read_weights(folder: Path) -> Weights:
    """Check the headers of all weight files of a folder. Where both are there, the single file wins over the index."""
    for single, index in zip(SINGLES, INDEXES, strict=True):
        if os.path.lexists(folder / single):
            file = read_file(folder / single)
            return Weights(folder / single, (folder / single,), dict.fromkeys(file.entries, file))
        if os.path.lexists(folder / index):
            return read_shards(folder / index)
    found = [f"{what} ({pattern})" for pattern, what in OTHER_WEIGHTS.items() if any(folder.glob(pattern))]
    got = f", got {', '.join(found)}" if found else ""
    raise CheckpointError(f"{folder}: no weights; expected one of {', '.join((*SINGLES, *INDEXES))}{got}")


def read_file(path: Path) -> SafetensorsFile | TorchFile:
    """One file of weights; which kind it is, its content says."""
    file = map_file(path)
    return parse_torch(file) if looks_like_torch(file) else parse_safetensors(file)


def read_shards(index: Path) -> Weights:
    """Follow an index: every tensor it names must be in the file that it says."""
    said = read_json(index).object("weight_map")
    if said is None or not said.data:
        raise CheckpointError(f"{index}: no weight_map; expected an object from tensor name to file name")
    shards: dict[str, SafetensorsFile | TorchFile] = {}
    holders: dict[str, SafetensorsFile | TorchFile] = {}
    for name in said.data:
        file_name = said.text(name, expected="a file name")
        if file_name not in shards:
            shards[file_name] = read_file(path_inside(index, file_name))
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
