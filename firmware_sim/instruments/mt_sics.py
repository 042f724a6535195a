"""Mettler Toledo balance speaking MT-SICS, levels 0 and 1.

Written from Mettler Toledo, Reference Manual MT-SICS, 11780711: command formats and error messages (chapter
2), S SI SIR Z ZI @ I0 to I4 (level 0), T TI TA TAC (level 1). Lines end with CR LF, a weight stands
right-aligned in ten characters before its unit. A balance in trouble answers weight commands with
`S S Error 10b`; after power-on it sends its serial number unasked, as `I4` would.

The pan settles with a time constant and is stable once nothing has changed for `settle_s`. While a command
waits for that, other weighing commands are not executable (status I); `@` cancels it. Waiting and repeating
go by the balance's own clock, which the bench's `speed` does not change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from firmware_sim.api import ByteSimulator
from firmware_sim.errors import BenchError
from firmware_sim.instruments.mt_sics_pan import Pan
from firmware_sim.log import Log
from firmware_sim.options import number, serial_number, text
from firmware_sim.world import World

_LONGEST_LINE = 80
_REPEAT_S = 0.2
_TARE_VALUE = re.compile(r"(-?\d+(?:\.\d+)?) g")


class MtSics(ByteSimulator):
    """One balance, weighing in grams.

    Options: at or weighs (see `Pan`), capacity_g, readability_g, zero_range_g (how far from an empty pan
    it may be zeroed; default: anywhere), noise_g (standard deviation), settle_s, timeout_s, serial, type.
    """

    model = "mt-sics"
    option_names: ClassVar[frozenset[str]] = frozenset(
        {
            "at",
            "weighs",
            "capacity_g",
            "readability_g",
            "noise_g",
            "settle_s",
            "timeout_s",
            "serial",
            "type",
            "zero_range_g",
        }
    )

    def __init__(self, name: str, options: Mapping[str, Any], world: World, log: Log) -> None:
        super().__init__(name, options, world, log)
        self.serial = serial_number(name, options)
        self.capacity_g = number(options, "capacity_g", 2100.0, 1.0, 1e6)
        self.readability_g = number(options, "readability_g", 0.001, 1e-7, 100.0)
        self.zero_range_g = number(options, "zero_range_g", self.capacity_g, 0.0, 1e6)
        self.decimals = max(0, round(-math.log10(self.readability_g)))
        self.type = text(options, "type", f"BENCH {self.capacity_g:.{self.decimals}f} g")
        self.timeout_s = number(options, "timeout_s", 10.0, 0.0, 3600.0)
        self._noise_g = number(options, "noise_g", self.readability_g / 2, 0.0, 100.0)
        self.pan = Pan(name, options, world, self.readability_g)
        self._noise = world.rng_for(name)
        self._line = b""
        self._kept = b""
        self._out = b""
        self._reset()

    def _reset(self) -> None:
        self._zero_g = 0.0
        self._tare_g = 0.0
        self._error = 0
        self._cancel()

    def _cancel(self) -> None:
        self._waiting: str | None = None
        self._waited_s = 0.0
        self._repeat_in_s: float | None = None

    # Bytes

    def split(self, data: bytes) -> list[bytes]:
        *lines, self._kept = (self._kept + data).split(b"\n")
        if len(self._kept) > _LONGEST_LINE:
            lines, self._kept = [*lines, self._kept], b""
            return [line + b"\n" for line in lines[:-1]] + lines[-1:]
        return [line + b"\n" for line in lines]

    def receive(self, data: bytes) -> bytes:
        *lines, self._line = (self._line + data).split(b"\n")
        replies = [self._obey(line.removesuffix(b"\r")) for line in lines]
        if len(self._line) > _LONGEST_LINE:
            self._line = b""
            replies.append("ET")
        return b"".join(f"{reply}\r\n".encode() for reply in replies if reply)

    def unasked(self) -> bytes:
        out, self._out = self._out, b""
        return out

    def _obey(self, line: bytes) -> str:
        if not line.isascii():
            return "ET"
        command, _, argument = line.decode("ascii").partition(" ")
        handler = self._commands().get(command)
        if handler is None:
            return "ES"
        if argument and command != "TA":
            return "EL"
        return handler(argument)

    def _commands(self) -> dict[str, Callable[[str], str]]:
        return {
            "@": lambda _: self._restart(),
            "I0": lambda _: self._list_commands(),
            "I1": lambda _: 'I1 A "01" "2.30" "2.22" "" ""',
            "I2": lambda _: f'I2 A "{self.type}"',
            "I3": lambda _: 'I3 A "1.00 SIM"',
            "I4": lambda _: self._identify(),
            "S": lambda _: self._wait_for("S"),
            "SI": lambda _: self._immediate(),
            "SIR": lambda _: self._repeat(),
            "Z": lambda _: self._wait_for("Z"),
            "ZI": lambda _: self._now("ZI", self._set_zero),
            "T": lambda _: self._wait_for("T"),
            "TI": lambda _: self._now("TI", self._set_tare),
            "TA": self._tare_value,
            "TAC": lambda _: self._clear_tare(),
        }

    # Commands

    def _identify(self) -> str:
        return f'I4 A "{self.serial}"'

    def _list_commands(self) -> str:
        level_1 = {"T", "TI", "TA", "TAC"}
        names = sorted(self._commands(), key=lambda name: (name in level_1, name))
        lines = [f'I0 B {int(name in level_1)} "{name}"' for name in names]
        lines[-1] = lines[-1].replace(" B ", " A ", 1)
        return "\r\n".join(lines)

    def _restart(self) -> str:
        """@: as after switching on, but the zero point stays."""
        zero = self._zero_g
        self._reset()
        self._zero_g = zero
        return self._identify()

    def _wait_for(self, command: str) -> str:
        if self._waiting:
            return f"{command} I"
        self._cancel()
        if self.pan.stable or self._error:
            return self._complete(command, "S")
        self._waiting = command
        return ""

    def _complete(self, command: str, status: str) -> str:
        if command == "S":
            return self._weight(status)
        if command == "Z":
            return self._set_zero("Z", "A")
        return self._set_tare("T", status)

    def _immediate(self) -> str:
        if self._waiting:
            return "S I"
        self._cancel()
        return self._weight(self._stability())

    def _repeat(self) -> str:
        reply = self._immediate()
        if reply != "S I":
            self._repeat_in_s = _REPEAT_S
        return reply

    def _now(self, command: str, action: Callable[[str, str], str]) -> str:
        if self._waiting:
            return f"{command} I"
        self._cancel()
        return action(command, self._stability())

    def _stability(self) -> str:
        return "S" if self.pan.stable else "D"

    def _gross_g(self) -> float:
        return self.pan.shown_g - self._zero_g + self._noise.gauss(0.0, self._noise_g)

    def _limit(self, gross_g: float) -> str | None:
        if gross_g > self.capacity_g:
            return "+"
        return "-" if gross_g < -0.02 * self.capacity_g else None

    def _weight(self, status: str) -> str:
        if self._error:
            return f"S S Error {self._error}b"
        gross = self._gross_g()
        limit = self._limit(gross)
        return f"S {limit}" if limit else f"S {status} {self._field(gross - self._tare_g)}"

    def _set_zero(self, command: str, status: str) -> str:
        offset = self.pan.shown_g
        if self._error or abs(offset) > self.zero_range_g:
            return f"{command} I" if self._error else f"{command} {'+' if offset > 0 else '-'}"
        self._zero_g, self._tare_g = offset, 0.0
        return f"{command} {status}"

    def _set_tare(self, command: str, status: str) -> str:
        if self._error:
            return f"{command} I"
        gross = self._gross_g()
        limit = self._limit(gross)
        if limit:
            return f"{command} {limit}"
        self._tare_g = self._rounded(gross)
        return f"{command} {status} {self._field(self._tare_g)}"

    def _tare_value(self, argument: str) -> str:
        if self._waiting:
            return "TA I"
        if argument:
            match = _TARE_VALUE.fullmatch(argument)
            if match is None or not 0 <= float(match[1]) <= self.capacity_g:
                return "TA L"
            self._tare_g = self._rounded(float(match[1]))
        return f"TA A {self._field(self._tare_g)}"

    def _clear_tare(self) -> str:
        if self._waiting:
            return "TAC I"
        self._tare_g = 0.0
        return "TAC A"

    def _rounded(self, value_g: float) -> float:
        # + 0.0 turns a negative zero into 0
        return round(value_g / self.readability_g) * self.readability_g + 0.0

    def _field(self, value_g: float) -> str:
        return f"{self._rounded(value_g):10.{self.decimals}f} g"

    # Time, faults, the world

    def tick(self, dt: float) -> None:
        self.pan.tick(dt)
        own_s = dt / self.world.speed
        if self._waiting:
            self._waited_s += own_s
            if self.pan.stable:
                self._say(self._complete(self._end_waiting(), "S"))
            elif self._waited_s >= self.timeout_s:
                self._say(f"{self._end_waiting()} I")
        while self._repeat_in_s is not None and own_s > 0:
            step = min(own_s, self._repeat_in_s)
            own_s -= step
            self._repeat_in_s -= step
            if self._repeat_in_s <= 0:
                self._repeat_in_s = _REPEAT_S
                self._say(self._weight(self._stability()))

    def _end_waiting(self) -> str:
        command = self._waiting or "S"
        self._cancel()
        return command

    def _say(self, line: str) -> None:
        self._out += f"{line}\r\n".encode()

    def due(self) -> float | None:
        if self._waiting:
            until_timeout = max(0.0, self.timeout_s - self._waited_s) * self.world.speed
            return min(self.pan.due(), until_timeout)
        if self._repeat_in_s is not None:
            return self._repeat_in_s * self.world.speed
        return None

    def reboot(self) -> None:
        self._reset()
        self._line = self._kept = b""
        self.pan.drift_g = self.pan.drift_per_s = 0.0
        self._out = f"{self._identify()}\r\n".encode()

    def drift(self, per_s: float) -> None:
        self.pan.drift_per_s = per_s

    def fail(self, code: int) -> None:
        """Answer weighing commands with `Error <code>b` until a restart; 0 ends it."""
        if not 0 <= code <= 99:
            raise BenchError(
                f"{self.name}: a balance has error codes 1 to 99 (0 ends the error), not {code}."
            )
        self._error = code

    def state(self) -> dict[str, Any]:
        return {
            "mass_g": round(self.pan.mass_g(), 6),
            "shown_g": round(self.pan.shown_g - self._zero_g - self._tare_g, 6),
            "stable": self.pan.stable,
            "tare_g": self._tare_g,
        }
