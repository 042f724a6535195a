"""Reading a YAML file with a line for every path, and without YAML's traps.

YAML 1.1 reads `no` as false, `12:30` as 750, `010` as 8, and of two equal keys the second wins in silence.
All of these are mistakes here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from firmware_sim.errors import BenchError

Where = tuple[str | int, ...]

_WORDS = re.compile(r"(?i:yes|no|on|off|y|n)")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?")
_OCTAL = re.compile(r"[-+]?0[0-9]+")


class Mistakes:
    """Collects sentences, each with the file, line and path it belongs to."""

    def __init__(self, file: str, lines: dict[Where, int] | None = None) -> None:
        self.file = file
        self.lines = lines or {}
        self.found: list[str] = []

    def add(self, where: Where, sentence: str) -> None:
        """Note a mistake; the line is that of the nearest enclosing thing that has one."""
        known = next(
            (self.lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in self.lines), None
        )
        at = f"{self.file}, line {known}" if known else self.file
        path = ".".join(str(part) for part in where)
        self.found.append(f"{at}: {path}: {sentence}" if path else f"{at}: {sentence}")

    def extend(self, where: Where, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self.add(where, sentence)

    def raise_any(self) -> None:
        """`BenchError` with every mistake, one a line, if there are any."""
        if self.found:
            raise BenchError("\n".join(self.found))


def read_yaml(path: Path) -> tuple[Any, Mistakes]:
    """The file's content, and the mistakes found while reading; `BenchError` if it cannot be read at all."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BenchError(f"{path} cannot be read: {reason}.") from error
    loader = yaml.CSafeLoader(text)
    try:
        node = loader.get_single_node()
        mistakes = Mistakes(str(path))
        if node is None:
            return None, mistakes
        _survey(node, (), mistakes)
        return loader.construct_document(node), mistakes
    except yaml.YAMLError as error:
        raise BenchError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    finally:
        loader.dispose()


def _survey(node: yaml.Node, where: Where, mistakes: Mistakes) -> None:
    mistakes.lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            inner = (*where, name)
            mistakes.lines[inner] = key.start_mark.line + 1
            if name in seen:
                mistakes.add(inner, "this key is there twice; keep one.")
            seen.add(name)
            _check_scalar(key, inner, mistakes)
            _survey(value, inner, mistakes)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _survey(item, (*where, index), mistakes)
    else:
        _check_scalar(node, where, mistakes)


def _check_scalar(node: yaml.Node, where: Where, mistakes: Mistakes) -> None:
    if not isinstance(node, yaml.ScalarNode) or node.style:
        return
    for trap in (_WORDS, _SEXAGESIMAL, _OCTAL):
        if trap.fullmatch(node.value):
            mistakes.add(
                where,
                f"YAML does not read {node.value} as it looks; quote it, or write true, false or a number.",
            )
