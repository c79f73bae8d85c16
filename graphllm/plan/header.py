"""The header of a `.gllm` file: which tensors, where, and the digests that protect them. Bytes only, no files.

A safetensors header (u64 length, JSON, spaces) with stricter rules. It begins with our own four entries, in this
order and in every version, so that an old reader can tell a newer file from a damaged one:

    {"__metadata__":{"digest":D,"format":"gllm","version":"1","blake3":S, ...},"name":{"dtype":..},...}

D is the sha256 of the whole header, length and padding included, with D itself read as 64 zeros. S is the tensors'
blake3 digests, 64 hex digits each, in the order of the data; so the header's size is known before any data is. The
tensors stand in the order of their data, every one aligned to its item size, without holes. D finds damage, not
malice: who rewrites a file can rewrite D, so every rule is checked all the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from graphllm.errors import PlanError
from graphllm.plan.strict_json import parse_object

PLAN_VERSION: Final = 1
ALIGNMENT: Final = 64  # a cache line, and the widest vector load
MAX_HEADER: Final = 64 << 20

PlanDType = Literal["f32", "f16", "bf16", "i8", "i32", "u8"]
ITEM_SIZE: Final[Mapping[str, int]] = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i32": 4, "u8": 1}
_SPELLING: Final[Mapping[PlanDType, str]] = {
    "f32": "F32",
    "f16": "F16",
    "bf16": "BF16",
    "i8": "I8",
    "i32": "I32",
    "u8": "U8",
}
_DTYPE: Final[Mapping[str, PlanDType]] = {spelling: dtype for dtype, spelling in _SPELLING.items()}

_MAX_RANK: Final = 8
_MAX_BYTES: Final = 1 << 62  # of one tensor, zero dimensions counted as one: NumPy's own arithmetic stays exact
_NAME: Final = re.compile(r"[!-~]{1,256}")  # printable ASCII: a name reaches terminals and generated comments
_DIGESTS: Final = re.compile(r"[0-9a-f]*")
_BEFORE_DIGEST: Final = b'{"__metadata__":{"digest":"'
_DIGEST_AT: Final = 8 + len(_BEFORE_DIGEST)
_ZEROS: Final = "0" * 64
_OURS: Final = ("digest", "format", "version", "blake3")
_AGAIN: Final = "copy or compile the file again"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor's name, dtype and shape. A scalar has shape (); a dimension may be 0, and then there is no data."""

    name: str
    dtype: PlanDType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_SIZE[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says. `specs`, `begins` (offsets in the file) and `digests` run in the order of the data."""

    specs: tuple[TensorSpec, ...]
    begins: tuple[int, ...]
    digests: tuple[str, ...]
    metadata: Mapping[str, str]


def lay_out(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The order of the data: tensors of whole cache lines first, then the rest by item size, each group as given.

    So a tensor whose size is a multiple of 64 starts at one, and every tensor starts at a multiple of its item size.
    """
    given = tuple(specs)
    whole = [spec for spec in given if spec.nbytes % ALIGNMENT == 0]
    rest = [spec for spec in given if spec.nbytes % ALIGNMENT]
    return (*whole, *sorted(rest, key=lambda spec: -ITEM_SIZE[spec.dtype]))


def render_header(ordered: Sequence[TensorSpec], digests: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data, a multiple of 64. Their number does not depend on the digests."""
    entries: dict[str, object] = {
        "__metadata__": {
            "digest": _ZEROS,
            "format": "gllm",
            "version": str(PLAN_VERSION),
            "blake3": "".join(digests),
            **dict(sorted(metadata.items())),
        }
    }
    at = 0
    for spec in ordered:
        end = at + spec.nbytes
        entries[spec.name] = {"dtype": _SPELLING[spec.dtype], "shape": list(spec.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    raw = struct.pack("<Q", len(text)) + text
    assert raw.startswith(_BEFORE_DIGEST, 8)
    return raw[:_DIGEST_AT] + hashlib.sha256(raw).hexdigest().encode() + raw[_DIGEST_AT + 64 :]


def check_specs(specs: Sequence[TensorSpec], metadata: Mapping[str, str], where: str) -> None:
    """PlanError when a header with these could not be read back."""
    names: set[str] = set()
    for spec in specs:
        if problem := _problem(spec):
            raise PlanError(f"{where}: tensor {spec.name[:60]!r}: {problem}")
        if spec.name in names:
            raise PlanError(f"{where}: tensor {spec.name!r} is given twice; names must differ")
        names.add(spec.name)
    for key, value in metadata.items():
        if key in _OURS:
            raise PlanError(f"{where}: metadata {key!r} is reserved; choose another key")
        try:
            f"{key}{value}".encode()
        except UnicodeEncodeError:
            raise PlanError(f"{where}: metadata {key[:60]!r} is not text that UTF-8 can hold") from None


def header_length(first: bytes, file_size: int, where: str) -> int:
    """The size of the JSON part, from a file's first 8 bytes; nothing has been allocated for it yet."""
    if len(first) < 8:
        raise PlanError(f"{where}: not a plan; expected at least 8 bytes, got {len(first)}")
    (length,) = struct.unpack("<Q", first)
    if length > MAX_HEADER:
        raise PlanError(f"{where}: not a plan; expected a header of at most {MAX_HEADER} bytes, got {length}")
    if length > file_size - 8:
        raise PlanError(f"{where}: not a plan, or cut short; expected a header of {length} bytes, got {file_size - 8}")
    return length


def parse_header(raw: bytes, file_size: int, where: str) -> Header:
    """What the first bytes of a file say (`raw`: length and JSON), once every rule of the format has been checked."""
    if not raw.startswith(_BEFORE_DIGEST, 8):
        kind = "a safetensors file that graphllm did not write" if raw[8:9] == b"{" else "some other kind of file"
        raise PlanError(f"{where}: not a plan; expected a file made by `graphllm compile`, got {kind}")
    _check_digest(raw, where)
    entries = parse_object(raw[8:], f"{where}: header")
    ours = _metadata(entries.pop("__metadata__", None), where)
    digests = ours["blake3"]
    if len(digests) != 64 * len(entries) or not _DIGESTS.fullmatch(digests):
        raise PlanError(f"{where}: damaged header; expected {len(entries)} blake3 digests of tensors; {_AGAIN}")
    specs: list[TensorSpec] = []
    begins: list[int] = []
    at = len(raw)
    if at % ALIGNMENT:
        raise PlanError(f"{where}: damaged header; expected its size to be a multiple of {ALIGNMENT}, got {at}")
    for name, entry in entries.items():
        spec, begin, end = _tensor(name, entry, where)
        tensor = f"{where}: tensor {name!r}"
        if (begin + len(raw), end - begin) != (at, spec.nbytes):
            expected = f"{at - len(raw)}..{at - len(raw) + spec.nbytes}"
            raise PlanError(f"{tensor}: wrong place; expected bytes {expected} for {spec}, got {begin}..{end}")
        if at % (ALIGNMENT if spec.nbytes % ALIGNMENT == 0 else ITEM_SIZE[spec.dtype]):
            raise PlanError(f"{tensor}: wrong place; byte {at} of the file is not aligned for {spec}")
        specs.append(spec)
        begins.append(at)
        at += spec.nbytes
    if at != file_size:
        how = "cut short" if file_size < at else "too long"
        raise PlanError(f"{where}: {how}; expected {at} bytes, got {file_size}; {_AGAIN}")
    split = tuple(digests[i : i + 64] for i in range(0, len(digests), 64))
    metadata = {key: value for key, value in ours.items() if key not in _OURS}
    return Header(tuple(specs), tuple(begins), split, metadata)


def _check_digest(raw: bytes, where: str) -> None:
    digest = hashlib.sha256(raw[:_DIGEST_AT])
    digest.update(_ZEROS.encode())
    digest.update(memoryview(raw)[_DIGEST_AT + 64 :])
    if raw[_DIGEST_AT : _DIGEST_AT + 64] != digest.hexdigest().encode():
        raise PlanError(f"{where}: damaged header; its bytes do not give the sha256 that it states; {_AGAIN}")


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise PlanError(f"{where}: damaged header; expected __metadata__ to be an object; {_AGAIN}")
    entries = cast("dict[str, object]", value)
    if tuple(entries)[:3] != _OURS[:3] or entries["format"] != "gllm":
        raise PlanError(f"{where}: not a plan; expected metadata of the format 'gllm'")
    version = entries["version"]
    if not isinstance(version, str) or not re.fullmatch(r"[1-9][0-9]{0,8}", version, re.ASCII):
        raise PlanError(f"{where}: damaged header; the plan version is not a number; {_AGAIN}")
    if int(version) > PLAN_VERSION:
        raise PlanError(
            f"{where}: made by a newer graphllm (plan version {version}, this one reads up to {PLAN_VERSION}); "
            "update graphllm, or compile the checkpoint with this one"
        )
    if "blake3" not in entries or not all(isinstance(text, str) for text in entries.values()):
        raise PlanError(f"{where}: damaged header; expected metadata of strings, with blake3 among them; {_AGAIN}")
    return cast("dict[str, str]", entries)


def _tensor(name: str, value: object, where: str) -> tuple[TensorSpec, int, int]:
    damaged = f"{where}: tensor {name[:60]!r}: damaged entry; expected dtype, shape and data_offsets"
    if not isinstance(value, dict):
        raise PlanError(damaged)
    entry = cast("dict[str, Any]", value)
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise PlanError(damaged)
    shape, offsets = _integers(entry["shape"]), _integers(entry["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2:
        raise PlanError(damaged)
    spelling: object = entry["dtype"]
    if not isinstance(spelling, str) or spelling not in _DTYPE:
        raise PlanError(f"{damaged}, one of {' '.join(_DTYPE)}; got {str(spelling)[:20]!r}")
    spec = TensorSpec(name, _DTYPE[spelling], shape)
    if problem := _problem(spec):
        raise PlanError(f"{where}: tensor {name[:60]!r}: {problem}")
    return spec, offsets[0], offsets[1]


def _integers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    items = cast("list[object]", value)
    # `type is int`, because true is an int to isinstance.
    numbers = tuple(item for item in items if type(item) is int and 0 <= item < _MAX_BYTES)
    return numbers if len(numbers) == len(items) else None


def _problem(spec: TensorSpec) -> str:
    if not _NAME.fullmatch(spec.name) or spec.name == "__metadata__":
        return "not a name; expected 1 to 256 printable ASCII characters, no spaces"
    if spec.dtype not in ITEM_SIZE:
        return f"unknown dtype; expected one of {' '.join(ITEM_SIZE)}"
    if len(spec.shape) > _MAX_RANK:
        return f"impossible shape; expected at most {_MAX_RANK} dimensions, got {len(spec.shape)}"
    if any(size < 0 for size in spec.shape) or math.prod(max(size, 1) for size in spec.shape) >= _MAX_BYTES // 8:
        return "impossible shape; expected dimensions of 0 or more, and fewer than 2**59 elements"
    return ""
