"""Tecan Cavro XCalibur syringe pump on RS-232/RS-485.

Written from the operating manual Tecan 733085-B: framing 3.2, commands and reports 3.3 to 3.5, errors and
status byte 3.6 (table 3-9); where that is silent, from the Cavro XP 3000 manual 725730-C (same command set),
pages 3-22 to 3-46: an invalid command is refused at once and nothing runs; a bad operand lets the string run
up to it and shows in the next Q; after an overload every move fails until the next initialisation.

What differs from the instrument: speed ramps, backlash and dead volume change nothing here; H (halt for an
input line) and the EEPROM commands are invalid commands; a three-port valve also takes I1 and O2.
After power-up Q reports error 7 until the pump has been initialised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from firmware_sim.api import ByteSimulator
from firmware_sim.errors import BenchError
from firmware_sim.instruments import cavro_frames as frames
from firmware_sim.instruments import cavro_program as program
from firmware_sim.instruments.cavro_drive import NOT_INITIALIZED, OVERFLOW, Drive
from firmware_sim.instruments.cavro_program import INVALID_OPERAND, Program, Refused, Step
from firmware_sim.instruments.cavro_syringe import Plumbing
from firmware_sim.log import Log
from firmware_sim.options import number, serial_number, text, whole
from firmware_sim.world import World

READY = 0x20
_INIT_ERROR = 1


class CavroXCalibur(ByteSimulator):
    """One pump. Options: address 1..15, syringe_ul, ports, valve, serial, firmware."""

    model = "cavro-xcalibur"
    option_names: ClassVar[frozenset[str]] = frozenset(
        {"address", "syringe_ul", "ports", "valve", "serial", "firmware"}
    )

    def __init__(self, name: str, options: Mapping[str, Any], world: World, log: Log) -> None:
        super().__init__(name, options, world, log)
        self.address = 0x30 + whole(options, "address", 1, 1, 15)
        self.serial = serial_number(name, options)
        self.firmware = text(options, "firmware", "XCALIBUR-SIM 1.0")
        self.syringe_ul = number(options, "syringe_ul", 1000.0, 1.0, 25000.0)
        plumbing = Plumbing(options.get("ports", {}), world)
        self.valve = text(options, "valve", "3-port" if plumbing.highest <= 2 else _distribution(plumbing))
        self._initializations = 0
        self._valve_moves_reported = 0
        self.drive = Drive(self.syringe_ul, plumbing, world, self.action, _ports(self.valve, plumbing))
        self._deframer = frames.Deframer()
        self._splitter = frames.Deframer()
        self._forget()

    def _forget(self) -> None:
        self.settings = program.Settings()
        self.oem_only = False
        self._last_sequence: int | None = None
        self._buffer = ""
        self._last_executed = ""
        self._error = 0
        self._running: Program | None = None
        self._quiet = False

    # Bytes

    def split(self, data: bytes) -> list[bytes]:
        return [block.raw for block in self._splitter.feed(data) if self._is_mine(block)]

    def receive(self, data: bytes) -> bytes:
        return b"".join(self._answer(block) for block in self._deframer.feed(data) if self._is_mine(block))

    def _is_mine(self, block: frames.Block) -> bool:
        return block.address in (self.address, frames.BROADCAST)

    def _answer(self, block: frames.Block) -> bytes:
        if block.sequence is None:
            if self.oem_only:
                return b""
            status, data = self._obey(block.text)
            return b"" if block.address == frames.BROADCAST else frames.dt_answer(status, data)
        if not block.valid:
            return b""
        self.oem_only = True
        again = block.repeated and block.sequence == self._last_sequence
        self._last_sequence = block.sequence
        # A report moves nothing, so asking for it again gives it again.
        status, data = (
            (self._status(), "") if again and not _is_report(block.text) else self._obey(block.text)
        )
        return b"" if block.address == frames.BROADCAST else frames.oem_answer(status, data)

    def _status(self, error: int = 0) -> int:
        """Status byte 01X0eeee; an error that came up while a string ran is told by Q alone."""
        return 0x40 | (0 if self.busy else READY) | error

    @property
    def busy(self) -> bool:
        """What the status bit says: lower-case moves do not count (3.6.1)."""
        return (self._running is not None or self.drive.moving) and not self._quiet

    # Commands

    def _obey(self, command: str) -> tuple[int, str]:
        try:
            if _is_report(command):
                return self._report(command.removesuffix("R"))
            if command in ("T", "TR"):
                self._terminate()
            else:
                self._accept(command)
        except Refused as refused:
            return self._status(error=refused.code), ""
        return self._status(), ""

    def _accept(self, command: str) -> None:
        if len(command) > frames.LONGEST_STRING:
            raise Refused(OVERFLOW)
        execute = command.endswith("R")
        text_ = command.removesuffix("R")
        if text_ == "X":
            text_ = self._last_executed
        elif execute and not text_:
            text_ = self._buffer
        steps = program.parse(text_)
        if not steps:
            return
        if self._running is not None or self.drive.moving:
            self._change_speed(steps)
            return
        if not execute and command != "X":
            self._buffer = text_
            return
        self._buffer, self._last_executed = "", text_
        self._start(steps)

    def _change_speed(self, steps: list[Step]) -> None:
        """While something moves only V is taken, at once; everything else is error 15 and ignored."""
        if any(step.letter != "V" for step in steps):
            raise Refused(OVERFLOW)
        for step in steps:
            self.settings.apply(step)

    def _start(self, steps: list[Step]) -> None:
        moves = any(step.letter in program.MOVES for step in steps)
        if self.drive.overload and moves and not any(step.letter in program.INITIALIZE for step in steps):
            raise Refused(self.drive.overload)
        self._error = 0
        self._running = Program(steps)
        self._proceed()
        if self._error == NOT_INITIALIZED:
            self._error = 0
            raise Refused(NOT_INITIALIZED)

    def _terminate(self) -> None:
        """T stops plunger, delays and loops where they are; a valve on its way arrives."""
        self._running = None
        self._buffer = ""
        self.drive.stop()

    # The string that is being executed

    def _proceed(self) -> None:
        """Take steps of the string until one takes time or the string ends."""
        while self._running is not None and not self.drive.moving:
            if self.drive.fault:
                self._halt(self.drive.take_fault())
                return
            step = self._running.next()
            if step is None:
                self._running = None
                return
            try:
                self._carry_out(step)
            except Refused as refused:
                self._halt(refused.code)

    def _halt(self, code: int) -> None:
        self._running = None
        self._error = code

    def _carry_out(self, step: Step) -> None:
        letter, value = step.letter, step.value
        self._quiet = letter in "apd"
        if letter in program.SETTINGS:
            self.settings.apply(step)
        elif letter in program.INITIALIZE:
            self._initialize(step)
        elif letter in program.CONTROL:
            self._control(step)
        elif not self.drive.initialized:
            raise Refused(NOT_INITIALIZED)
        elif letter in program.VALVE:
            self.drive.turn_valve(self._port(letter, value))
        else:
            self.drive.move_plunger(self._target(letter.upper(), value))

    def _control(self, step: Step) -> None:
        value = step.value or 0
        if step.letter == "M":
            if value > 30000:
                raise Refused(INVALID_OPERAND)
            self.drive.pause((5 if step.value is None else value) / 1000.0)
        elif step.letter == "G" and self._running is not None:
            if value > 30000:
                raise Refused(INVALID_OPERAND)
            self._running.loop(value)
            # A loop of nothing but settings must still let time pass.
            self.drive.pause(0.001)

    def _initialize(self, step: Step) -> None:
        force, *ports = step.operands
        if force is not None and not (0 <= force <= 2 or 10 <= force <= 40):
            raise Refused(INVALID_OPERAND)
        output = ports[1] if len(ports) > 1 else None
        port = self.drive.output_port(step.letter, output)
        if port is None:
            raise Refused(INVALID_OPERAND)
        code = force if force is not None and force >= 10 else 11
        self.drive.initialize(port, program.speed_of_code(code) * program.MICROSTEPS / 2, step.letter != "W")
        self._initializations += 1

    def _target(self, letter: str, value: int | None) -> float:
        """Where a move ends, in microsteps; `Refused(3)` beyond the stroke."""
        if value is None:
            raise Refused(INVALID_OPERAND)
        unit = 1 if self.settings.mode else program.MICROSTEPS
        here = self.drive.position
        target = {"A": value * unit, "P": here + value * unit, "D": here - value * unit}[letter]
        full = program.FULL_STROKE * program.MICROSTEPS
        # Microsteps left over from a stop must not make a full stroke back to 0 impossible.
        if not -unit / 2 < target < full + unit / 2:
            raise Refused(INVALID_OPERAND)
        return min(max(target, 0.0), float(full))

    def _port(self, letter: str, value: int | None) -> int:
        port = self.drive.port_for(letter, value)
        if port is None:
            raise Refused(INVALID_OPERAND)
        return port

    # Reports

    def _report(self, query: str) -> tuple[int, str]:
        if query in ("Q", "?29"):
            error = self._error or self._standing_error()
            self._error = 0
            return self._status(error=error), ""
        answer = self._reports().get(query)
        if answer is None:
            raise Refused(INVALID_OPERAND)
        if query == "?18":
            self._valve_moves_reported = self.drive.valve_moves
        return self._status(), answer

    def _reports(self) -> dict[str, str]:
        unit = 1 if self.settings.mode else program.MICROSTEPS
        position = str(round(self.drive.position / unit))
        settings = self.settings
        buffered = "1" if self._buffer else "0"
        return {
            "?": position,
            "?1": str(settings.start_speed),
            "?2": str(settings.top_speed),
            "?3": str(settings.cutoff_speed),
            "?4": position,
            "?6": self.drive.port_name(),
            "?10": buffered,
            "F": buffered,
            "?12": str(settings.backlash),
            "?13": "1",
            "?14": "1",
            "?15": str(self._initializations),
            "?16": str(self.drive.plunger_moves),
            "?17": str(self.drive.valve_moves),
            "?18": str(self.drive.valve_moves - self._valve_moves_reported),
            "?20": "0000",
            "?23": self.firmware,
            "&": self.firmware,
            "?76": f"XCalibur {self.valve} {self.syringe_ul:g}ul",
            "?202": self.serial,
            "*": "240",
        }

    def _standing_error(self) -> int:
        if self.drive.initialized or self.busy:
            return 0
        return _INIT_ERROR if self.drive.overload else NOT_INITIALIZED

    # Time, faults, the world

    def tick(self, dt: float) -> None:
        while self.drive.moving and dt > 0:
            dt = self.drive.advance(dt, self.settings.microsteps_per_s)
            if self.drive.fault and self._running is None:
                self._error = self.drive.take_fault()
            self._proceed()

    def due(self) -> float | None:
        return self.drive.due(self.settings.microsteps_per_s)

    def reboot(self) -> None:
        self.drive.power_cycle()
        self._forget()
        self._deframer, self._splitter = frames.Deframer(), frames.Deframer()

    def stick(self, movements: int | None) -> None:
        self.drive.stick(movements)
        if self.drive.fault:
            self._halt(self.drive.take_fault())

    def fail(self, code: int) -> None:
        if not 1 <= code <= 15:
            raise BenchError(f"{self.name}: a Cavro pump has error codes 1 to 15, not {code}.")
        self._terminate()
        self.drive.fail(code)
        self._error = code

    def state(self) -> dict[str, Any]:
        return {
            "increments": round(self.drive.position / program.MICROSTEPS, 3),
            "port": self.drive.port,
            "initialized": self.drive.initialized,
            "busy": self.busy,
            "liquid_ul": {name: round(amount, 4) for name, amount in self.drive.barrel.liquid.items()},
            "air_ul": round(self.drive.barrel.air_ul, 4),
        }


def _is_report(command: str) -> bool:
    command = command.removesuffix("R")
    return command[:1] == "?" or command in ("Q", "F", "&", "*")


def _distribution(plumbing: Plumbing) -> str:
    size = next(size for size in (3, 4, 6, 9, 12) if size >= plumbing.highest)
    return f"{size}-port-distribution"


def _ports(valve: str, plumbing: Plumbing) -> tuple[int, bool]:
    """Number of ports, and whether the valve is a distribution valve."""
    sizes = {"3-port": (2, False), "4-port": (3, False)}
    sizes |= {f"{size}-port-distribution": (size, True) for size in (3, 4, 5, 6, 8, 9, 12)}
    if valve not in sizes:
        raise BenchError(f"valve {valve!r} is not known; there are {', '.join(sizes)}.")
    if plumbing.highest > sizes[valve][0]:
        raise BenchError(f"ports: a {valve} valve has no port {plumbing.highest}.")
    return sizes[valve]
