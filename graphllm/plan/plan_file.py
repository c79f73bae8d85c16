"""A plan as data: texts, JSON documents, a tokenizer and weights, in one container.

Everything but weights and machine code is checked against its digest on opening; weights are mapped and, when there are
many, read only as they are used. Nothing here knows what the texts mean. Names in the container:

    text/<key>      UTF-8: "ir" portable IR, "lowered/<target>" lowered IR, "source/<target>" source, for reading only
    json/<key>      canonical JSON objects: "config", "options", "provenance", "report"
    tokenizer/blob  the tokenizer's own file        tokenizer/about  {"kind", "config", "chat_template", …}
    code/<name>     machine code, on request only; believed by nobody who is not told to
    weight/<name>   the weights

The same arguments give the same bytes, so nothing that changes from run to run (times, dates, host names) belongs in
a document.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import PlanError
from graphllm.plan.container import Container, TensorSpec, write_container
from graphllm.plan.place import shown
from graphllm.plan.strict_json import dump_json, parse_object
from graphllm.plan.tokenizer_data import TokenizerData, TokenizerKind

Verify = Literal["auto", "all", "none"]
_TEXT, _JSON, _WEIGHT, _CODE = "text/", "json/", "weight/", "code/"
_BLOB, _ABOUT = "tokenizer/blob", "tokenizer/about"
_VERIFY_AT_ONCE = 64 << 20  # weights hashed in the time that a person does not notice


@dataclass(frozen=True, slots=True)
class PlanFile:
    """An open plan. A context manager; arrays taken from it stay good after it is closed."""

    path: Path
    sections: Mapping[str, str]  # texts by key
    documents: Mapping[str, dict[str, Any]]
    tokenizer: TokenizerData | None
    weights: Mapping[str, TensorSpec]  # in the order of the file; specs carry the weights' own names
    container: Container
    code: frozenset[str] = frozenset()  # names of machine code, <arch>/<key>

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: Verify = "auto") -> PlanFile:
        """Open a plan; PlanError when it is not one, too new, or damaged.

        `verify` is about the weights only: hash them now, never, or ("auto") now when they are under 64 MiB.
        """
        container = Container.open(path)
        try:
            plan = _read_plan(container)
            if verify == "all" or (verify == "auto" and plan.weight_bytes < _VERIFY_AT_ONCE):
                plan.verify_weights()
        except BaseException:
            container.close()
            raise
        return plan

    @property
    def weight_bytes(self) -> int:
        return sum(spec.nbytes for spec in self.weights.values())

    def weight(self, name: str) -> NDArray[Any]:
        """A weight as a read-only view of the mapped file. KeyError if there is none of that name."""
        return self.container.array(_WEIGHT + name)

    def machine_code(self, name: str) -> bytes:
        """Machine code, checked against its digest. PlanError when it is damaged, KeyError if there is none."""
        self.container.verify([_CODE + name])
        return bytes(self.container.content(_CODE + name))

    def verify_weights(self) -> None:
        """Hash every weight, reading all of them; PlanError names the first damaged one."""
        self.container.verify(_WEIGHT + name for name in self.weights)

    def close(self) -> None:
        self.container.close()

    def __enter__(self) -> PlanFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Late:
    """A document that is known only when the weights have been written: ``draft`` has its length, ``final`` its words.

    So what describes the sources can be found out while they are being read.
    """

    draft: Mapping[str, Any]
    final: Callable[[], Mapping[str, Any]]


def write_plan(
    path: str | os.PathLike[str],
    *,
    texts: Mapping[str, str],
    documents: Mapping[str, Mapping[str, Any] | Late],
    tokenizer: TokenizerData | None,
    weights: Sequence[TensorSpec],
    read_weight: Callable[[str], NDArray[Any]],
    progress: Callable[[int, int], None] | None = None,
    code: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Write a plan, atomically. Weights are asked for by their own names, once each, and held one at a time.

    PlanError when a document is not JSON, a name or text cannot be stored, or the file cannot be written.
    """
    where = shown(path)
    small = {_TEXT + key: _encoded(text, f"{where}: text {key!r}") for key, text in sorted(texts.items())}
    late: dict[str, Callable[[], bytes]] = {}
    for key, document in sorted(documents.items()):
        if isinstance(document, Late):
            late[_JSON + key] = partial(_resolved, document, f"{where}: document {key!r}")
            document = document.draft
        small[_JSON + key] = dump_json(document, f"{where}: document {key!r}")
    small |= {_CODE + name: content for name, content in sorted(code.items())}
    if tokenizer is not None:
        about = {"kind": tokenizer.kind, "config": tokenizer.config, "chat_template": tokenizer.chat_template}
        named = {"other_templates": dict(tokenizer.other_templates), "special_tokens": dict(tokenizer.special_tokens)}
        about |= {key: texts for key, texts in named.items() if texts}
        small[_ABOUT] = dump_json(about, f"{where}: tokenizer")
        small[_BLOB] = tokenizer.blob
    specs = [TensorSpec(_WEIGHT + spec.name, spec.dtype, spec.shape) for spec in weights]
    specs += [TensorSpec(name, "u8", (len(content),)) for name, content in small.items()]

    def read(name: str) -> NDArray[Any]:
        if name in small:
            return np.frombuffer(late[name]() if name in late else small[name], np.uint8)
        return read_weight(name.removeprefix(_WEIGHT))

    write_container(path, specs, read, {}, progress)


