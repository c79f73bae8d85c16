"""A strict reader of the pickles in PyTorch checkpoints: tensors, plain containers, numbers and text.

A pickle is a program. This reads the few dozen instructions that ``torch.save`` writes and no others; a name in it
("collections OrderedDict") is only ever compared with the ones listed here, never looked up, so nothing is imported
and nothing is called. The standard library's unpickler with a filter would not do: its memo can be told to grow to any
size, and a dictionary key can be made whose hash takes forever.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

Value: TypeAlias = Any  # None, bool, int, float, str, bytes, tuple, list, dict, or one of the three classes below

MAX_BYTES = 16 << 20  # the pickle of a model with all of its optimizer is a few hundred kB
MAX_STEPS = 1_000_000  # some thirty a tensor
MAX_INTEGER_BYTES = 8

STORAGES: Final[dict[str, tuple[str, int]]] = {  # class of storage: dtype and bytes of an element
    "FloatStorage": ("f32", 4),
    "HalfStorage": ("f16", 2),
    "BFloat16Storage": ("bf16", 2),
    "DoubleStorage": ("f64", 8),
    "LongStorage": ("i64", 8),
    "IntStorage": ("i32", 4),
    "ShortStorage": ("i16", 2),
    "CharStorage": ("i8", 1),
    "ByteStorage": ("u8", 1),
    "BoolStorage": ("bool", 1),
}
_ORDERED_DICT = "collections OrderedDict"
_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = "torch._utils _rebuild_parameter"
_SIZE = "torch Size"
_INERT = ("torch float32", "torch float16", "torch bfloat16", "torch device")  # said, and of no meaning for us


@dataclass(frozen=True, slots=True)
class Name:
    """A global that the pickle names, never resolved."""

    text: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of elements, kept outside the pickle under ``key``."""

    key: str
    dtype: str
    itemsize: int
    numel: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A row-major tensor: so many elements of a storage from ``offset`` on."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    contiguous: bool


class PickleError(ValueError):
    """What is wrong with a pickle, without its file's name."""


def read_pickle(data: bytes) -> Value:
    """The value of a pickle. PickleError for anything that is not tensors and plain containers, or not a pickle."""
    if len(data) > MAX_BYTES:
        raise PickleError(f"a pickle of {len(data)} bytes; expected at most {MAX_BYTES}")
    return _Machine(data).run()


