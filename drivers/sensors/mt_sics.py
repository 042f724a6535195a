r"""Mettler Toledo balances and weigh modules: MT-SICS levels 0 and 1, on serial or TCP.

Sources: Mettler Toledo, MT-SICS Interface Commands for Weigh Modules, reference manual, 2.1.2 to 2.1.4
(formats, errors), 2.2, "@" (Cancel); golden lines of 11780711, MT-SICS reference manual for Excellence
balances.

    host     S CR LF
    balance  S S     100.00 g CR LF
             │ │ │          └ host unit, 1 to 5 characters
             │ │ └ value, 10 characters, right-aligned; on a DeltaRange balance the tenth may be a space
             │ └ S stable, D dynamic, + overload, - underload, I not executable, A done, B more lines follow
             └ the command's name        ES not understood, ET damaged on the way, EL not executable

There is no checksum and nothing that tells one answer from an earlier one. An answer of any other form is
therefore not believed, and after an answer that did not come, or could not be read, the next command is
`@`: it cancels whatever is pending and is answered with the serial number. It keeps zero and tare.

`S`, `Z` and `T` are answered when the pan is at rest. Whether that takes long or the answer got lost cannot
be seen; every `SLICE_S` the command is therefore cancelled and given again, until its time is over.
Weighing changes nothing; zeroing or taring the same load twice is the same as once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from drivers.api import Attempt, Device, Effect, Identity, LineUse, Options, operation, wire_errors
from drivers.errors import Fault, Lost, Refused
from protocols.errors import BadFrame, LinkTimeout, WireError
from protocols.exchange import Exchange
from protocols.lines import LineDecoder
from protocols.links import Links
from protocols.serial_port import SerialSettings

REPLY_S = 1.0
SLICE_S = 10.0
TRIES = 3

GRAMS = {"g": 1.0, "kg": 1e3, "mg": 1e-3, "µg": 1e-6, "ug": 1e-6}
ERRORS = {
    1: "boot error",
    2: "brand error",
    3: "checksum error",
    9: "option failed",
    10: "EEPROM error",
    11: "device mismatch",
    12: "a part was unplugged while it was on",
    14: "weigh cell and electronics do not match",
    15: "an adjustment is needed",
}
"""Reported in place of the value; "Specific error messages on weight response"."""

_WEIGHT = re.compile(r"(?:S|T|TA) (?P<status>[SDA]) (?P<value>.{10,}) (?P<unit>\S{1,5})")
_NUMBER = re.compile(r" *-?\d+(?:\.\d*)? *")
_ERROR = re.compile(r"\S+ S  *Error (?P<number>\d{1,2})(?P<place>[bt])")
_TEXT = re.compile(r'I\d+ A "(?P<text>.*)"')


def encode(command: str) -> bytes:
    """A command as it goes on the wire."""
    return command.encode("latin-1") + b"\r\n"


class Weight(NamedTuple):
    """A weight in an answer; `status` S stable, D dynamic, A tare memory."""

    status: str
    mass_g: float


def parse_weight(line: str) -> Weight | None:
    """The weight in a line such as `S S     100.00 g`; None if it holds none.

    Raises `Fault` for a unit that isn't one of mass in grams, and for an error in place of the value.
    """
    if error := _ERROR.fullmatch(line):
        what = ERRORS.get(int(error["number"]), "unknown error")
        part = "weigh module" if error["place"] == "b" else "terminal"
        raise Fault(f"The balance reports error {error['number']} of its {part}: {what}.")
    found = _WEIGHT.fullmatch(line)
    if found is None or _NUMBER.fullmatch(found["value"]) is None:
        return None
    if found["unit"] not in GRAMS:
        raise Fault(f"The balance weighs in {found['unit']!r}: set its host unit (unit 1) to g, mg or kg.")
    return Weight(found["status"], round(float(found["value"]) * GRAMS[found["unit"]], 9))


class MtSicsOptions(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cell file options of the balance."""

    baudrate: Literal[600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200] = 9600


Timeout = Annotated[float, Meta(ge=0.5, le=600, description="how long the pan may take to come to rest, s")]


class Weigh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `weigh`."""

    stable: Annotated[bool, Meta(description="wait until the pan is at rest")] = True
    timeout_s: Timeout = 30.0


class Settle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `zero` and `tare`."""

    timeout_s: Timeout = 30.0


class Weighed(msgspec.Struct, frozen=True):
    """Net mass, and whether the balance called it stable."""

    mass_g: float
    stable: bool


class Tared(msgspec.Struct, frozen=True):
    """What the balance now takes for the empty vessel."""

    tare_g: float


