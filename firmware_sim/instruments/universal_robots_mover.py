"""The robot program behind the register handshake of `drivers/arms/HANDSHAKE.md`, version 1, as a state
machine.

It runs on the controller of `universal_robots.py` and shares its general-purpose registers. Distances in mm,
`physical` seconds for what moves, `real` seconds for what the handshake times (heartbeats, the watchdog).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from firmware_sim.geometry import Pose
from firmware_sim.world import World

REQUEST, JOB, JOB_ID, PICK, PLACE = 128, 129, 130, 132, 136
APPROACH, SPEED, EDGE_HEARTBEAT, ON_LOST = 140, 141, 142, 143
VERSION, ROBOT_HEARTBEAT, ACCEPTED, BUSY, DONE, ERROR = 160, 161, 162, 163, 164, 165
ACCEPTED_ID, DONE_ID, HOLDING, HOMED = 166, 168, 170, 171

JOB_MOVE, JOB_HOME = 1, 2
UNKNOWN_JOB, OUT_OF_REACH, NOTHING_GRIPPED, OCCUPIED, EDGE_LOST, ALREADY_HOLDING = 1, 2, 3, 4, 5, 6
ON_LOST_STOP = 1

CYCLE_S = 0.008
HEARTBEAT_HZ = 10
EDGE_LOST_S = 3.0
GRIPPER_S = 0.5
_NEVER = math.inf


@dataclass(slots=True)
class Arm:
    """What stays when programs come and go: where the tool is, and what the gripper holds."""

    tcp: Pose
    holding: str | None = None


class Leg(NamedTuple):
    """One piece of a job: travel to `target`, or `grip` / `release` there."""

    what: str
    target: Pose


class Mover:
    """Takes each job once, moves up, over and down, and answers in registers 160-171.

    `registers` is indexed by register number. `begin` is asked when the arm is about to move.
    """

    def __init__(
        self,
        registers: list[int],
        arm: Arm,
        world: World,
        reach_mm: float,
        action: Callable[..., None],
        begin: Callable[[], None],
    ) -> None:
        self._registers = registers
        self._arm = arm
        self._world = world
        self._reach_mm = reach_mm
        self._home = arm.tcp
        self._action = action
        self._begin = begin
        self._legs: deque[Leg] = deque()
        self._spent_s = 0.0
        self._failure = 0
        self._job = 0
        self._approach_mm = 0.0
        self._speed_mm_s = 1
        self._start_of_job = arm.tcp
        self._until_cycle_s = _NEVER
        self._seen_unasked = False
        self._heartbeat_s = 0.0
        self._edge_silent_s = 0.0
        self._edge_heard = 0

    # What the controller does with it.

    def start(self) -> None:
        """The program has been loaded and played: nothing accepted, nothing done, and known only by its
        version. A request that stands already is of the past."""
        self._clear()
        self._seen_unasked = self._registers[REQUEST] != 1
        self._registers[VERSION] = 1
        self._registers[HOLDING] = int(self._arm.holding is not None)
        self._until_cycle_s = CYCLE_S

    def stop(self) -> None:
        """The program ends and with it the motion; the gripper keeps its grip."""
        if self._legs:
            self._log_move("stopped")
        self._clear()

    def notice(self) -> None:
        """The edge has written a register; the program sees it in its next cycle."""
        self._until_cycle_s = min(self._until_cycle_s, CYCLE_S)

    @property
    def moving(self) -> bool:
        return bool(self._legs)

    def due(self, speed: float) -> float | None:
        """Physical seconds until the program does something by itself."""
        waits = [self._until_cycle_s * speed]
        if self._legs:
            waits.append(self._duration(self._legs[0]) - self._spent_s)
            if self._registers[ON_LOST] == ON_LOST_STOP:
                waits.append((EDGE_LOST_S - self._edge_silent_s) * speed)
        soonest = min(waits)
        return None if soonest == _NEVER else max(soonest, 0.0)

    def advance(self, physical_s: float, real_s: float) -> None:
        """Let time pass, not beyond what `due` said."""
        self._heartbeat_s += real_s
        self._registers[ROBOT_HEARTBEAT] = int(self._heartbeat_s * HEARTBEAT_HZ + 1e-9) % 0x10000
        self._edge_silent_s += real_s
        self._until_cycle_s -= real_s
        if self._legs:
            self._follow(physical_s)
        if self._until_cycle_s <= 1e-9:
            self._until_cycle_s = _NEVER
            self._cycle()
        lost = self._edge_silent_s >= EDGE_LOST_S - 1e-9
        if self._legs and lost and self._registers[ON_LOST] == ON_LOST_STOP:
            self._finish(EDGE_LOST)

    # The handshake.

    def _cycle(self) -> None:
        registers = self._registers
        if registers[EDGE_HEARTBEAT] != self._edge_heard:
            self._edge_heard = registers[EDGE_HEARTBEAT]
            self._edge_silent_s = 0.0
        if registers[REQUEST] != 1:
            registers[ACCEPTED] = 0
            self._seen_unasked = True
            return
        wanted = registers[JOB_ID : JOB_ID + 2]
        if registers[ACCEPTED] or wanted == [0, 0] or not self._seen_unasked:
            return
        if wanted == registers[ACCEPTED_ID : ACCEPTED_ID + 2]:
            registers[ACCEPTED] = 1
        elif not registers[BUSY]:
            self._take()

    def _take(self) -> None:
        registers = self._registers
        registers[ACCEPTED_ID : ACCEPTED_ID + 2] = registers[JOB_ID : JOB_ID + 2]
        registers[DONE] = registers[ERROR] = 0
        registers[BUSY] = registers[ACCEPTED] = 1
        self._edge_silent_s = 0.0
        self._failure, self._spent_s, self._start_of_job = 0, 0.0, self._arm.tcp
        # The edge may write the next job while this one runs, so its arguments are kept.
        self._job, self._speed_mm_s = registers[JOB], max(1, registers[SPEED])
        self._approach_mm = registers[APPROACH] / 10.0
        refusal = self._plan()
        if refusal:
            self._finish(refusal)
        else:
            self._begin()

    def _plan(self) -> int:
        """Lay out the legs of the job in the registers; the error code if there is no way."""
        if self._job == JOB_HOME:
            self._legs.extend(_arc(self._arm.tcp, self._home, self._home.z_mm))
            return 0
        if self._job != JOB_MOVE:
            return UNKNOWN_JOB
        if self._arm.holding is not None:
            return ALREADY_HOLDING
        pick, place, approach = self._pose(PICK), self._pose(PLACE), self._approach_mm
        above = [pose._replace(z_mm=pose.z_mm + approach) for pose in (pick, place)]
        if any(math.hypot(*pose[:3]) > self._reach_mm for pose in (pick, place, *above)):
            return OUT_OF_REACH
        travel_mm = max(pick.z_mm, place.z_mm) + approach
        self._legs.extend(_arc(self._arm.tcp, pick, pick.z_mm + approach))
        self._legs.append(Leg("grip", pick))
        self._legs.extend(_arc(pick, place, travel_mm))
        self._legs.append(Leg("release", place))
        self._legs.append(Leg("travel", above[1]))
        return 0

    def _finish(self, error: int) -> None:
        registers = self._registers
        if self._arm.tcp != self._start_of_job:
            self._log_move("failed" if error else "finished")
        self._legs.clear()
        if self._job == JOB_HOME and not error:
            registers[HOMED] = 1
        registers[ERROR] = error
        registers[DONE_ID : DONE_ID + 2] = registers[ACCEPTED_ID : ACCEPTED_ID + 2]
        registers[DONE] = int(not error)
        registers[BUSY] = 0
        # A request that came while the arm was busy is looked at now.
        self.notice()

    # The motion.

    def _follow(self, physical_s: float) -> None:
        self._spent_s += physical_s
        while self._legs:
            leg = self._legs[0]
            duration = self._duration(leg)
            if self._spent_s < duration - 1e-9:
                if leg.what == "travel":
                    self._creep(leg.target, duration)
                return
            self._spent_s = max(0.0, self._spent_s - duration)
            self._arm.tcp = leg.target
            self._legs.popleft()
            self._act(leg)
        self._finish(self._failure)

    def _creep(self, target: Pose, duration: float) -> None:
        """Along the leg as far as the time spent on it goes; the time starts anew at the point reached."""
        share = self._spent_s / duration
        self._arm.tcp = Pose(*(a + (b - a) * share for a, b in zip(self._arm.tcp, target, strict=True)))
        self._spent_s = 0.0

    def _duration(self, leg: Leg) -> float:
        if leg.what != "travel":
            return GRIPPER_S
        return self._arm.tcp.distance(leg.target) / self._speed_mm_s

    def _act(self, leg: Leg) -> None:
        if leg.what == "grip":
            self._grip(leg.target)
        elif leg.what == "release":
            self._release(leg.target)

    def _grip(self, pose: Pose) -> None:
        stood = {name: self._world.where(name) for name in self._world.labware}
        name = self._world.pick(pose)
        if name is None:
            self._give_up(NOTHING_GRIPPED, pose)
            return
        self._arm.holding = name
        self._registers[HOLDING] = 1
        self._action("pick", labware=name, position=stood[name], pose=_rounded(pose))

    def _release(self, pose: Pose) -> None:
        name = self._arm.holding
        if name is None:
            return
        if not self._world.place(name, pose):
            self._give_up(OCCUPIED, pose)
            return
        self._arm.holding = None
        self._registers[HOLDING] = 0
        position = self._world.where(name)
        well = self._world.under(position) if position is not None else None
        self._action(
            "place",
            labware=name,
            position=position,
            well=well.partition("/")[2] if well else None,
            pose=_rounded(pose),
        )

    def _give_up(self, error: int, pose: Pose) -> None:
        """Go straight up from here and end the job there."""
        self._failure = error
        self._legs.clear()
        self._legs.append(Leg("travel", pose._replace(z_mm=pose.z_mm + self._approach_mm)))

    # Small things.

    def _clear(self) -> None:
        self._registers[VERSION : HOMED + 1] = [0] * (HOMED + 1 - VERSION)
        self._legs.clear()
        self._until_cycle_s = _NEVER
        self._heartbeat_s = 0.0

    def _pose(self, first: int) -> Pose:
        x, y, z, rz = (signed(value) for value in self._registers[first : first + 4])
        return Pose(x / 10.0, y / 10.0, z / 10.0, rz / 1000.0)

    def _log_move(self, outcome: str) -> None:
        self._action(
            "move",
            outcome=outcome,
            labware=self._arm.holding,
            start=_rounded(self._start_of_job),
            pose=_rounded(self._arm.tcp),
        )


def signed(register: int) -> int:
    """Two's complement of 16 bits."""
    return register - 0x10000 if register & 0x8000 else register


def _arc(start: Pose, end: Pose, over_mm: float) -> list[Leg]:
    """Straight up, over at the greater of the two heights, straight down."""
    height = max(start.z_mm, over_mm)
    return [
        Leg("travel", start._replace(z_mm=height)),
        Leg("travel", end._replace(z_mm=height)),
        Leg("travel", end),
    ]


def _rounded(pose: Pose) -> list[Any]:
    return [round(value, 3) for value in pose]
