"""Motors of the Cavro XCalibur: plunger and valve in motion, with the liquid that moves along.

Positions are microsteps, 0 (plunger at the valve) to 24000 (3000 increments, full stroke). Speeds follow from
the pulses a second of the set commands; a turn of the valve is taken as 0.25 s, homing at the end of an
initialisation as 1.5 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from firmware_sim.instruments.cavro_program import FULL_STROKE, MICROSTEPS, Refused
from firmware_sim.instruments.cavro_syringe import BYPASS, Barrel, Plumbing, Tally
from firmware_sim.world import World

NOT_INITIALIZED, PLUNGER_OVERLOAD, VALVE_OVERLOAD, BYPASS_MOVE, OVERFLOW = 7, 9, 10, 11, 15
VALVE_S = 0.25
HOMING_S = 1.5
_FULL = float(FULL_STROKE * MICROSTEPS)
_NEAR = 1e-6


@dataclass(slots=True)
class _Motion:
    """One movement. `speed` is microsteps a second; None: whatever is set at the moment."""

    kind: str
    target: float = 0.0
    remaining_s: float = 0.0
    speed: float | None = None
    begun: float | None = None
    what: str | None = None
    tally: Tally = field(default_factory=dict)


class Drive:
    """Carries out one motion after the other; `fault` is set when one of them fails."""

    def __init__(
        self,
        syringe_ul: float,
        plumbing: Plumbing,
        world: World,
        action: Callable[..., None],
        ports: tuple[int, bool],
    ) -> None:
        self._ul_per_step = syringe_ul / _FULL
        self._action = action
        self._count, self._distribution = ports
        self._plumbing = plumbing
        self.barrel = Barrel(plumbing, world)
        self.port = 1
        self.plunger_moves = 0
        self.valve_moves = 0
        self._plunger = 0.0
        self._zero = 0.0
        self._stuck: int | None = 0
        self._motions: deque[_Motion] = deque()
        self._valve_off = False
        self.initialized = False
        self.overload = 0
        self.fault = 0

    @property
    def position(self) -> float:
        """Where the pump believes the plunger to be."""
        return self._plunger - self._zero

    @property
    def moving(self) -> bool:
        return bool(self._motions)

    # Orders

    def move_plunger(self, target: float) -> None:
        if self.port == BYPASS:
            raise Refused(BYPASS_MOVE)
        if abs(target - self.position) > _NEAR:
            self._begin(_Motion("plunger", target + self._zero))

    def turn_valve(self, port: int) -> None:
        if port != self.port and not self._valve_off:
            self._begin(_Motion("valve", port, VALVE_S))

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            self._begin(_Motion("pause", remaining_s=seconds))

    def initialize(self, output: int, speed: float, with_valve: bool) -> None:
        """Valve to the output, plunger to 0 through it, home. A failure leaves the pump not initialised."""
        self.initialized, self.overload = False, 0
        self._valve_off = not with_valve
        if with_valve and output != self.port:
            self._begin(_Motion("valve", output, VALVE_S))
        if not self.fault:
            self._begin(_Motion("home", 0.0, HOMING_S, speed, what="initialize"))

    def stop(self) -> None:
        """The plunger stops where it is; a valve on its way arrives."""
        if self._motions and self._motions[0].kind == "valve":
            first = self._motions.popleft()
            self._motions.clear()
            self._motions.append(first)
            return
        if self._motions:
            self._report(self._motions[0], stopped=True)
        self._motions.clear()

    def power_cycle(self) -> None:
        """Plunger and valve stay where they are, and the pump no longer knows where that is."""
        if self._motions:
            self._report(self._motions[0], stopped=True)
        self._motions.clear()
        self._zero = self._plunger
        self._valve_off = False
        self.initialized = False
        self.overload = self.fault = 0

    def stick(self, movements: int | None) -> None:
        """The next movements fail with an overload; one under way fails where it is."""
        self._stuck = movements
        if movements != 0 and self._motions and self._motions[0].kind != "pause":
            self._fail(self._motions[0])

    def fail(self, code: int) -> None:
        """Take a device error as if it had happened."""
        if code in (PLUNGER_OVERLOAD, VALVE_OVERLOAD):
            self.overload = code
        if code in (1, NOT_INITIALIZED, PLUNGER_OVERLOAD, VALVE_OVERLOAD):
            self.initialized = False

    def take_fault(self) -> int:
        code, self.fault = self.fault, 0
        return code

    # Valve ports

    def port_for(self, letter: str, number: int | None) -> int | None:
        """The port that I, O, E or B with this operand means; None: there is no such port."""
        if letter == "B":
            return BYPASS
        if self._distribution:
            return number if number is not None and letter != "E" and 1 <= number <= self._count else None
        port = {"I": 1, "O": 2, "E": 3}[letter]
        return port if port <= self._count and number in (None, port) else None

    def output_port(self, letter: str, number: int | None) -> int | None:
        """The port that an initialisation empties the syringe through; None: there is no such port.

        Not given or 0: output of a three- or four-port valve; on a distribution valve the last port for Z and
        the first for Y.
        """
        if letter == "W":
            return self.port
        if not self._distribution:
            return 2
        if not number:
            return self._count if letter == "Z" else 1
        return number if number <= self._count else None

    def port_name(self) -> str:
        """As report ?6 gives it: a letter, or the number on a distribution valve."""
        if self.port == BYPASS:
            return "b"
        return str(self.port) if self._distribution else "ioe"[self.port - 1]

    # Time

    def due(self, speed: float) -> float | None:
        """Seconds to the end of the motion under way."""
        if not self._motions:
            return None
        motion = self._motions[0]
        return motion.remaining_s + self._distance(motion) / (motion.speed or speed)

    def advance(self, dt: float, speed: float) -> float:
        """Let up to `dt` seconds pass in the motion under way; return what is left once it has ended."""
        motion = self._motions[0]
        left = dt
        if motion.kind in ("plunger", "home"):
            left = self._slide(motion, dt, motion.speed or speed)
        waited = min(left, motion.remaining_s)
        if self._distance(motion) <= 0:
            motion.remaining_s -= waited
            left -= waited
            if motion.remaining_s <= _NEAR:
                self._motions.popleft()
                self._arrive(motion)
        return left

    def _distance(self, motion: _Motion) -> float:
        return abs(motion.target - self._plunger) if motion.kind in ("plunger", "home") else 0.0

    def _slide(self, motion: _Motion, dt: float, speed: float) -> float:
        distance = self._distance(motion)
        step = min(distance, speed * dt)
        if step <= 0:
            return dt
        down = motion.target > self._plunger
        flow = self.barrel.pull if down else self.barrel.push
        flow(self.port, step * self._ul_per_step, motion.tally)
        if distance - step <= _NEAR:
            self._plunger = motion.target
        else:
            self._plunger += step if down else -step
        return dt - step / speed

    def _begin(self, motion: _Motion) -> None:
        if motion.kind != "pause":
            if self._stuck is None or self._stuck > 0:
                self._fail(motion)
                return
            motion.begun = self._plunger
        self._motions.append(motion)

    def _fail(self, motion: _Motion) -> None:
        if self._stuck:
            self._stuck -= 1
        if self._motions:
            self._report(motion, stopped=True)
        self._motions.clear()
        self.initialized = False
        self.overload = VALVE_OVERLOAD if motion.kind == "valve" else PLUNGER_OVERLOAD
        self.fault = 1 if motion.kind == "home" else self.overload

    def _arrive(self, motion: _Motion) -> None:
        if motion.kind == "valve":
            self.port = int(motion.target)
            self.valve_moves += 1
            self._action("valve", port=self.port)
        elif motion.kind != "pause":
            if motion.kind == "home":
                self._zero = self._plunger
                self.initialized = True
            self._report(motion, stopped=False)

    def _report(self, motion: _Motion, stopped: bool) -> None:
        """One line for each place that liquid came from or went to; at least one for a plunger that moved."""
        if motion.begun is None or motion.kind not in ("plunger", "home"):
            return
        moved = self._plunger - motion.begun
        if not moved and motion.kind == "plunger":
            return
        self.plunger_moves += 1
        details = {"increments": round(moved / MICROSTEPS, 3), "port": self.port}
        air = motion.tally.pop("air", 0.0)
        if air > _NEAR:
            details["air_ul"] = round(air, 4)
        if stopped:
            details["stopped"] = True
        what = motion.what or ("aspirate" if moved > 0 else "dispense")
        places = motion.tally or {"air" if air > _NEAR else self._plumbing.place(self.port) or "air": 0.0}
        for place, amount in places.items():
            self._action(what, amount_ul=round(amount, 4), place=place, **details)