class MtSics(Device):
    """A balance; it moves nothing."""

    driver = "mt-sics"
    title = "Mettler Toledo balance (MT-SICS)"
    safe_state = "Nothing changes: a balance moves nothing."
    grade = "simulated"
    Options = MtSicsOptions
    Readings = Weighed
    options: MtSicsOptions

    def __init__(self, name: str, options: MtSicsOptions, links: Links) -> None:
        super().__init__(name, options, links)
        self._exchange: Exchange[bytes] | None = None
        # What an earlier user of the port has asked may still be answered.
        self._pending = True

    @classmethod
    def line(cls, options: MtSicsOptions) -> LineUse:
        return LineUse("mt-sics", SerialSettings(baudrate=options.baudrate))

    async def open(self) -> None:
        settings = self.line(self.options).settings
        with wire_errors():
            self._exchange = self.links.exchange(self.options.port, settings, LineDecoder, user=self.name)
            async with self._exchange.converse(self.name):
                pass

    async def identify(self) -> Identity:
        model, serial, firmware = [await self._text(command) for command in ("I2", "I4", "I3")]
        return Identity(model or "MT-SICS balance", serial=serial or None, firmware=firmware or None)

    async def read(self) -> Weighed:
        """The weight at this moment, at rest or not."""
        return self._weighed(await self._ask("SI"))

    @operation(settles=Effect.REPEAT, estimate_s=2.0)
    async def weigh(self, args: Weigh, attempt: Attempt) -> Weighed:
        """Read the net mass, at rest unless `stable` is false."""
        command = "S" if args.stable else "SI"
        await attempt.intend(encode(command))
        return self._weighed(
            await self._at_rest("S", args.timeout_s) if args.stable else await self._ask("SI")
        )

    @operation(settles=Effect.REPEAT, estimate_s=3.0)
    async def zero(self, args: Settle, attempt: Attempt) -> None:
        """Take the present load for zero; the pan should be empty. Clears the tare."""
        await attempt.intend(encode("Z"))
        await self._at_rest("Z", args.timeout_s)

    @operation(settles=Effect.REPEAT, estimate_s=3.0)
    async def tare(self, args: Settle, attempt: Attempt) -> Tared:
        """Take the present load for the vessel: from now on only what is added counts."""
        await attempt.intend(encode("T"))
        weight = parse_weight(await self._at_rest("T", args.timeout_s))
        return Tared(weight.mass_g if weight else 0.0)

    def halt(self) -> None:
        """Nothing to stop, so nothing is sent; a weighing that is waiting ends by its own deadline."""

    async def halted(self) -> bool:
        """Always true."""
        return True

    async def close(self) -> None:
        self._exchange = None

    def _weighed(self, line: str) -> Weighed:
        weight = parse_weight(line)
        if weight is None:
            raise Lost(f"{self.name} answered {line!r}, which holds no weight.")
        return Weighed(weight.mass_g, weight.status == "S")

    async def _text(self, command: str) -> str:
        """Text of an inquiry (I2, I3, I4); empty if the balance does not know it."""
        try:
            line = await self._ask(command)
        except Refused:
            return ""
        found = _TEXT.fullmatch(line)
        return found["text"].strip() if found else ""

    async def _ask(self, command: str) -> str:
        """The answer to a command that is answered at once; asked again if there is none."""
        for _ in range(TRIES):
            if (line := await self._once(command, REPLY_S)) is not None:
                return line
        raise Lost(f"{self.name} gave no answer to {command} that can be understood.")

    async def _at_rest(self, command: str, timeout_s: float) -> str:
        """The answer to a command that waits for the pan; given again every `SLICE_S`."""
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        while (left := deadline - now()) > 0:
            if (line := await self._once(command, min(left, SLICE_S))) is not None:
                return line
        await self._cancel()
        raise Fault(
            f"{self.name} has not come to rest within {timeout_s:g} s: look for draughts, vibration, "
            "or something that touches the pan."
        )

    async def _once(self, command: str, timeout_s: float) -> str | None:
        """The last line of the answer; None if there is none, or none to believe. Raises if it is a no."""
        if self._pending:
            await self._cancel()
        self._pending = True
        name = "S" if command == "SI" else command
        try:
            line = await self._request(
                command, lambda line: line != "" and not line.startswith(f"{name} B"), timeout_s
            )
        except (LinkTimeout, BadFrame) as problem:
            if not problem.sent:
                raise Lost(f"{self.name}: {problem}", sent=False) from problem
            return None
        complaint = self._complaint(name, line)
        self._pending = complaint is None and line != "ET" and not _answers(name, line)
        if complaint is not None:
            raise complaint
        return None if self._pending or line == "ET" else line

    def _complaint(self, name: str, line: str) -> Refused | Fault | None:
        if line == "ES":
            return Refused(f"{self.name} does not know the command {name}.")
        if line in ("EL", f"{name} L"):
            return Refused(f"{self.name} cannot carry out {name} in its present state or settings.")
        if line == f"{name} I":
            return Fault(f"{self.name} is busy, or did not come to rest in the time that it allows itself.")
        if line == f"{name} +":
            return Fault(f"{self.name} is overloaded: take weight off the pan.")
        if line == f"{name} -":
            return Fault(f"{self.name} is underloaded: put the pan in its place, or zero the balance.")
        return None

    async def _cancel(self) -> None:
        """Make the balance forget whatever it may still want to say."""
        for last in (False, False, True):
            try:
                await self._request("@", lambda line: _TEXT.fullmatch(line) is not None, REPLY_S)
            except (LinkTimeout, BadFrame) as problem:
                if last or not problem.sent:
                    raise Lost(f"{self.name}: {problem}", sent=problem.sent) from problem
            else:
                self._pending = False
                return

    async def _request(self, command: str, accept: Callable[[str], bool], timeout_s: float) -> str:
        """One command, one line. Raises `LinkTimeout`, `BadFrame` and, for everything else, `Lost`."""
        if self._exchange is None:
            raise Lost(f"{self.name} has not been opened.", sent=False)
        try:
            line = await self._exchange.request(
                encode(command),
                accept=lambda line: accept(line.decode("latin-1")),
                timeout_s=timeout_s,
                unit=self.name,
            )
        except (LinkTimeout, BadFrame):
            raise
        except WireError as problem:
            raise Lost(f"{self.name}: {problem}", sent=problem.sent) from problem
        return line.decode("latin-1")


def _answers(name: str, line: str) -> bool:
    """Whether a line has the form of a positive answer to the command."""
    if not line.startswith(f"{name} "):
        return False
    if name.startswith("I"):
        return _TEXT.fullmatch(line) is not None
    if name == "Z":
        return line == "Z A"
    weight = _WEIGHT.fullmatch(line)
    return _ERROR.fullmatch(line) is not None or (
        weight is not None and bool(_NUMBER.fullmatch(weight["value"]))
    )
