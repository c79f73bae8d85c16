"""What ``generation_config.json`` says of sampling: the settings a model's makers chat with."""

from __future__ import annotations

import os
from pathlib import Path

from graphllm.frontends.json_fields import JsonFields, read_json

FILE = "generation_config.json"
_NUMBERS = {"temperature": 1e6, "repetition_penalty": 100.0}  # above 0, up to here
_SHARES = ("top_p", "min_p")


def read_sampling(folder: Path) -> dict[str, float]:
    """Settings by our names, those that are there; none where there is no file, or no ``do_sample`` in it.

    Raises CheckpointError for a setting that is not a number in its range.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return {}
    said = read_json(path)
    return sampling_of(said) if said.flag("do_sample", False) else {}


def sampling_of(said: JsonFields) -> dict[str, float]:
    """The settings in an object; a key that is null counts as absent."""
    given = {key for key, value in said.data.items() if value is not None}
    settings: dict[str, float] = {
        key: said.number(key, below=most) for key, most in _NUMBERS.items() if key in given and said.data[key] != 0
    }
    if said.data.get("temperature") == 0:
        settings["temperature"] = 0.0
    for key in _SHARES:
        if key in given and said.data[key] not in (0, 1):  # both of them cut nothing
            settings[key] = said.number(key, below=1.0)
    if "top_k" in given and (count := said.integer("top_k", least=-1)) > 0:
        settings["top_k"] = count
    return settings
