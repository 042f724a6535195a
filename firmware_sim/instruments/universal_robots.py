"""Universal Robots controller: Modbus server and dashboard server, with a mover program loaded.

Sources: UR article 16377 "Modbus server" (register list; tenths of mm and mrad, general purpose 128-255),
UR article 15690 "Dashboard server, port 29999" (commands and answers), and `drivers/arms/HANDSHAKE.md` for
the program.

The joint angles are those of a UR10e (612.7 and 571.6 mm arms on a 180.7 mm shoulder) with the tool
pointing down: good enough to see them move. Nothing here checks for collisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from firmware_sim.api import BenchError, IllegalAddress, Log, RegisterSimulator, Service
from firmware_sim.geometry import Pose
from firmware_sim.instruments.universal_robots_mover import Arm, Mover
from firmware_sim.options import number, serial_number, text
from firmware_sim.world import World

POWER_OFF, POWER_ON, IDLE, RUNNING = 3, 4, 5, 7
MODE_NAMES = {POWER_OFF: "POWER_OFF", POWER_ON: "POWER_ON", IDLE: "IDLE", RUNNING: "RUNNING"}
NORMAL, PROTECTIVE_STOP, ROBOT_EMERGENCY_STOP = "NORMAL", "PROTECTIVE_STOP", "ROBOT_EMERGENCY_STOP"
SAFETY_CODES = {1: NORMAL, 3: PROTECTIVE_STOP, 7: ROBOT_EMERGENCY_STOP}
STOPPED, PLAYING, PAUSED = "STOPPED", "PLAYING", "PAUSED"

GENERAL_PURPOSE = range(128, 256)
INPUTS_AND_OUTPUTS = range(34)
DIGITAL_OUTPUTS = 1
STATE, JOINTS, TOOL = range(256, 266), range(270, 276), range(400, 406)
OUTPUT_BITS = range(16, 32)

POWERING_S = 1.0
RELEASING_S = 1.0
UNLOCK_S = 5.0
UPPER_ARM_MM, FOREARM_MM, SHOULDER_MM = 612.7, 571.6, 180.7
HOME = (-400.0, -200.0, 400.0)
GREETING = b"Connected: Universal Robots Dashboard Server\n"
POLYSCOPE = "URSoftware 5.11.6.1010327 (Nov 08 2021)"
LONGEST_LINE = 1024


class UniversalRobots(RegisterSimulator):
    """An arm that moves labware from nest to nest.

    Options: `dashboard` (`host:port`, default 127.0.0.1:29999; port 0 for any), `running` (default true:
    powered, brakes released, program playing when the bench starts), `reach_mm` (default 1300), `home` ([x,
    y, z] of the tool in mm), `program` (default labedge_mover.urp), `serial`. Faults: `stuck` is a
    protective stop as soon as the arm moves; `error` takes the number of a safety status: 3 protective
    stop, 7 emergency stop, 1 normal (the emergency stop button is released; the arm stays powered off).
    """

    model: ClassVar[str] = "universal-robots"
    transport: ClassVar[str] = "modbus-tcp"
    option_names: ClassVar[frozenset[str] | None] = frozenset(
        {"dashboard", "running", "reach_mm", "home", "program", "serial"}
    )

    def __init__(self, name: str, options: Mapping[str, Any], world: World, log: Log) -> None:
        super().__init__(name, options, world, log)
        self.serial = serial_number(name, options)
        self.program = text(options, "program", "labedge_mover.urp")
        self._address = text(options, "dashboard", "127.0.0.1:29999")
        self.mode, self.safety, self.program_state = POWER_OFF, NORMAL, STOPPED
        self._registers = [0] * 512
        self._arm = Arm(_home(options))
        reach_mm = number(options, "reach_mm", 1300.0, 1.0, 3276.7)
        self._mover = Mover(self._registers, self._arm, world, reach_mm, self.action, self._begin)
        self._stuck: int | None = 0
        self._until_mode_s: float | None = None
        self._wanted_mode = POWER_OFF
        self._stopped_for_s = 0.0
        running = options.get("running", True)
        if not isinstance(running, bool):
            raise BenchError(f"running is {running!r} and must be true or false.")
        if running:
            self.mode = self._wanted_mode = RUNNING
            self._play()

    # Modbus.

    def read(self, function: int, address: int, count: int) -> list[int]:
        wanted = range(address, address + count)
        one = self._bit if function in (1, 2) else self._register
        return [one(at) for at in wanted]

    def write(self, function: int, address: int, values: list[int]) -> None:
        wanted = range(address, address + len(values))
        if function in (5, 15):
            self._write_bits(wanted, values)
            return
        if not all(at in GENERAL_PURPOSE or at == DIGITAL_OUTPUTS for at in wanted):
            raise IllegalAddress
        self._registers[wanted.start : wanted.stop] = values
        if self.program_state == PLAYING:
            self._mover.notice()

    def _write_bits(self, wanted: range, values: list[int]) -> None:
        if not all(at in OUTPUT_BITS for at in wanted):
            raise IllegalAddress
        for at, value in zip(wanted, values, strict=True):
            mask = 1 << (at - OUTPUT_BITS.start)
            outputs = self._registers[DIGITAL_OUTPUTS]
            self._registers[DIGITAL_OUTPUTS] = outputs | mask if value else outputs & ~mask

    def _register(self, address: int) -> int:
        if address in GENERAL_PURPOSE or address in INPUTS_AND_OUTPUTS:
            return self._registers[address]
        if address in STATE:
            return self._state_registers().get(address, 0)
        if address in JOINTS:
            return round(self._joints()[address - JOINTS.start] * 1000) & 0xFFFF
        if address in TOOL:
            tcp = self._arm.tcp
            half = tcp.rz_rad / 2
            # The rotation vector of a tool that points down and is turned about the base's z axis.
            turn = (math.pi * math.cos(half), math.pi * math.sin(half), 0.0)
            values = [length * 10 for length in tcp[:3]] + [angle * 1000 for angle in turn]
            return round(values[address - TOOL.start]) & 0xFFFF
        raise IllegalAddress

    def _bit(self, address: int) -> int:
        if address in OUTPUT_BITS:
            return self._registers[DIGITAL_OUTPUTS] >> (address - OUTPUT_BITS.start) & 1
        if address in range(64):
            return 0
        if address in range(260, STATE.stop):
            return self._state_registers().get(address, 0)
        raise IllegalAddress

    def _state_registers(self) -> dict[int, int]:
        return {
            256: 5,
            257: 11,
            258: self.mode,
            260: int(self.mode != POWER_OFF),
            261: int(self.safety == PROTECTIVE_STOP),
            262: int(self.safety == ROBOT_EMERGENCY_STOP),
            265: int(self.safety != NORMAL),
        }

    def _joints(self) -> list[float]:
        """Base, shoulder, elbow, wrists 1 to 3 in rad, for the tool pointing straight down."""
        tcp = self._arm.tcp
        out, up = math.hypot(tcp.x_mm, tcp.y_mm), tcp.z_mm - SHOULDER_MM
        span = min(max(math.hypot(out, up), 1.0), UPPER_ARM_MM + FOREARM_MM)
        cosine = (span**2 - UPPER_ARM_MM**2 - FOREARM_MM**2) / (2 * UPPER_ARM_MM * FOREARM_MM)
        elbow = math.acos(min(max(cosine, -1.0), 1.0))
        lift = math.atan2(FOREARM_MM * math.sin(elbow), UPPER_ARM_MM + FOREARM_MM * math.cos(elbow))
        shoulder = -(math.atan2(up, out) + lift)
        base = math.atan2(tcp.y_mm, tcp.x_mm)
        return [base, shoulder, elbow, -math.pi / 2 - shoulder - elbow, -math.pi / 2, base - tcp.rz_rad]

    # Time.

    def tick(self, dt: float) -> None:
        left = dt
        while True:
            due = self.due()
            step = left if due is None else min(left, due)
            self._advance(step)
            left -= step
            if left <= 1e-12:
                return

    def due(self) -> float | None:
        waits = [] if self._until_mode_s is None else [self._until_mode_s]
        if self.program_state == PLAYING:
            program = self._mover.due(self.world.speed)
            waits += [] if program is None else [program]
        return min(waits, default=None)

    def _advance(self, physical_s: float) -> None:
        real_s = physical_s / self.world.speed
        self._stopped_for_s += real_s
        if self._until_mode_s is not None:
            self._until_mode_s -= physical_s
            if self._until_mode_s <= 1e-9:
                self._next_mode()
        if self.program_state == PLAYING:
            self._mover.advance(physical_s, real_s)

    def _next_mode(self) -> None:
        self._until_mode_s = None
        if self.mode == IDLE:
            self.mode = RUNNING
            return
        self.mode = IDLE
        if self._wanted_mode == RUNNING:
            self._until_mode_s = RELEASING_S

    # Power, safety, program: what the dashboard asks for. True if it could be done.

    def power(self, wanted: int) -> bool:
        """Towards `IDLE` or `RUNNING` in its own time, or `POWER_OFF` at once."""
        if wanted == POWER_OFF:
            self._end_program()
            self.mode, self._wanted_mode, self._until_mode_s = POWER_OFF, POWER_OFF, None
            return True
        if self.safety == ROBOT_EMERGENCY_STOP:
            return False
        self._wanted_mode = max(wanted, self.mode)
        if self.mode == POWER_OFF:
            self.mode, self._until_mode_s = POWER_ON, POWERING_S
        elif self.mode == IDLE and wanted == RUNNING and self._until_mode_s is None:
            self._until_mode_s = RELEASING_S
        return True

    def play(self) -> bool:
        if self.mode != RUNNING or self.safety != NORMAL or self.program_state == PLAYING:
            return False
        self._play()
        return True

    def stop(self) -> bool:
        return self._end_program()

    def pause(self) -> bool:
        if self.program_state != PLAYING:
            return False
        self.program_state = PAUSED
        return True

    def load(self, program: str) -> bool:
        """Only the mover is there to be loaded; loading ends what is playing."""
        if program.removeprefix("/programs/") != self.program:
            return False
        self._end_program()
        return True

    def unlock(self) -> bool:
        """Not within 5 s of a protective stop; the program then stays paused until it is played."""
        if self.safety != PROTECTIVE_STOP:
            return True
        if self._stopped_for_s < UNLOCK_S - 1e-9:
            return False
        self.safety = NORMAL
        return True

    def _play(self) -> None:
        fresh = self.program_state == STOPPED
        self.program_state = PLAYING
        if fresh:
            self._mover.start()
        elif self._mover.moving:
            self._begin()

    def _end_program(self) -> bool:
        if self.program_state == STOPPED:
            return False
        self.program_state = STOPPED
        self._mover.stop()
        return True

    def _begin(self) -> None:
        if self._stuck is None or self._stuck > 0:
            self._stuck = None if self._stuck is None else self._stuck - 1
            self._protect()

    def _protect(self) -> None:
        self.safety, self._stopped_for_s = PROTECTIVE_STOP, 0.0
        self.pause()

    # Faults.

    def stick(self, movements: int | None) -> None:
        self._stuck = movements
        if self._mover.moving and self.program_state == PLAYING:
            self._begin()

    def fail(self, code: int) -> None:
        safety = SAFETY_CODES.get(code)
        if safety is None:
            known = ", ".join(f"{number} {name}" for number, name in SAFETY_CODES.items())
            raise BenchError(f"{self.name} has no safety status {code}; there are {known}.")
        if safety == PROTECTIVE_STOP:
            self._protect()
            return
        self.safety = safety
        if safety == ROBOT_EMERGENCY_STOP:
            self.power(POWER_OFF)

    def reboot(self) -> None:
        """Powered off, program stopped, registers forgotten; the gripper keeps its grip."""
        self.power(POWER_OFF)
        self.safety = NORMAL
        self._registers[:] = [0] * len(self._registers)

    # Seen from outside.

    def services(self) -> Mapping[str, Service]:
        return {"dashboard": Service(self._address, lambda: DashboardConnection(self), GREETING)}

    def state(self) -> dict[str, Any]:
        tcp = self._arm.tcp
        return {
            "mode": MODE_NAMES[self.mode],
            "safety": self.safety,
            "program": self.program_state,
            "moving": self._mover.moving and self.program_state == PLAYING,
            "holding": self._arm.holding,
            "tcp": {"x_mm": tcp.x_mm, "y_mm": tcp.y_mm, "z_mm": tcp.z_mm, "rz_rad": tcp.rz_rad},
        }


class DashboardConnection:
    """One client of the dashboard server: a line in, a line out, in order."""

    def __init__(self, arm: UniversalRobots) -> None:
        self.closed = False
        self._arm = arm
        self._buffer = b""
        self._fixed: dict[str, Callable[[], str]] = {
            "robotmode": lambda: f"Robotmode: {MODE_NAMES[arm.mode]}",
            "safetystatus": lambda: f"Safetystatus: {arm.safety}",
            "safetymode": lambda: f"Safetymode: {arm.safety}",
            "running": lambda: f"Program running: {str(arm.program_state == PLAYING).lower()}",
            "programState": lambda: f"{arm.program_state} {arm.program}",
            "get loaded program": lambda: f"Loaded program: {arm.program}",
            "is in remote control": lambda: "true",
            "get serial number": lambda: arm.serial,
            "get robot model": lambda: "UR10",
            "PolyscopeVersion": lambda: POLYSCOPE,
            "power on": lambda: self._done(arm.power(IDLE), "Powering on", "power on"),
            "power off": lambda: self._done(arm.power(POWER_OFF), "Powering off", "power off"),
            "brake release": lambda: self._done(arm.power(RUNNING), "Brake releasing", "brake release"),
            "play": lambda: self._done(arm.play(), "Starting program", "play"),
            "stop": lambda: self._done(arm.stop(), "Stopped", "stop"),
            "pause": lambda: self._done(arm.pause(), "Pausing program", "pause"),
            "unlock protective stop": self._unlock,
            "close safety popup": lambda: "closing safety popup",
            "close popup": lambda: "closing popup",
            "quit": self._quit,
        }

    def receive(self, data: bytes) -> bytes:
        """Take bytes in any pieces; the answers to the lines now complete."""
        self._buffer += data
        answers = ""
        while b"\n" in self._buffer and not self.closed:
            line, _, self._buffer = self._buffer.partition(b"\n")
            answers += self._answer(line.decode("utf-8", "replace").strip()) + "\n"
        self._buffer = self._buffer[-LONGEST_LINE:]
        return answers.encode()

    def _answer(self, line: str) -> str:
        if line in self._fixed:
            return self._fixed[line]()
        command, _, rest = line.partition(" ")
        if command == "load" and rest:
            return f"Loading program: {rest}" if self._arm.load(rest.strip()) else f"File not found: {rest}"
        return f'could not understand: "{line}"'

    def _unlock(self) -> str:
        if self._arm.unlock():
            return "Protective stop releasing"
        return (
            "Cannot unlock protective stop until 5s after occurrence. "
            "Always inspect cause of protective stop before unlocking"
        )

    def _quit(self) -> str:
        self.closed = True
        return "Disconnected"

    @staticmethod
    def _done(done: bool, answer: str, command: str) -> str:
        return answer if done else f"Failed to execute: {command}"


def _home(options: Mapping[str, Any]) -> Pose:
    point = options.get("home", HOME)
    if not isinstance(point, list | tuple) or len(point) != 3:
        raise BenchError(f"home is {point!r} and must be [x, y, z] of the tool in mm.")
    x, y, z = (float(value) for value in point)
    return Pose(x, y, z, 0.0)
