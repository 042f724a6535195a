"""YAML for people at a bench: plain data with the line of every value, and none of YAML's traps.

Read as YAML's core without what bites: anchors, aliases, merge keys and tags are refused, and so is every
plain word that YAML 1.1 and 1.2 read differently (`no`, `12:30`, `010`, `1_000`, dates). Bounded in size
(1 MiB) and nesting (32). Source: YAML 1.1, https://yaml.org/type/; YAML 1.2.2, 10.3 Core Schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edge.errors import Mistakes, Problem

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Broken:
    """Stands where a value was refused, so that nobody complains about it a second time."""

    def __repr__(self) -> str:
        return "BROKEN"


BROKEN = Broken()


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None, BROKEN), and where each part stands."""

    data: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    """Path (`devices.red.ports.1`, `interlocks[0]`) -> line, from 1."""
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: str) -> int | None:
        """Line of a path, or of the nearest thing around it that stands in the file."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get("")

    def wrong(self, path: str, message: str, mend: str = "") -> None:
        """Note a mistake at a path."""
        self.problems.append(Problem(path, message, self.line(path), mend))


def child(path: str, key: object) -> str:
    """Path of a key inside a mapping."""
    return f"{path}.{key}" if path else str(key)


def read_yaml(path: Path) -> Document:
    """Read a file. Raises `Mistakes` if there is no text or no YAML in it; smaller ones are in `problems`."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except FileNotFoundError:
        raise _stop(f"There is no file {path}", "Check the name, and the folder you are in") from None
    except IsADirectoryError:
        raise _stop(f"{path} is a folder", "Name the file inside it") from None
    except OSError as error:
        raise _stop(f"{path} cannot be read: {error.strerror}", "Check its permissions") from None
    if raw is None:
        raise _stop(f"{path} is larger than 1 MiB", "This is hardly the file you mean")
    try:
        return parse_yaml(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _stop("The file is not UTF-8 text", "Save it as UTF-8", line) from None


def parse_yaml(text: str) -> Document:
    """Parse a text. Raises `Mistakes` where it is no YAML; smaller mistakes are in `problems`."""
    tabs = [
        Problem("", "The line is indented with a tab", number, "Use spaces")
        for number, line in enumerate(text.split("\n"), 1)
        if re.match(r" *\t\s*[^\s#]", line)
    ]
    if tabs:
        raise Mistakes(tabs)
    reader = _Reader(yaml.parse(text, Loader=_LOADER))
    try:
        reader.document()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _stop("A control character does not belong in a YAML file", "Delete it", line) from None
    except yaml.MarkedYAMLError as error:
        raise Mistakes([*reader.found.problems, _syntax(error)]) from None
    return reader.found


def _stop(message: str, mend: str, line: int | None = None) -> Mistakes:
    return Mistakes([Problem("", message, line, mend)])


_SYNTAX = (
    ("mapping values are not allowed", "There is a `:` too many, or the line is indented wrongly"),
    ("cannot start any token", "A text cannot begin with this character"),
    ("could not find expected ':'", "A `:` is missing, or a quote is not closed"),
    ("unexpected end of stream", "A quote or bracket is not closed"),
    ("did not find expected ',' or", "A comma or a closing bracket is missing"),
    ("did not find expected node content", "A value or a closing bracket is missing"),
    ("did not find expected", "The line is indented differently from its neighbours"),
    ("found unknown escape", "A backslash in double quotes begins an escape"),
)


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    problem = error.problem or "it is not YAML"
    mark = error.problem_mark or error.context_mark
    if "end of stream" in problem and error.context_mark is not None:
        mark = error.context_mark  # where the quote was opened says more than where the file ends
    said = next((ours for theirs, ours in _SYNTAX if theirs in problem), f"This is not YAML: {problem}")
    mend = "Indent with spaces, put a blank behind each `:`, and quote texts with special characters"
    return Problem("", said, mark.line + 1 if mark is not None else None, mend)


class _Reader:
    """Builds a `Document` from parser events; the depth is bounded before anything recurses."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.found = Document()

    def document(self) -> None:
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    raise Mistakes([_at(event, "", "A second document begins", "Delete the `---`")])
                first = next(self.events)
                self.found.lines[""] = first.start_mark.line + 1
                self.found.data = self.value(first, "", 1)

    def value(self, event: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Mistakes([_at(event, path, "Nested deeper than 32 levels", "Write it flatter")])
        if isinstance(event, yaml.AliasEvent):
            return self.refuse(event, path, f"`*{event.anchor}` is an alias", "Write the value out")
        if event.anchor is not None:
            self.refuse(event, path, f"`&{event.anchor}` is an anchor", "Delete it, or quote the text")
        if event.tag is not None:
            self.refuse(event, path, f"`{_short(event.tag)}` is a tag", "Delete it, or quote the text")
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(path, depth)
        return self.scalar(event, path)

    def mapping(self, path: str, depth: int) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, name = self.key(event, path, depth)
            here = child(path, name)
            known = key is not BROKEN and key in data
            self.found.lines.setdefault(here, event.start_mark.line + 1)
            value = self.value(next(self.events), here, depth + 1)
            if known:
                first = self.found.lines[here]
                message = f"`{key}` stands here twice, first in line {first}"
                self.refuse(event, here, message, "Delete one of them")
            elif key is not BROKEN:
                data[key] = value
        return data

    def key(self, event: Any, path: str, depth: int) -> tuple[Any, str]:
        """The key and what to call it in a path."""
        if not isinstance(event, yaml.ScalarEvent):
            self.value(event, path, depth + 1)
            return self.refuse(event, path, "A key is not a plain word", "Write a name"), "?"
        if event.implicit[0] and event.value == "<<":
            return self.refuse(event, path, "`<<` merges mappings", "Write the keys out"), "<<"
        key = self.value(event, path, depth)
        if key is None:
            return self.refuse(event, path, "A key is missing before `:`", "Write a name"), "?"
        return key, event.value

    def sequence(self, path: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            here = f"{path}[{len(items)}]"
            self.found.lines[here] = event.start_mark.line + 1
            items.append(self.value(event, here, depth + 1))
        return items

    def scalar(self, event: Any, path: str) -> Any:
        if not event.implicit[0]:
            return event.value
        value = _plain(event.value)
        if not isinstance(value, _Trap):
            return value
        shown = event.value if len(event.value) <= 40 else event.value[:40] + "…"
        return self.refuse(event, path, f"`{shown}` {value.message}", value.mend.format(shown))

    def refuse(self, event: Any, path: str, message: str, mend: str) -> Broken:
        self.found.problems.append(_at(event, path, message, mend))
        return BROKEN


def _at(event: Any, path: str, message: str, mend: str) -> Problem:
    return Problem(path, message, event.start_mark.line + 1, mend)


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


@dataclass(frozen=True)
class _Trap:
    message: str
    mend: str


_QUOTE = 'Write "{0}" in quotes if it is a text'
_TRAPS = tuple(
    (re.compile(pattern), _Trap(message, mend))
    for pattern, message, mend in (
        (r"(?i:yes|no|on|off)", "is true or false to some YAML readers and a word to others",
         'Write true or false, or "{0}" in quotes'),
        (r"TRUE|True|FALSE|False", "is true or false to some YAML readers only",
         "Write true or false in small letters"),
        (r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?", "is a number to the base of 60 to some YAML readers", _QUOTE),
        (r"[-+]?0[0-9_]*\d[0-9_]*|0o[0-7]+", "is an octal number to some YAML readers",
         'Write it without leading zeros, or "{0}" in quotes'),
        (r"[-+]?0b[01_]+", "is a binary number to some YAML readers", _QUOTE),
        (r"[-+]?\d[\d_]*_[\d_.]*", "is a number to some YAML readers and a text to others",
         'Write it without `_`, or "{0}" in quotes'),
        (r"\d{4}-\d{1,2}-\d{1,2}([Tt\s].*)?", "is a date to some YAML readers", _QUOTE),
        (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "is not a finite number", _QUOTE),
    )
)  # fmt: skip
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,18})")
_LONG_INTEGER = re.compile(r"[-+]?[1-9]\d{18,}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d{1,3})?")


def _plain(text: str) -> Any:
    """An unquoted word as a value, or the trap it is."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "false"):
        return text == "true"
    for pattern, trap in _TRAPS:
        if pattern.fullmatch(text):
            return trap
    if _INTEGER.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _LONG_INTEGER.fullmatch(text):
        return _Trap("is too large a number", _QUOTE)
    if _FLOAT.fullmatch(text):
        value = float(text)
        return value if abs(value) < float("inf") else _Trap("is too large a number", _QUOTE)
    return text