def _resolved(document: Late, where: str) -> bytes:
    final = dump_json(document.final(), where)
    assert len(final) == len(dump_json(document.draft, where)), f"{where}: its final form has another length"
    return final


def _read_plan(container: Container) -> PlanFile:
    where = shown(container.path)
    container.verify(name for name in container.specs if not name.startswith((_WEIGHT, _CODE)))
    texts: dict[str, str] = {}
    documents: dict[str, dict[str, Any]] = {}
    weights: dict[str, TensorSpec] = {}
    code: set[str] = set()
    for name, spec in container.specs.items():
        kind, _, key = name.partition("/")
        if kind == "weight" and key:
            weights[key] = TensorSpec(key, spec.dtype, spec.shape)
        elif spec.dtype != "u8" or len(spec.shape) != 1:
            raise PlanError(f"{where}: tensor {name!r}: expected bytes, u8[n], got {spec}")
        elif kind == "code" and key:
            code.add(key)
        elif kind == "text" and key:
            texts[key] = _decoded(container, name, where)
        elif kind == "json" and key:
            documents[key] = parse_object(bytes(container.content(name)), f"{where}: document {key!r}")
        elif name not in (_BLOB, _ABOUT):
            raise PlanError(f"{where}: tensor {name!r}: not a part of a plan; expected text/, json/, code/ or weight/")
    return PlanFile(
        container.path,
        MappingProxyType(dict(sorted(texts.items()))),
        MappingProxyType(dict(sorted(documents.items()))),
        _tokenizer(container, where),
        MappingProxyType(weights),
        container,
        frozenset(code),
    )


def _tokenizer(container: Container, where: str) -> TokenizerData | None:
    present = [name for name in (_BLOB, _ABOUT) if name in container.specs]
    if not present:
        return None
    if len(present) == 1:
        raise PlanError(f"{where}: half a tokenizer; expected {_BLOB} and {_ABOUT}, got {present[0]}")
    about = parse_object(bytes(container.content(_ABOUT)), f"{where}: tokenizer")
    kind = next((known for known in get_args(TokenizerKind) if known == about.get("kind")), None)
    if kind is None:
        raise PlanError(f"{where}: tokenizer: expected a kind of {', '.join(get_args(TokenizerKind))}")
    config, template = about.get("config"), about.get("chat_template")
    others, special = (_named_texts(about.get(key, {})) for key in ("other_templates", "special_tokens"))
    unknown = about.keys() - {"kind", "config", "chat_template", "other_templates", "special_tokens"}
    if unknown or not isinstance(config, str) or not isinstance(template, str) or others is None or special is None:
        raise PlanError(
            f"{where}: tokenizer: expected a kind, and texts for config, chat_template, other_templates, special_tokens"
        )
    return TokenizerData(kind, bytes(container.content(_BLOB)), config, template, others, special)


def _named_texts(value: object) -> dict[str, str] | None:
    """``value`` if it is an object of texts."""
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in cast("dict[str, object]", value).values()):
        return None
    return cast("dict[str, str]", value)


def _encoded(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise PlanError(f"{where}: not text that UTF-8 can hold; character {error.start} is a lone surrogate") from None


def _decoded(container: Container, name: str, where: str) -> str:
    try:
        return str(container.content(name), "utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(f"{where}: tensor {name!r}: expected UTF-8 text, got another byte at {error.start}") from None


def is_plan(path: Path) -> bool:
    """Whether a file says that it is a plan, or is called one. What cannot be read is not; its reader will say why."""
    try:
        if not path.is_file():
            return False
        if path.suffix == ".gllm":
            return True
        with path.open("rb") as f:
            head = f.read(4096)
    except (OSError, ValueError):
        return False
    return head[8:9] == b"{" and b'"__metadata__"' in head and b'"gllm"' in head
