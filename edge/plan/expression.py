"""Expressions of plans and interlocks: a small language with its own parser, and nothing else.

    or  →  and  →  not  →  comparison  →  + -  →  * / // %  →  unary -  →  value

Values are numbers, strings and booleans. A name is one word (`red_ul`) or two with a dot (`read.absorbance`);
the dot belongs to the name, there is no attribute access. Functions: min max abs round len.
Bounded in length, nesting and number of parts, so that every expression ends at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 1_000
MAX_DEPTH = 32
MAX_PARTS = 200
MAX_NUMBER = 1e300

Value = float | int | str | bool | list[Any]
Lookup = Callable[[str], Value]


class ExpressionError(Exception):
    """What is wrong with an expression, and at which character (0-based)."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position + 1})")
        self.message = message
        self.position = position


@dataclass(frozen=True)
class Part:
    """A node: `kind` is const, name, call, not, neg, and, or, or an operator's text."""

    kind: str
    position: int
    value: Any = None
    children: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Expression:
    """A parsed expression."""

    text: str
    root: Part

    def names(self) -> set[str]:
        """Every name it reads."""
        return {part.value for part in _walk(self.root) if part.kind == "name"}

    def evaluate(self, lookup: Lookup) -> Value:
        """The value.

        Raises ExpressionError (wrong types, division by zero, not finite) and whatever `lookup` raises.
        """
        return _evaluate(self.root, lookup)

    def kind(self, kinds: Mapping[str, str]) -> str | None:
        """The value's type (`number`, `string`, `boolean`) if the names' types tell it, else None.

        Raises ExpressionError where an operator cannot take the types it would get.
        """
        return _kind(self.root, kinds)


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)"
    r"|(?P<string>'[^'\\]*'|\"[^\"\\]*\")"
    r"|(?P<op><=|>=|==|!=|//|[-+*/%<>(),]))"
)
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?\Z")
_WORDS = {"and", "or", "not", "true", "false", "True", "False"}
_FUNCTIONS: dict[str, tuple[int, int]] = {
    "min": (1, 16),
    "max": (1, 16),
    "abs": (1, 1),
    "round": (1, 2),
    "len": (1, 1),
}
_COMPARISONS = {"<", "<=", ">", ">=", "==", "!="}


