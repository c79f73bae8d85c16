"""Text IR back into a module. Errors show file, line, column, the line itself and a caret.

    module    = { weight | state | function }
    weight    = "weight" @name ":" type [ "from" string ] [ "=" op ]
    state     = "state" @name ":" type
    function  = "func" @name "(" [ %name ":" type { "," … } ] ")" [ "consecutive" ] [ "arena" int ]
                "{" { statement | kernel } return "}"
    statement = %name { "," %name } "=" op ":" placed { "," placed } [ scratch ]
    kernel    = "kernel" string "(" [ ref { "," ref } ] ")" "->" %name { "," %name } [ scratch ] "{" { statement } "}"
    op        = name [ ref { "," ref } ] [ "{" name "=" attr { "," … } "}" ]
    placed    = type [ "in" "arena+"int ]
    scratch   = "scratch" "arena+"int ":" int
    return    = "return" [ ref | @state "=" ref { "," … } ]
    type      = dtype "[" [ int { "," int } ] "]"
    ref       = %name | @name
    attr      = int | float | true | false | string | "[" [ int { "," int } ] "]"

Comments run from ``//`` to the end of the line.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from graphllm.errors import GraphLLMError, ParseError
from graphllm.ir.builder import kernel
from graphllm.ir.core import Attr, Attrs, Function, Module, Operation, RowOrder, State, Value, Weight
from graphllm.ir.opdef import lookup
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType

_SPACE: Final = r"(?:\s|//[^\n]*)+"
_TOKEN: Final = re.compile(
    r"""(?P<ref>[%@][A-Za-z0-9_][A-Za-z0-9_.]*)
      | (?P<place>arena\+[0-9]+)
      | (?P<type>[A-Za-z_][A-Za-z0-9_]*\[[-0-9,\ ]*\])
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<mark>->|[()\[\]{}:,=])
      | (?P<stray>.)""",
    re.VERBOSE,
)
_TOKENS: Final = re.compile(f"{_SPACE}|({re.sub(r'[?]P<[a-z]+>', '?:', _TOKEN.pattern)})", re.VERBOSE)
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")  # fits 64 bits
_DTYPES: Final[dict[str, DType]] = {dtype: dtype for dtype in NUMPY_DTYPES}

Application = tuple[str, tuple[Value, ...], Attrs, tuple[TensorType, ...]]  # an op's name, operands, attributes, types


def parse_module(text: str, where: str = "<ir>") -> Module:
    """The module that ``text`` says. Types are inferred again and compared. Raises ParseError."""
    return _Parser(text, where).module()


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.texts: list[str] = [token for token in _TOKENS.findall(text) if token]  # '' is space
        # Tokens repeat: each distinct one is told its kind once.
        kinds = {token: match.lastgroup or "" for token in set(self.texts) if (match := _TOKEN.fullmatch(token))}
        self.kinds = [kinds[token] for token in self.texts]
        if "stray" in kinds.values():
            at = self.kinds.index("stray")
            self.fail_at(at, f"unexpected character {self.texts[at]!r}")
        self.kinds.append("end")
        self.texts.append("end of text")
        self.next = 0
        self.weights: dict[str, Weight] = {}
        self.states: dict[str, State] = {}
        self.scope: dict[str, Value] = {}
        self.defined: set[str] = set()
        # Layers repeat: each distinct type and each distinct application of an operation is worked out once.
        self.types: dict[str, TensorType] = {}
        self.inferred: dict[tuple[object, ...], tuple[Attrs, tuple[TensorType, ...]]] = {}

    # Tokens

    def fail(self, at: int, message: str) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        source = self.text[start:].split("\n", 1)[0]
        raise ParseError(f"{self.where}:{line}:{at - start + 1}: {message}\n  {source}\n  {' ' * (at - start)}^")

    def fail_at(self, token: int, message: str) -> NoReturn:
        starts = [match.start() for match in _TOKENS.finditer(self.text) if match[1]]
        self.fail([*starts, len(self.text)][token], message)

    def fail_here(self, expected: str) -> NoReturn:
        self.fail_at(self.next, f"expected {expected}, got {self.texts[self.next]}")

    def accept(self, text: str) -> bool:
        if self.texts[self.next] == text:
            self.next += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if self.texts[self.next] != text:
            self.fail_here(f"{text!r}")
        self.next += 1

    def take(self, kind: str, expected: str) -> str:
        if self.kinds[self.next] != kind:
            self.fail_here(expected)
        self.next += 1
        return self.texts[self.next - 1]

    def name(self, sigil: str, expected: str) -> str:
        text = self.texts[self.next]
        if self.kinds[self.next] != "ref" or text[0] != sigil:
            self.fail_here(expected)
        self.next += 1
        return text[1:]

    def integer(self, expected: str = "an integer") -> int:
        if _INTEGER.fullmatch(self.texts[self.next]) is None:
            self.fail_here(expected)
        self.next += 1
        return int(self.texts[self.next - 1])

    def string(self) -> str:
        text = self.take("string", "a string")
        try:
            return str(json.loads(text))
        except ValueError:
            self.fail_at(self.next - 1, "not a valid string")

    # Grammar

    def module(self) -> Module:
        functions: dict[str, Function] = {}
        while self.kinds[self.next] != "end":
            if self.accept("weight"):
                self.weight()
            elif self.accept("state"):
                name = self.new_global()
                self.expect(":")
                self.states[name] = State(name, self.type())
            elif self.accept("func"):
                at = self.next
                function = self.function()
                if function.name in functions:
                    self.fail_at(at, f"function @{function.name} is defined twice")
                functions[function.name] = function
            else:
                self.fail_here("weight, state or func")
        return Module(self.weights, self.states, functions)

    def new_global(self) -> str:
        name = self.name("@", "@name")
        if name in self.weights or name in self.states:
            self.fail_at(self.next - 1, f"@{name} is defined twice")
        return name

    def weight(self) -> None:
        name = self.new_global()
        self.expect(":")
        type_ = self.type()
        source = self.string() if self.accept("from") else ""
        definition: Operation | None = None
        if self.accept("="):
            at = self.next
            op, operands, attrs, types = self.application()
            if types != (type_,):
                self.fail_at(at, f"{op}: expected {type_}, got {', '.join(map(str, types))}")
            for operand in operands:
                if not isinstance(operand, Weight):
                    self.fail_at(at, f"the definition of @{name} reads {operand.ref}; expected weights only")
            definition = Operation(op, operands, attrs, (Value(name, type_),))
        self.weights[name] = Weight(name, type_, None, source, definition)

    def function(self) -> Function:
        name = self.name("@", "@name")
        self.scope, self.defined = {}, set()
        self.expect("(")
        inputs: list[Value] = []
        while not self.accept(")"):
            if inputs:
                self.expect(",")
            at, input_ = self.next, self.name("%", "%name")
            self.expect(":")
            inputs.append(self.define(at, Value(input_, self.type())))
        rows: RowOrder = "consecutive" if self.accept("consecutive") else "independent"
        arena = self.integer() if self.accept("arena") else None
        self.expect("{")
        ops: list[Operation] = []
        while not self.accept("return"):
            ops.append(self.kernel() if self.accept("kernel") else self.statement())
        results: list[Value] = []
        updates: list[tuple[State, Value]] = []
        while not self.accept("}"):
            if results or updates:
                self.expect(",")
            at, value = self.next, self.ref()
            if not self.accept("="):
                results.append(value)
            elif isinstance(value, State):
                updates.append((value, self.ref()))
            else:
                self.fail_at(at, f"expected a state before '=', got {value.ref}")
        return Function(name, tuple(inputs), tuple(ops), tuple(results), tuple(updates), rows, arena)

    def statement(self) -> Operation:
        first = self.next
        names = [self.name("%", "an operation, a kernel or return")]
        while self.accept(","):
            names.append(self.name("%", "%name"))
        self.expect("=")
        at = self.next
        op, operands, attrs, types = self.application()
        self.expect(":")
        given = [self.placed()]
        while self.accept(","):
            given.append(self.placed())
        if not len(names) == len(given) == len(types):
            self.fail_at(at, f"{op}: expected {len(types)} results and types, got {len(names)} and {len(given)}")
        results: list[Value] = []
        for i, (name, (type_, arena), inferred) in enumerate(zip(names, given, types, strict=True)):
            if type_ is not inferred and type_ != inferred:
                self.fail_at(at, f"{op}: result %{name}; expected {inferred}, got {type_}")
            results.append(self.define(first + 2 * i, Value(name, type_, arena)))
        return Operation(op, operands, attrs, tuple(results), scratch=self.scratch())

    def kernel(self) -> Operation:
        template = self.string()
        at = self.next
        self.expect("(")
        operands: list[Value] = []
        while not self.accept(")"):
            if operands:
                self.expect(",")
            operands.append(self.ref())
        self.expect("->")
        first = self.next
        names = [self.name("%", "%name")]
        while self.accept(","):
            names.append(self.name("%", "%name"))
        scratch = self.scratch()
        self.expect("{")
        body: list[Operation] = []
        while not self.accept("}"):
            if self.texts[self.next] == "kernel":
                self.fail_here("an operation (kernels do not nest)")
            body.append(self.statement())
        inner = {v.name: v for op in body for v in op.results}
        results: list[Value] = []
        for i, name in enumerate(names):
            if name not in inner:
                self.fail_at(first + 2 * i, f"the kernel's body does not define %{name}")
            results.append(inner.pop(name))
        for name in inner:  # seen by nobody outside
            del self.scope[name]
        op = kernel(template, body, results, scratch)
        if op.operands != tuple(operands):
            expected = ", ".join(v.ref for v in op.operands)
            self.fail_at(at, f"kernel operands; expected ({expected}) as the body reads them, got others")
        return op

    def application(self) -> Application:
        at = self.next
        name = self.take("word", "an operation's name")
        operands: list[Value] = []
        if self.kinds[self.next] == "ref":
            operands.append(self.ref())
            while self.accept(","):
                operands.append(self.ref())
        start, attrs = self.next, dict[str, Attr]()
        if self.accept("{"):
            while not self.accept("}"):
                if attrs:
                    self.expect(",")
                key = self.take("word", "an attribute's name")
                if key in attrs:
                    self.fail_at(self.next - 1, f"attribute {key} is given twice")
                self.expect("=")
                attrs[key] = self.attr()
        spelled = (name, *[id(v.type) for v in operands], *self.texts[start : self.next])
        if (known := self.inferred.get(spelled)) is None:
            try:
                entry = lookup(name)
                complete = entry.complete(attrs)
                types = entry.result_types(tuple(v.type for v in operands), complete)
                known = complete, tuple(self.types.setdefault(str(t), t) for t in types)
            except GraphLLMError as error:
                self.fail_at(at, str(error))
            self.inferred[spelled] = known
        complete, types = known
        return name, tuple(operands), complete, types

    def attr(self) -> Attr:
        kind, text = self.kinds[self.next], self.texts[self.next]
        if kind == "string":
            return self.string()
        if self.accept("true"):
            return True
        if self.accept("false"):
            return False
        if self.accept("["):
            items: list[int] = []
            while not self.accept("]"):
                if items:
                    self.expect(",")
                items.append(self.integer())
            return tuple(items)
        self.take("number", "an attribute's value")
        return int(text) if _INTEGER.fullmatch(text) else float(text)

    def define(self, at: int, value: Value) -> Value:
        if value.name in self.defined:
            self.fail_at(at, f"%{value.name} is defined twice")
        self.defined.add(value.name)
        self.scope[value.name] = value
        return value

    def ref(self) -> Value:
        text = self.take("ref", "%name or @name")
        name = text[1:]
        found = self.scope.get(name) if text[0] == "%" else self.weights.get(name) or self.states.get(name)
        if found is None:
            self.fail_at(self.next - 1, f"{text} is not defined here")
        return found

    def placed(self) -> tuple[TensorType, int | None]:
        type_ = self.type()
        return type_, self.place() if self.accept("in") else None

    def place(self) -> int:
        text = self.take("place", "arena+offset")
        offset = text.removeprefix("arena+")
        if _INTEGER.fullmatch(offset) is None:
            self.fail_at(self.next - 1, f"expected an offset of at most 18 digits, got {text}")
        return int(offset)

    def scratch(self) -> tuple[int, int] | None:
        if not self.accept("scratch"):
            return None
        offset = self.place()
        self.expect(":")
        return offset, self.integer()

    def type(self) -> TensorType:
        text = self.take("type", "a type such as f32[1,64]")
        known = self.types.get(text)
        if known is None:
            word, _, sizes = text[:-1].partition("[")
            dtype = _DTYPES.get(word)
            if dtype is None:
                self.fail_at(self.next - 1, f"unknown dtype {word}; expected one of {' '.join(NUMPY_DTYPES)}")
            shape: list[int] = []
            for size in sizes.split(",") if sizes.strip() else ():
                if _INTEGER.fullmatch(size.strip()) is None or int(size) <= 0:
                    self.fail_at(self.next - 1, f"expected positive sizes, got {text}")
                shape.append(int(size))
            known = self.types[text] = TensorType(dtype, tuple(shape))
        return known
