"""Hamilton Arc pH sensor: Modbus RTU, 19200 8N2, address 1..32, functions 3, 4 and 16.

Source: Hamilton, "pH ARC Sensors Modbus RTU Programmer's Manual (EPHUM011)", 624300/01; pages are given
below.

- A register number of the manual is one higher than the address on the wire (page 5).
- A block is read whole, from its first register on (page 21); here anything else is refused with exception 2.
- Numbers of 32 bits stand low word first. The manual does not say which character of a register's two comes
  first; here it is the one in the high byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from firmware_sim.api import IllegalAddress, IllegalValue, Log, RegisterSimulator
from firmware_sim.options import number, serial_number, text, whole
from firmware_sim.world import World

UNIT_KELVIN, UNIT_CELSIUS, UNIT_PH, UNIT_MILLIVOLT = 0x02, 0x04, 0x1000, 0x200000  # page 19
STATUS_RANGE, STATUS_ERROR = 0x01, 0x10  # page 23
TEMPERATURE_RANGE_C = (-20.0, 130.0)  # page 23, figure 2.5.3.3.2
USER_SPACE = (1536, 1544, 1552, 1560)  # page 65: what the lowest operator level may write
PH_UNITS = (UNIT_PH, UNIT_MILLIVOLT)
TEMPERATURE_UNITS = (UNIT_KELVIN, UNIT_CELSIUS)

KELVIN = 273.15
NERNST_MV_PER_K = 0.198416
DRY_PH = 7.0


class HamiltonArcPh(RegisterSimulator):
    """A pH sensor standing in one well (`in: labware/A1`), or in nothing and then at pH 7.00.

    Options: `address` (1..32), `in`, `noise` (standard deviation, pH, default 0.002), `temperature_c`
    (default 25), `serial`. The pH of a mixture is that of its mean hydrogen ion concentration by volume:
    crude, for it knows of no buffer, and good enough to tell one well from another. Faults: `drift` in pH
    per second, `error` with a code of page 61, such as 0x20 (glass resistance too high).
    """

    model: ClassVar[str] = "hamilton-arc-ph"
    transport: ClassVar[str] = "modbus-rtu"
    functions: ClassVar[frozenset[int]] = frozenset({3, 4, 16})
    option_names: ClassVar[frozenset[str] | None] = frozenset(
        {"address", "in", "noise", "temperature_c", "serial"}
    )

    def __init__(self, name: str, options: Mapping[str, Any], world: World, log: Log) -> None:
        super().__init__(name, options, world, log)
        self.unit = whole(options, "address", 1, 1, 32)
        self._well = text(options, "in", "")
        if self._well:
            world.find(self._well)
        self._noise = number(options, "noise", 0.002, 0.0, 14.0)
        self._temperature_c = number(options, "temperature_c", 25.0, -100.0, 200.0)
        self._random = world.rng_for(name)
        self._units = {"ph": UNIT_PH, "temperature": UNIT_CELSIUS}
        self._drift_per_s = 0.0
        self._drift = 0.0
        self._errors = 0
        self._hours = 0.0
        self._power_ups = 1
        self._texts = {
            1024: "2010-04-28",  # page 64, with the examples printed there
            1032: "EPHUM011",
            1040: "2009-09-18",
            1048: "BL0UX012",
            1056: "242822/01",
            1088: "2009-09-16",
            1096: "EPHFI010",
            1120: "242828/00",
            1280: "242111/01",
            1312: serial_number(name, options),  # page 65, figure 2.9.2.2
            2400: "T",  # page 22
            **dict.fromkeys(USER_SPACE, "*FREE_USERSPACE*"),
        }
        self._numbers: dict[int, tuple[int, Callable[[], bytes]]] = {
            2090: (10, self._ph_block),
            2408: (2, lambda: _integers(sum(TEMPERATURE_UNITS))),
            2410: (10, self._temperature_block),
            4676: (6, lambda: _floats(self._hours, 0.0, 0.0)),  # page 58
            4682: (6, lambda: _integers(self._power_ups, 0, 0)),
            4736: (8, lambda: _integers(0, 0, 0, 0)),  # page 59
            4800: (8, lambda: _integers(self._errors, 0, 0, 0)),  # page 60
            4872: (2, lambda: _floats(0.0 if self._errors else 100.0)),  # page 63
        }

    def read(self, function: int, address: int, count: int) -> list[int]:
        register = address + 1
        if function not in self.functions:
            raise IllegalAddress
        if register in self._texts:
            size, data = 8, self._texts[register].encode("latin-1").ljust(16)[:16]
        elif register in self._numbers:
            size, make = self._numbers[register]
            data = make()
        else:
            raise IllegalAddress
        if count != size:
            raise IllegalAddress
        return list(struct.unpack(f">{size}H", data))

    def write(self, function: int, address: int, values: list[int]) -> None:
        register = address + 1
        if function not in self.functions:
            raise IllegalAddress
        if register in USER_SPACE and len(values) == 8:
            self._texts[register] = struct.pack(">8H", *values).decode("latin-1")
        elif register == 2090 and len(values) == 2:
            self._units["ph"] = _unit(values, PH_UNITS)
        elif register == 2410 and len(values) == 2:
            self._units["temperature"] = _unit(values, TEMPERATURE_UNITS)
        else:
            raise IllegalAddress

    def tick(self, dt: float) -> None:
        self._hours += dt / 3600.0
        self._drift += self._drift_per_s * dt

    def reboot(self) -> None:
        """Settings and user space live in flash and stay; the count of power-ups tells of it."""
        self._power_ups += 1
        self._drift_per_s, self._drift = 0.0, 0.0

    def drift(self, per_s: float) -> None:
        self._drift_per_s = per_s

    def fail(self, code: int) -> None:
        """Bits of register 4800, errors of the measurement (page 61); 0 clears them."""
        self._errors = code

    def state(self) -> dict[str, Any]:
        return {"ph": round(self.true_ph(), 4), "drift_ph": self._drift, "temperature_c": self._temperature_c}

    def true_ph(self) -> float:
        """pH of what the sensor stands in, before noise and drift."""
        content = self.world.contents(self._well) if self._well else {}
        volume = sum(content.values())
        if volume <= 0.0:
            return DRY_PH
        moles = sum(amount * 10.0 ** -self.world.kind(name).ph for name, amount in content.items())
        return -math.log10(moles / volume)

    def _ph_block(self) -> bytes:
        ph = self.true_ph() + self._drift + self._random.gauss(0.0, self._noise)
        ph = min(max(ph, 0.0), 14.0)
        if self._units["ph"] == UNIT_PH:
            return self._block(UNIT_PH, ph, 0.0, 14.0)
        slope = NERNST_MV_PER_K * (self._temperature_c + KELVIN)
        return self._block(UNIT_MILLIVOLT, (7.0 - ph) * slope, -7.0 * slope, 7.0 * slope)

    def _temperature_block(self) -> bytes:
        shift = KELVIN if self._units["temperature"] == UNIT_KELVIN else 0.0
        low, high = TEMPERATURE_RANGE_C
        return self._block(self._units["temperature"], self._temperature_c + shift, low + shift, high + shift)

    def _block(self, unit: int, value: float, low: float, high: float) -> bytes:
        """Unit, value, status, lowest and highest allowed value (pages 21 and 23): ten registers."""
        inside = TEMPERATURE_RANGE_C[0] <= self._temperature_c <= TEMPERATURE_RANGE_C[1]
        status = (0 if inside else STATUS_RANGE) | (STATUS_ERROR if self._errors else 0)
        return _integers(unit) + _floats(value) + _integers(status) + _floats(low, high)


def _unit(values: list[int], allowed: tuple[int, ...]) -> int:
    unit = values[0] | values[1] << 16
    if unit not in allowed:
        raise IllegalValue
    return unit


def _integers(*values: int) -> bytes:
    return b"".join(_swap(struct.pack(">I", value)) for value in values)


def _floats(*values: float) -> bytes:
    return b"".join(_swap(struct.pack(">f", value)) for value in values)


def _swap(word: bytes) -> bytes:
    return word[2:] + word[:2]
