"""Hamilton Arc pH sensor over Modbus RTU.

Source: Hamilton, "pH ARC Sensors Modbus RTU Programmer's Manual", p/n 624300/01, firmware EPHUM011: primary
channels 2.5.2, 2.5.3 (p. 20-23), status 2.5.4 (p. 23), errors 2.8.4 (p. 60-61), names 2.9 (p. 64-65).

The manual's register N is address N-1 on the wire. A channel is ten registers, and the sensor only gives the
whole block (2.5.3.3, "Attention"):

    2090  physical unit      uint32, one bit set; 0x1000 pH
    2092  value              float32
    2094  measurement status uint32, 0 = no problem
    2096  smallest value     float32          32-bit values stand low word first (figure 2.5.2.3.2)
    2098  largest value      float32

Texts are eight registers of two characters. The manual prints no frame of one, so the order of the two is not
assumed: the firmware's name, which begins with `EPH` on every pH Arc, shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec

from drivers.api import Attempt, Device, Effect, Identity, LineUse, Options, operation, wire_errors
from drivers.errors import Fault, Refused
from protocols.modbus import Modbus, frame_read_holding
from protocols.registers import Block, Field, Value, WordOrder, decode_string, decode_uint32
from protocols.serial_port import SerialSettings

FIRMWARE = 1032
PART_NUMBER = 1280
SERIAL_NUMBER = 1312
PH = 2090
TEMPERATURE = 2410
ERRORS = 4800
TEXT_WORDS = 8

UNIT_PH = 0x1000
TO_CELSIUS: dict[int, Callable[[float], float]] = {
    0x04: lambda c: c,
    0x02: lambda k: k - 273.15,
    0x08: lambda f: (f - 32.0) / 1.8,
}

STATUS_ERROR = 0x10
"""2.5.4: the other bits (temperature out of range, calibration, warning) still come with a value."""

ERROR_TEXTS = {
    (0, 5): "the resistance of the glass is too high",
    (0, 6): "the resistance of the glass is too low: it may be broken",
    (0, 7): "the resistance of the reference electrode is too high",
    (0, 8): "the resistance of the reference electrode is too low",
    (0, 15): "the potential of the auxiliary electrode is too high",
    (0, 16): "the potential of the auxiliary electrode is too low",
    (0, 17): "the resistance of the auxiliary electrode is too high",
    (0, 18): "the resistance of the auxiliary electrode is too low",
    (0, 25): "the temperature sensor is defective",
    (1, 1): "its quality is below 15 %: it has to be replaced",
    (3, 24): "its front end does not answer",
}
"""(group, bit) of register 4800; figures 2.8.4.3.1 to 2.8.4.3.4."""


def channel(register: int) -> Block:
    """The block of a primary measurement channel by its register number in the manual."""
    low = WordOrder.LOW_FIRST
    wire = register - 1
    fields = (
        Field("unit", wire, "uint32", low),
        Field("value", wire + 2, "float32", low),
        Field("status", wire + 4, "uint32", low),
        Field("minimum", wire + 6, "float32", low),
        Field("maximum", wire + 8, "float32", low),
    )
    return Block(wire, 10, fields)


def text_of(words: Sequence[int], high_first: bool) -> str:
    """Eight registers as text without padding; "" where the manual's sensors say `not available`."""
    ordered = words if high_first else [(word & 0xFF) << 8 | word >> 8 for word in words]
    text = decode_string(ordered).strip()
    return "" if text == "not available" else text


def errors_of(words: Sequence[int]) -> list[str]:
    """Half sentences for the bits set in the eight registers of 4800 (four groups of 32 bits)."""
    texts = []
    for group in range(4):
        bits = decode_uint32(words[2 * group : 2 * group + 2], WordOrder.LOW_FIRST)
        for bit in range(32):
            if bits >> bit & 1:
                texts.append(ERROR_TEXTS.get((group, bit), f"error bit {bit} of group {group + 1}"))
    return texts


