"""Command strings of the Cavro XCalibur: syntax, ranges and loops.

Tecan Cavro XCalibur operating manual 733085-B, sections 3.3 to 3.5; ranges also in Cavro XP 3000 operator's
manual 725730-C, chapter 3, of the same command set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

FULL_STROKE = 3000
MICROSTEPS = 8
"""Microsteps in one increment: 24000 in a full stroke."""

INVALID_COMMAND, INVALID_OPERAND = 2, 3
_DEEPEST_LOOP = 10
_STEP = re.compile(r"([A-Za-z])(\d*(?:,\d*)*)")

MOVES = frozenset("AaPpDd")
VALVE = frozenset("IOEB")
INITIALIZE = frozenset("ZYW")
SETTINGS = frozenset("VvcSLKkN")
CONTROL = frozenset("MgG")
_KNOWN = MOVES | VALVE | INITIALIZE | SETTINGS | CONTROL
_MOST_OPERANDS = {"Z": 3, "Y": 3, "B": 0, "g": 0}


class Step(NamedTuple):
    """One command of a string with its operands; an operand left out is None."""

    letter: str
    operands: tuple[int | None, ...]

    @property
    def value(self) -> int | None:
        return self.operands[0]


class Refused(Exception):
    """A status code of the manual's table 3-9 (2 invalid command, 3 invalid operand, ...)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"error {code}")
        self.code = code


def parse(text: str) -> list[Step]:
    """The steps of a command string without its R; `Refused(2)` if any of it is no command."""
    steps, at, depth = [], 0, 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or match[1] not in _KNOWN:
            raise Refused(INVALID_COMMAND)
        operands = tuple(int(part) if part else None for part in match[2].split(","))
        if len(operands) > max(1, _MOST_OPERANDS.get(match[1], 1)):
            raise Refused(INVALID_COMMAND)
        depth += match[1] == "g"
        steps.append(Step(match[1], operands))
        at = match.end()
    if depth > _DEEPEST_LOOP:
        raise Refused(INVALID_COMMAND)
    return steps


def speed_of_code(code: int) -> int:
    """Pulses a second of speed code S0..S40 (command S, section 3.4)."""
    fast = (6000, 5600, 5000, 4400, 3800, 3200, 2600, 2200, 2000, 1800, 1600, 1400, 1200, 1000, 800, 600, 400)
    if code < len(fast):
        return fast[code]
    return 200 - 10 * (code - 17) if code <= 35 else 20 - 2 * (code - 35)


@dataclass(slots=True)
class Settings:
    """What the set commands change, with the defaults after power-up; speeds in pulses a second.

    `mode` is N0 (increments), N1 (positions in microsteps) or N2 (positions and speeds in microsteps).
    """

    top_speed: int = 1400
    start_speed: int = 900
    cutoff_speed: int = 900
    slope: int = 14
    backlash: int = 12
    dead_volume: int = 50
    mode: int = 0

    @property
    def microsteps_per_s(self) -> float:
        """Plunger speed: two pulses are an increment, except in N2 where a pulse is a microstep."""
        return float(self.top_speed) if self.mode == 2 else self.top_speed * MICROSTEPS / 2

    def apply(self, step: Step) -> None:
        """Carry out a set command; `Refused(3)` outside its range."""
        value = step.value
        low, high = self._range(step.letter)
        if value is None or not low <= value <= high:
            raise Refused(INVALID_OPERAND)
        match step.letter:
            case "V":
                self.top_speed = value
            case "S":
                self.top_speed = speed_of_code(value)
            case "v":
                self.start_speed = value
            case "c":
                self.cutoff_speed = value
            case "L":
                self.slope = value
            case "K":
                self.backlash = value
            case "k":
                self.dead_volume = value
            case "N":
                self.mode = value

    def _range(self, letter: str) -> tuple[int, int]:
        fine = MICROSTEPS if self.mode else 1
        top = 6000 * (MICROSTEPS if self.mode == 2 else 1)
        return {
            "V": (5, top),
            "S": (0, 40),
            "v": (50, 1000),
            "c": (50, 2700),
            "L": (1, 20),
            "K": (0, 31 * fine),
            "k": (0, 80 * fine),
            "N": (0, 2),
        }[letter]


@dataclass(slots=True)
class Program:
    """A command string that is being executed: where it is, and how often its loops have run."""

    steps: list[Step]
    at: int = 0
    rounds: dict[int, int] = field(default_factory=dict)

    def next(self) -> Step | None:
        """The next step; None at the end of the string."""
        if self.at >= len(self.steps):
            return None
        step = self.steps[self.at]
        self.at += 1
        return step

    def loop(self, times: int) -> None:
        """Carry out `G<times>` (0: for ever), which has just been taken: back to its `g` or to the start."""
        end = self.at - 1
        done = self.rounds.get(end, 0) + 1
        if times and done >= times:
            self.rounds.pop(end, None)
            return
        self.rounds[end] = done
        self.at = self._start_of(end)

    def _start_of(self, end: int) -> int:
        depth = 0
        for index in range(end - 1, -1, -1):
            letter = self.steps[index].letter
            if letter == "g":
                if depth == 0:
                    return index + 1
                depth -= 1
            elif letter == "G":
                depth += 1
        return 0
