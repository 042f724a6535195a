"""The register handshake as values: a job in, an answer out, and what became of a job. Pure.

Written from ../HANDSHAKE.md (version 1), whose register numbers and tables it carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from drivers.api import Pose
from drivers.errors import Refused
from protocols.errors import BadRequest
from protocols.registers import WordOrder, decode_uint32, encode_uint32, unsigned16

VERSION = 1
REQUEST = 128
JOB = 129
JOB_ID = 130
EDGE_HEARTBEAT = 142
ANSWER = 160
ANSWER_COUNT = 12

REACH_MM = 3276.7
"""What a signed register of 0.1 mm can say; no arm of the maker reaches further."""

ERRORS = {
    1: "the program on the arm does not know this job: load the labedge_mover.script of this labedge",
    2: "the arm cannot reach the pick or the place pose: check the taught points of these positions",
    3: "nothing was gripped at the pick pose: look whether the labware stands where the cell says",
    4: "the place is occupied, and the labware is still in the gripper: clear the place",
    5: "the arm stopped because it heard nothing of labedge for 3 s; labware may be in the gripper",
    6: "the gripper already holds labware: take it out by hand",
}


class JobNumber(IntEnum):
    """Register 129."""

    MOVE = 1
    HOME = 2


NOWHERE = Pose(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Job:
    """What the arm shall do: mm and rad in the robot's base frame, mm/s."""

    number: JobNumber
    job_id: int
    pick: Pose = NOWHERE
    place: Pose = NOWHERE
    approach_mm: float = 0.0
    speed_mm_s: float = 0.0

    def registers(self, edge_heartbeat: int, on_lost: int) -> list[int]:
        """Registers 129 to 143. Raises `Refused` for a pose outside ±3276.7 mm."""
        try:
            return [
                self.number,
                *encode_uint32(self.job_id, WordOrder.HIGH_FIRST),
                *_pose_registers(self.pick, "pick"),
                *_pose_registers(self.place, "place"),
                unsigned16(round(self.approach_mm * 10)),
                unsigned16(round(self.speed_mm_s)),
                edge_heartbeat & 0xFFFF,
                on_lost,
            ]
        except BadRequest as problem:
            raise Refused(str(problem)) from problem


def _pose_registers(pose: Pose, which: str) -> list[int]:
    words = []
    for axis, value_mm in (("x", pose.x_mm), ("y", pose.y_mm), ("z", pose.z_mm)):
        if not abs(value_mm) <= REACH_MM:
            raise Refused(
                f"The {which} pose has {axis} = {value_mm:.1f} mm, and an arm can be sent to ±{REACH_MM} mm "
                "only: check the taught points of the position (mm, robot base frame)."
            )
        words.append(unsigned16(round(value_mm * 10)))
    turn_mrad = round(math.remainder(pose.rz_rad, 2 * math.pi) * 1000)
    return [*words, unsigned16(turn_mrad)]


@dataclass(frozen=True, slots=True)
class Answer:
    """Registers 160 to 171: what the program on the arm says."""

    version: int
    heartbeat: int
    accepted: bool
    busy: bool
    done: bool
    error: int
    accepted_id: int
    done_id: int
    holding: bool
    homed: bool

    @classmethod
    def of(cls, words: Sequence[int]) -> Answer:
        """From the twelve registers as they came."""
        return cls(
            version=words[0],
            heartbeat=words[1],
            accepted=words[2] == 1,
            busy=words[3] == 1,
            done=words[4] == 1,
            error=words[5],
            accepted_id=decode_uint32(words[6:8], WordOrder.HIGH_FIRST),
            done_id=decode_uint32(words[8:10], WordOrder.HIGH_FIRST),
            holding=words[10] == 1,
            homed=words[11] == 1,
        )


class Fate(Enum):
    """What the registers say of one job; the value is the page's wording."""

    FINISHED = "finished"
    FAILED = "failed"
    RUNNING = "still running"
    STOPPED = "stopped part-way"
    NEVER_BEGAN = "never began"
    RESTARTED = "the program has been restarted since"


def fate(answer: Answer, job_id: int) -> Fate:
    """The page's table. `NEVER_BEGAN` holds only once `request` has been withdrawn."""
    if answer.done_id == job_id:
        return Fate.FAILED if answer.error else Fate.FINISHED
    if answer.accepted_id == job_id:
        return Fate.RUNNING if answer.busy else Fate.STOPPED
    return Fate.RESTARTED if answer.accepted_id == 0 else Fate.NEVER_BEGAN


def reason(error: int) -> str:
    """Half a sentence for an error code of register 165."""
    return ERRORS.get(error, f"the program on the arm reports error {error}, which is not in the handshake")


class Pulse:
    """Whether the program on the arm is alive: only a heartbeat that goes on counting proves it.

    A controller may keep the registers of a program that has ended; the numbers alone prove nothing.
    Times are an argument, in seconds of any steady clock.
    """

    SILENCE_S = 2.0

    def __init__(self) -> None:
        self._last: int | None = None
        self._changed_at: float | None = None

    def see(self, answer: Answer, now: float) -> None:
        """Take an answer just read."""
        if answer.version != VERSION:
            self.forget()
        elif answer.heartbeat != self._last:
            # The first value seen proves nothing: it may have been standing there for a week.
            self._changed_at = None if self._last is None else now
            self._last = answer.heartbeat

    def forget(self) -> None:
        """Start over: the program has been stopped or started."""
        self._last = self._changed_at = None

    def alive(self, now: float) -> bool:
        """Whether the heartbeat changed within the last 2 s."""
        return self._changed_at is not None and now - self._changed_at < self.SILENCE_S
