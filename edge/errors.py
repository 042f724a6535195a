"""What the daemon tells people when something they gave it is wrong."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class LabedgeError(Exception):
    """Its text is a sentence that says what is wrong, where, and what to do."""


class Problem(msgspec.Struct, frozen=True):
    """One mistake in a file or a plan."""

    path: str
    """Where, as `devices.red.address` or `interlocks[0].when`; empty for the file as a whole."""
    message: str
    line: int | None = None
    """Line in the file, from 1."""
    mend: str = ""
    """What to do about it, as a sentence."""

    def __str__(self) -> str:
        where = self.path + (f" (line {self.line})" if self.line is not None else "")
        parts = (part for part in (self.message, self.mend) if part)
        said = " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts)
        return f"{where.strip()}: {said}" if where else said


class Mistakes(LabedgeError):
    """Everything that is wrong with one file, in the order of its lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))
        super().__init__("\n".join(str(problem) for problem in self.problems))