class ArcOptions(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys in the cell file."""

    address: Annotated[int, msgspec.Meta(ge=1, le=32, description="Modbus address of the sensor")] = 1
    baudrate: Literal[4800, 9600, 19200, 38400, 57600, 115200] = 19200


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class PhReading(msgspec.Struct, frozen=True):
    """One measurement."""

    ph: float
    temperature_c: float
    warning: bool
    """The sensor gives the value with a reservation: calibration due, or temperature out of its range."""


class HamiltonArcPh(Device):
    """A pH sensor: it measures by itself all the time, and is only asked."""

    driver = "hamilton-arc-ph"
    title = "Hamilton Arc pH sensor"
    safe_state = "It moves nothing and heats nothing: there is nothing to stop."
    grade = "simulated"
    Options = ArcOptions
    Readings = PhReading
    options: ArcOptions
    _modbus: Modbus

    @classmethod
    def line(cls, options: ArcOptions) -> LineUse:
        """Modbus RTU, 8N2 (2.3: parity and stop bits are fixed)."""
        return LineUse("modbus-rtu", SerialSettings(baudrate=options.baudrate, stopbits=2))

    async def open(self) -> None:
        """Take the line. The sensor is first asked by `identify`."""
        if self.options.port.startswith("tcp://"):
            raise Refused(
                f"{self.name}: {self.options.port} would speak Modbus TCP, and an Arc sensor speaks RTU. "
                "For a serial device server write socket://host:port."
            )
        with wire_errors():
            self._modbus = self.links.modbus(
                self.options.port, self.line(self.options).settings, user=self.name
            )

    async def identify(self) -> Identity:
        """Part number, serial number and firmware; refuses another kind of Arc sensor."""
        firmware = await self._words(FIRMWARE, TEXT_WORDS)
        high_first = text_of(firmware, True).startswith("EPH")
        name = text_of(firmware, high_first)
        if not name.startswith("EPH"):
            raise Refused(
                f"{self.name}: address {self.options.address} has firmware {name!r}, and a pH Arc's "
                "begins with EPH: check `address` and what is plugged in."
            )
        part = text_of(await self._words(PART_NUMBER, TEXT_WORDS), high_first)
        serial = text_of(await self._words(SERIAL_NUMBER, TEXT_WORDS), high_first)
        return Identity(f"Hamilton Arc pH {part}".strip(), serial or None, name)

    async def read(self) -> PhReading:
        """pH 0…14 and temperature in °C, now. Raises `Fault` if the sensor reports an error."""
        ph = await self._channel(PH)
        if ph["unit"] != UNIT_PH:
            raise Fault(
                f"{self.name} is set to another unit than pH (bit {int(ph['unit']):#x} of register 2090): "
                "set it to pH with the maker's ArcAir app."
            )
        temperature = await self._channel(TEMPERATURE)
        to_celsius = TO_CELSIUS.get(int(temperature["unit"]))
        if to_celsius is None:
            raise Fault(
                f"{self.name} gives its temperature in an unknown unit ({int(temperature['unit']):#x}): "
                "set it to °C."
            )
        return PhReading(
            ph=self._number(ph, "pH"),
            temperature_c=round(to_celsius(self._number(temperature, "temperature")), 4),
            warning=bool(int(ph["status"]) | int(temperature["status"])),
        )

    @operation(settles=Effect.REPEAT, estimate_s=0.1)
    async def measure(self, args: Nothing, attempt: Attempt) -> PhReading:
        """Read pH and temperature."""
        await attempt.intend(frame_read_holding(self.options.address, PH - 1, 10))
        return await self.read()

    def halt(self) -> None:
        """Nothing to stop: a sensor at rest, and a line that other devices may need for their own stop."""

    async def halted(self) -> bool:
        """Always: it has no moving part."""
        return True

    async def close(self) -> None:
        """The line belongs to all its devices: `Links` closes it."""

    async def _channel(self, register: int) -> dict[str, float]:
        with wire_errors():
            values: dict[str, Value] = await self._modbus.read_block(self.options.address, channel(register))
        numbers = {name: float(value) for name, value in values.items()}
        if int(numbers["status"]) & STATUS_ERROR:
            raise Fault(f"{self.name} reports an error: {await self._why()}.")
        return numbers

    async def _why(self) -> str:
        try:
            with wire_errors():
                words = await self._modbus.read_holding(self.options.address, ERRORS - 1, 8)
        except Refused:
            return "it does not say which"
        return "; ".join(errors_of(words)) or "it does not say which"

    def _number(self, values: dict[str, float], what: str) -> float:
        if not math.isfinite(values["value"]):
            raise Fault(
                f"{self.name} has no {what} to give ({values['value']}): is it connected to its electrode?"
            )
        return values["value"]

    async def _words(self, register: int, count: int) -> list[int]:
        with wire_errors():
            return await self._modbus.read_holding(self.options.address, register - 1, count)
