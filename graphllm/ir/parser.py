"""Text IR back into a module. Errors show file, line, column, the line itself and a caret.

    module    = { weight | state | function }
    weight    = "weight" @name ":" type [ "from" string ] [ "=" op ]
    state     = "state" @name ":" type
    function  = "func" @name "(" [ %name ":" type { "," … } ] ")" [ "consecutive" ] [ "arena" int ] "{" { statement } return "}"
    statement = %name { "," %name } "=" op ":" placed { "," placed } [ scratch ] | kernel
    kernel    = "kernel" string "(" [ ref { "," ref } ] ")" "->" %name { "," %name } [ scratch ] "{" { statement } "}"
    op        = name [ ref { "," ref } ] [ "{" name "=" attr { "," … } "}" ]
    placed    = type [ "in" "arena+"int ]          scratch = "scratch" "arena+"int":"int
    return    = "return" [ ref | @state "=" ref { "," … } ]
    type      = dtype "[" [ int { "," int } ] "]"  ref = %name | @name     attr = int | float | true | false | string | "[" ints "]"

Comments run from ``//`` to the end of the line.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Final, NamedTuple, NoReturn

from graphllm.errors import GraphLLMError, ParseError
from graphllm.ir.builder import kernel
from graphllm.ir.core import Attr, Function, Module, Operation, RowOrder, State, Value, Weight
from graphllm.ir.opdef import lookup
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType

_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s|//[^\n]*)+)
      | (?P<ref>[%@][A-Za-z0-9_][A-Za-z0-9_.]*)
      | (?P<place>arena\+\d+)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf|nan))
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<mark>->|[()\[\]{}:,=])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse_module(text: str, where: str = "<ir>") -> Module:
    """The module that ``text`` says. Types are inferred again and compared. Raises ParseError."""
    return _Parser(text, where).module()


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        self.tokens: list[Token] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self.fail(at, f"unexpected character {text[at]!r}")
            kind = match.lastgroup or ""
            if kind != "space":
                self.tokens.append(Token(kind, match.group(), at))
            at = match.end()
        self.tokens.append(Token("end", "end of text", len(text)))
        self.next = 0
        self.weights: dict[str, Weight] = {}
        self.states: dict[str, State] = {}
        self.scope: dict[str, Value] = {}
        self.defined: set[str] = set()

    # Tokens

    def fail(self, at: int, message: str) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        source = self.text[start:].split("\n", 1)[0]
        raise ParseError(f"{self.where}:{line}:{at - start + 1}: {message}\n  {source}\n  {' ' * (at - start)}^")

    def fail_here(self, expected: str) -> NoReturn:
        token = self.tokens[self.next]
        self.fail(token.at, f"expected {expected}, got {token.text}")

    def peek(self, text: str) -> bool:
        return self.tokens[self.next].text == text

    def accept(self, text: str) -> bool:
        if self.tokens[self.next].text == text and self.tokens[self.next].kind != "string":
            self.next += 1
            return True
        return False

    def expect(self, text: str) -> Token:
        token = self.tokens[self.next]
        if token.text != text or token.kind == "string":
            self.fail_here(f"{text!r}")
        self.next += 1
        return token

    def take(self, kind: str, expected: str, sigil: str = "") -> Token:
        token = self.tokens[self.next]
        if token.kind != kind or not token.text.startswith(sigil):
            self.fail_here(expected)
        self.next += 1
        return token

    def integer(self, expected: str = "an integer") -> int:
        token = self.take("number", expected)
        if not re.fullmatch(r"-?\d{1,18}", token.text):
            self.fail(token.at, f"expected {expected}, got {token.text}")
        return int(token.text)

    def string(self) -> str:
        token = self.take("string", "a string")
        try:
            return str(json.loads(token.text))
        except ValueError:
            self.fail(token.at, "not a valid string")

    # Grammar

    def module(self) -> Module:
        functions: dict[str, Function] = {}
        while self.tokens[self.next].kind != "end":
            start = self.tokens[self.next]
            if self.accept("weight"):
                self.weight()
            elif self.accept("state"):
                name = self.new_global()
                self.expect(":")
                self.states[name] = State(name, self.type())
            elif self.accept("func"):
                function = self.function()
                if function.name in functions:
                    self.fail(start.at, f"function @{function.name} is defined twice")
                functions[function.name] = function
            else:
                self.fail_here("weight, state or func")
        return Module(self.weights, self.states, functions)

    def new_global(self) -> str:
        token = self.take("ref", "@name", "@")
        if token.text[1:] in self.weights or token.text[1:] in self.states:
            self.fail(token.at, f"{token.text} is defined twice")
        return token.text[1:]

    def weight(self) -> None:
        name = self.new_global()
        self.expect(":")
        at = self.tokens[self.next].at
        type_ = self.type()
        source = self.string() if self.accept("from") else ""
        definition: Operation | None = None
        if self.accept("="):
            definition = self.operation((Value(name, type_),), at)
            for operand in definition.operands:
                if not isinstance(operand, Weight):
                    self.fail(at, f"the definition of @{name} reads {operand.ref}; expected weights only")
        self.weights[name] = Weight(name, type_, None, source, definition)

    def function(self) -> Function:
        name = self.take("ref", "@name", "@").text[1:]
        self.scope, self.defined = {}, set()
        self.expect("(")
        inputs: list[Value] = []
        while not self.accept(")"):
            if inputs:
                self.expect(",")
            token = self.take("ref", "%name", "%")
            self.expect(":")
            inputs.append(self.define(token, Value(token.text[1:], self.type())))
        rows: RowOrder = "consecutive" if self.accept("consecutive") else "independent"
        arena = self.integer() if self.accept("arena") else None
        self.expect("{")
        ops: list[Operation] = []
        while not self.accept("return"):
            ops.append(self.statement())
        results: list[Value] = []
        updates: list[tuple[State, Value]] = []
        while not self.accept("}"):
            if results or updates:
                self.expect(",")
            value = self.ref()
            if self.accept("="):
                if not isinstance(value, State):
                    self.fail(self.tokens[self.next - 2].at, f"expected a state before '=', got {value.ref}")
                updates.append((value, self.ref()))
            else:
                results.append(value)
        return Function(name, tuple(inputs), tuple(ops), tuple(results), tuple(updates), rows, arena)

    def statement(self) -> Operation:
        if self.accept("kernel"):
            return self.kernel()
        tokens = [self.take("ref", "an operation, a kernel or return", "%")]
        while self.accept(","):
            tokens.append(self.take("ref", "%name", "%"))
        self.expect("=")
        at = self.tokens[self.next].at
        op = self.operation(None, at)
        self.expect(":")
        types = [self.placed()]
        while self.accept(","):
            types.append(self.placed())
        if len(tokens) != len(types) or len(types) != len(op.results):
            self.fail(
                at, f"{op.name}: expected {len(op.results)} results and types, got {len(tokens)} and {len(types)}"
            )
        results: list[Value] = []
        for token, (type_, arena), inferred in zip(tokens, types, op.results, strict=True):
            if type_ != inferred.type:
                self.fail(at, f"{op.name}: result {token.text}; expected {inferred.type}, got {type_}")
            results.append(self.define(token, Value(token.text[1:], type_, arena)))
        return replace(op, results=tuple(results), scratch=self.scratch())

    def kernel(self) -> Operation:
        template = self.string()
        at = self.expect("(").at
        operands: list[Value] = []
        while not self.accept(")"):
            if operands:
                self.expect(",")
            operands.append(self.ref())
        self.expect("->")
        names = [self.take("ref", "%name", "%")]
        while self.accept(","):
            names.append(self.take("ref", "%name", "%"))
        scratch = self.scratch()
        self.expect("{")
        outer = dict(self.scope)
        body: list[Operation] = []
        while not self.accept("}"):
            if self.peek("kernel"):
                self.fail_here("an operation (kernels do not nest)")
            body.append(self.statement())
        results: list[Value] = []
        for token in names:
            value = self.scope.get(token.text[1:])
            if value is None or token.text[1:] in outer:
                self.fail(token.at, f"the kernel's body does not define {token.text}")
            results.append(value)
        self.scope = outer | {v.name: v for v in results}
        op = kernel(template, body, results)
        if op.operands != tuple(operands):
            expected = ", ".join(v.ref for v in op.operands)
            self.fail(at, f"kernel operands; expected ({expected}) as the body reads them, got others")
        return replace(op, scratch=scratch)

    def operation(self, results: tuple[Value, ...] | None, at: int) -> Operation:
        token = self.take("word", "an operation's name")
        operands: list[Value] = []
        if self.tokens[self.next].kind == "ref":
            operands.append(self.ref())
            while self.accept(","):
                operands.append(self.ref())
        attrs: dict[str, Attr] = {}
        if self.accept("{"):
            while not self.accept("}"):
                if attrs:
                    self.expect(",")
                key = self.take("word", "an attribute's name").text
                self.expect("=")
                attrs[key] = self.attr()
        try:
            entry = lookup(token.text)
            complete = entry.complete(attrs)
            types = entry.result_types(tuple(v.type for v in operands), complete)
        except ParseError:
            raise
        except GraphLLMError as error:
            self.fail(token.at, str(error))
        if results is None:
            results = tuple(Value("", t) for t in types)
        elif types != tuple(v.type for v in results):
            self.fail(at, f"{token.text}: expected {', '.join(map(str, types))}, got {results[0].type}")
        return Operation(token.text, tuple(operands), complete, results)

    def attr(self) -> Attr:
        token = self.tokens[self.next]
        if token.kind == "string":
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
        token = self.take("number", "an attribute's value")
        return int(token.text) if re.fullmatch(r"-?\d{1,18}", token.text) else float(token.text)

    def define(self, token: Token, value: Value) -> Value:
        if value.name in self.defined:
            self.fail(token.at, f"{token.text} is defined twice")
        self.defined.add(value.name)
        self.scope[value.name] = value
        return value

    def ref(self) -> Value:
        token = self.take("ref", "%name or @name")
        name = token.text[1:]
        found = self.scope.get(name) if token.text[0] == "%" else self.weights.get(name) or self.states.get(name)
        if found is None:
            self.fail(token.at, f"{token.text} is not defined here")
        return found

    def placed(self) -> tuple[TensorType, int | None]:
        type_ = self.type()
        if not self.accept("in"):
            return type_, None
        return type_, int(self.take("place", "arena+offset").text[6:])

    def scratch(self) -> tuple[int, int] | None:
        if not self.accept("scratch"):
            return None
        offset = int(self.take("place", "arena+offset").text[6:])
        self.expect(":")
        return offset, self.integer()

    def type(self) -> TensorType:
        token = self.take("word", "a type such as f32[1,64]")
        if token.text not in NUMPY_DTYPES:
            self.fail(token.at, f"unknown dtype {token.text}; expected one of {' '.join(NUMPY_DTYPES)}")
        dtype: DType = token.text  # type: ignore[assignment]  # checked above
        self.expect("[")
        shape: list[int] = []
        while not self.accept("]"):
            if shape:
                self.expect(",")
            at = self.tokens[self.next].at
            shape.append(self.integer("a size"))
            if shape[-1] <= 0:
                self.fail(at, f"expected a positive size, got {shape[-1]}")
        return TensorType(dtype, tuple(shape))