def parse(text: str) -> Expression:
    """Parse, or raise ExpressionError pointing at the character."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"the expression has {len(text)} characters; the limit is {MAX_LENGTH}", MAX_LENGTH
        )
    return Expression(text, _Parser(text).whole())


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            raise ExpressionError(f"`{text[start]}` does not belong in an expression", start)
        kind = match.lastgroup or ""
        yield _Token(kind, match.group(kind), match.start(kind))
        position = match.end()
    yield _Token("end", "", len(text))


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0
        self.parts = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def whole(self) -> Part:
        part = self.disjunction()
        if self.token.kind != "end":
            raise ExpressionError(f"unexpected `{self.token.text}`", self.token.position)
        return part

    def take(self, *texts: str) -> _Token | None:
        token = self.token
        if token.kind in ("op", "name") and token.text in texts:
            self.at += 1
            return token
        return None

    def part(self, kind: str, position: int, value: Any = None, *children: Part) -> Part:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise ExpressionError(f"the expression has more than {MAX_PARTS} parts", position)
        return Part(kind, position, value, children)

    def disjunction(self) -> Part:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(
                f"the expression is nested deeper than {MAX_DEPTH} levels", self.token.position
            )
        left = self.conjunction()
        while token := self.take("or"):
            left = self.part("or", token.position, None, left, self.conjunction())
        self.depth -= 1
        return left

    def conjunction(self) -> Part:
        left = self.negation()
        while token := self.take("and"):
            left = self.part("and", token.position, None, left, self.negation())
        return left

    def negation(self) -> Part:
        tokens = []
        while token := self.take("not"):
            tokens.append(token)
        part = self.comparison()
        for token in reversed(tokens):
            part = self.part("not", token.position, None, part)
        return part

    def comparison(self) -> Part:
        left = self.sum()
        if token := self.take(*_COMPARISONS):
            left = self.part(token.text, token.position, None, left, self.sum())
            if again := self.take(*_COMPARISONS):
                raise ExpressionError("comparisons cannot be chained; join two with `and`", again.position)
        return left

    def sum(self) -> Part:
        left = self.product()
        while token := self.take("+", "-"):
            left = self.part(token.text, token.position, None, left, self.product())
        return left

    def product(self) -> Part:
        left = self.unary()
        while token := self.take("*", "/", "//", "%"):
            left = self.part(token.text, token.position, None, left, self.unary())
        return left

    def unary(self) -> Part:
        tokens = []
        while token := self.take("-", "+"):
            tokens.append(token)
        part = self.value()
        for token in reversed(tokens):
            if token.text == "-":
                part = self.part("neg", token.position, None, part)
        return part

    def value(self) -> Part:
        token = self.token
        if token.kind == "number":
            self.at += 1
            number = float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
            return self.part("const", token.position, _bounded(number, token.position))
        if token.kind == "string":
            self.at += 1
            return self.part("const", token.position, token.text[1:-1])
        if opening := self.take("("):
            inner = self.disjunction()
            self.expect(")", opening.position)
            return inner
        if token.kind == "name":
            return self.name()
        if token.kind == "end":
            raise ExpressionError("the expression ends where a value is missing", token.position)
        raise ExpressionError(f"`{token.text}` stands where a value is missing", token.position)

    def name(self) -> Part:
        token = self.token
        self.at += 1
        if token.text in ("true", "True", "false", "False"):
            return self.part("const", token.position, token.text.lower() == "true")
        if token.text in _WORDS:
            raise ExpressionError(f"`{token.text}` stands where a value is missing", token.position)
        if opening := self.take("("):
            return self.call(token, opening)
        if not _NAME.match(token.text):
            raise ExpressionError(
                f"`{token.text}` is no name; names are lower case, with at most one dot", token.position
            )
        return self.part("name", token.position, token.text)

    def call(self, token: _Token, opening: _Token) -> Part:
        if token.text not in _FUNCTIONS:
            raise ExpressionError(
                f"there is no function `{token.text}`; there are {', '.join(_FUNCTIONS)}", token.position
            )
        arguments = []
        if not self.take(")"):
            arguments.append(self.disjunction())
            while self.take(","):
                arguments.append(self.disjunction())
            self.expect(")", opening.position)
        least, most = _FUNCTIONS[token.text]
        if not least <= len(arguments) <= most:
            raise ExpressionError(f"`{token.text}` does not take {len(arguments)} values", token.position)
        return self.part("call", token.position, token.text, *arguments)

    def expect(self, text: str, opened: int) -> None:
        if not self.take(text):
            raise ExpressionError(
                f"`{text}` is missing for the bracket at character {opened + 1}", self.token.position
            )


def _walk(part: Part) -> Iterator[Part]:
    yield part
    for child in part.children:
        yield from _walk(child)


def _bounded(number: float | int, position: int) -> float | int:
    if not abs(number) <= MAX_NUMBER:
        raise ExpressionError("the number is not finite", position)
    return float(number) if isinstance(number, int) and abs(number) > 2**53 else number


def _number(value: Any, part: Part) -> float | int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError(f"{_said(value)} stands where a number is needed", part.position)
    return _bounded(value, part.position)


def _boolean(value: Any, part: Part) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{_said(value)} stands where true or false is needed", part.position)
    return value


def _said(value: Any) -> str:
    return f"the text `{value}`" if isinstance(value, str) else f"`{str(value).lower()}`"


def _evaluate(part: Part, lookup: Lookup) -> Value:
    match part.kind:
        case "const":
            return part.value  # type: ignore[no-any-return]  # constants are Values by construction
        case "name":
            return lookup(part.value)
        case "and" | "or":
            first = _boolean(_evaluate(part.children[0], lookup), part.children[0])
            if first == (part.kind == "or"):
                return first
            return _boolean(_evaluate(part.children[1], lookup), part.children[1])
        case "not":
            return not _boolean(_evaluate(part.children[0], lookup), part.children[0])
    values = [_evaluate(child, lookup) for child in part.children]
    if part.kind == "call":
        return _call(part, values)
    if part.kind in ("==", "!="):
        same = _alike(values[0], values[1]) and values[0] == values[1]
        return same if part.kind == "==" else not same
    if part.kind in _COMPARISONS:
        return _compare(part, values[0], values[1])
    numbers = [_number(value, child) for value, child in zip(values, part.children, strict=True)]
    return _bounded(_arithmetic(part, numbers), part.position)


def _alike(left: Value, right: Value) -> bool:
    return isinstance(left, bool) == isinstance(right, bool)


def _compare(part: Part, left: Value, right: Value) -> bool:
    if not (isinstance(left, str) and isinstance(right, str)):
        left, right = _number(left, part.children[0]), _number(right, part.children[1])
    a: Any = left
    b: Any = right
    return bool({"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[part.kind])


def _arithmetic(part: Part, numbers: list[float | int]) -> float | int:
    if part.kind == "neg":
        return -numbers[0]
    left, right = numbers
    if part.kind in ("/", "//", "%") and right == 0:
        raise ExpressionError("division by zero", part.position)
    match part.kind:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case "//":
            return left // right
    return left % right


def _call(part: Part, values: list[Value]) -> Value:
    if part.value == "len":
        if not isinstance(values[0], (str, list)):
            raise ExpressionError("`len` takes a text or a list", part.position)
        return len(values[0])
    flat = (
        values[0]
        if part.value in ("min", "max") and len(values) == 1 and isinstance(values[0], list)
        else values
    )
    numbers = [_number(value, part) for value in flat]
    if not numbers:
        raise ExpressionError(f"`{part.value}` of an empty list", part.position)
    match part.value:
        case "min":
            return min(numbers)
        case "max":
            return max(numbers)
        case "abs":
            return abs(numbers[0])
    digits = numbers[1] if len(numbers) > 1 else 0
    if not (isinstance(digits, int) and -12 <= digits <= 12):
        raise ExpressionError("`round` takes a whole number of digits from -12 to 12", part.position)
    return _bounded(round(numbers[0], digits) if len(numbers) > 1 else round(numbers[0]), part.position)


def _kind(part: Part, kinds: Mapping[str, str]) -> str | None:
    match part.kind:
        case "const":
            return (
                "boolean"
                if isinstance(part.value, bool)
                else "string"
                if isinstance(part.value, str)
                else "number"
            )
        case "name":
            return kinds.get(part.value)
    inner = [(_kind(child, kinds), child) for child in part.children]
    if part.kind in ("and", "or", "not"):
        _need("boolean", inner)
        return "boolean"
    if part.kind in ("==", "!="):
        return "boolean"
    if part.kind in _COMPARISONS:
        if not {kind for kind, _ in inner} <= {"string", None}:
            _need("number", inner)
        return "boolean"
    if part.kind == "call":
        _need_arguments(part, inner)
        return "number"
    _need("number", inner)
    return "number"


def _need_arguments(part: Part, inner: list[tuple[str | None, Part]]) -> None:
    if part.value == "len":
        for kind, child in inner:
            if kind not in ("string", "list", None):
                raise ExpressionError(f"`len` takes a text or a list, not a {kind}", child.position)
    elif not (part.value in ("min", "max") and [kind for kind, _ in inner] == ["list"]):
        _need("number", inner)


def _need(wanted: str, inner: list[tuple[str | None, Part]]) -> None:
    for kind, child in inner:
        if kind is not None and kind != wanted:
            raise ExpressionError(f"a {kind} stands where a {wanted} is needed", child.position)