class _Machine:
    """The stack machine of the pickle format, with the instructions of protocols 2 to 5 that containers need."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}  # keyed, so that an index costs nothing

    def run(self) -> Value:
        for _ in range(MAX_STEPS):
            code = self.take(1)
            if code == b".":
                if len(self.stack) != 1 or self.marks:
                    raise PickleError("a pickle that leaves other than one value")
                return self.stack[0]
            step = _STEPS.get(code)
            if step is None:
                raise PickleError(f"pickle instruction {code!r} at byte {self.at - 1}; expected what torch.save writes")
            step(self)
        raise PickleError(f"a pickle of more than {MAX_STEPS} instructions")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise PickleError(f"a pickle that ends early, at byte {self.at}")
        part, self.at = self.data[self.at : end], end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise PickleError(f"a name without an end at byte {self.at}")
        text, self.at = self.data[self.at : end], end + 1
        return _text(text)

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError(f"an empty stack at byte {self.at}")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Value]:
        if not self.marks:
            raise PickleError(f"no mark at byte {self.at}")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0) or not isinstance(self.stack[-1], kind):
            raise PickleError(f"expected a {kind.__name__} at byte {self.at}")
        return self.stack[-1]

    def remember(self, index: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"nothing was kept under {index}, at byte {self.at}")
        self.push(self.memo[index])

    def collect(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def set_items(self, items: list[Value]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise PickleError(f"a key without a value at byte {self.at}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of a tuple of tuples of … can take longer than the universe has.
            if not isinstance(key, str | int | bytes):
                raise PickleError(f"a dictionary key that is a {type(key).__name__}; expected text or a number")
            target[key] = value

    def set_state(self) -> None:
        self.pop()  # a state dict's _metadata, which describes modules and not weights
        self.top(dict)

    def name(self, module: Value, name: Value) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a global whose name is not text")
        text = f"{module} {name}"
        known = (_ORDERED_DICT, *_TENSORS, _PARAMETER, _SIZE, *_INERT)
        if text not in known and not (module == "torch" and name in STORAGES):
            raise PickleError(
                f"a pickle that asks for {text[:100]!r}; expected tensors and plain containers, and nothing was run"
            )
        self.push(Name(text))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise PickleError(f"a call of a {type(function).__name__} at byte {self.at}")
        given = cast("tuple[Value, ...]", arguments)
        if function.text == _ORDERED_DICT and not given:
            self.push({})
        elif function.text in _TENSORS and len(given) >= 4:
            self.push(_tensor(*given[:4]))
        elif function.text == _PARAMETER and given and isinstance(given[0], StoredTensor):
            self.push(given[0])
        elif function.text == _SIZE and len(given) == 1 and isinstance(given[0], list | tuple):
            self.push(tuple(cast("list[Value]", given[0])))
        elif function.text in _INERT:
            self.push(None)
        else:
            raise PickleError(f"a call of {function.text!r} with {len(given)} arguments; expected those of torch.save")

    def persistent(self) -> None:
        said = self.pop()
        fields = cast("tuple[Value, ...]", said) if isinstance(said, tuple) else ()
        if len(fields) != 5 or fields[0] != "storage" or not isinstance(fields[1], Name):
            raise PickleError("a reference that is not a storage")
        kind, key, numel = fields[1].text.removeprefix("torch "), fields[2], fields[4]
        if kind not in STORAGES or not isinstance(key, str) or not _is_size(numel):
            raise PickleError(f"a storage of {kind[:60]!r}; expected one of {', '.join(STORAGES)}")
        self.push(Storage(key, *STORAGES[kind], numel))


def _is_size(value: Value) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise PickleError(f"text that is not UTF-8: {data[:20]!r}") from None


def _tensor(storage: Value, offset: Value, size: Value, stride: Value) -> StoredTensor:
    """A tensor whose place is inside its storage, by the storage's own word; the file has the last one."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise PickleError("a tensor that is not a storage, an offset, sizes and strides")
    sizes, strides = cast("tuple[Value, ...]", size), cast("tuple[Value, ...]", stride)
    if len(sizes) != len(strides) or len(sizes) > 16 or not all(map(_is_size, (offset, *sizes, *strides))):
        raise PickleError("a tensor with sizes, strides or an offset that are not small whole numbers of 0 or more")
    numel, contiguous = 1, True
    for n, step in zip(reversed(sizes), reversed(strides), strict=True):
        contiguous &= n == 1 or step == numel
        numel *= n
    if offset + numel > storage.numel:
        raise PickleError(f"a tensor of {numel} elements at {offset}; expected it inside a storage of {storage.numel}")
    return StoredTensor(storage, offset, sizes, contiguous)


def _long(m: _Machine) -> None:
    size = m.number(1)
    if size > MAX_INTEGER_BYTES + 1:
        raise PickleError(f"a whole number of {size} bytes; expected at most {MAX_INTEGER_BYTES + 1}")
    m.push(int.from_bytes(m.take(size), "little", signed=True))


def _append(m: _Machine, items: list[Value]) -> None:
    m.top(list).extend(items)


def _set_item(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([key, value])


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


_STEPS: Final[dict[bytes, Callable[[_Machine], None]]] = {
    b"\x80": lambda m: None if m.number(1) <= 5 else _refuse_protocol(),
    b"\x95": lambda m: None if m.number(8) <= len(m.data) else _refuse_protocol(),  # a frame is only for readers
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": _long,
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push(_text(m.take(m.number(4)))),
    b"\x8c": lambda m: m.push(_text(m.take(m.number(1)))),
    b"\x8d": lambda m: m.push(_text(m.take(m.number(8)))),
    b"U": lambda m: m.push(_text(m.take(m.number(1)))),
    b"T": lambda m: m.push(_text(m.take(m.number(4)))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number(1)),
    b"j": lambda m: m.recall(m.number(4)),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.collect(1),
    b"\x86": lambda m: m.collect(2),
    b"\x87": lambda m: m.collect(3),
    b"a": lambda m: _append(m, [m.pop()]),
    b"e": lambda m: _append(m, m.pop_to_mark()),
    b"s": _set_item,
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": _stack_global,
    b"R": lambda m: m.call(),
    b"b": lambda m: m.set_state(),
    b"Q": lambda m: m.persistent(),
}


def _refuse_protocol() -> None:
    raise PickleError("a pickle of an unknown protocol; expected 2 to 5")
