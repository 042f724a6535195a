"""The conversation with labedge_mover over Modbus registers: one job at a time, done once.

Written from ../HANDSHAKE.md. Registers outlive the program that wrote them, so nothing in them counts as news
unless the heartbeat moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from drivers.api import Attempt, Intent, already_sent, nothing_sent, wire_errors
from drivers.arms.universal_robots import handshake
from drivers.arms.universal_robots.handshake import Answer, Fate, Job, Pulse, fate
from drivers.errors import Fault, Lost, Refused
from protocols.modbus import Modbus, frame_write_register, frame_write_registers
from protocols.registers import WordOrder, decode_uint32, signed16

UNIT = 0
"""The controller answers whatever unit it is asked for; 0 as in the maker's examples."""
MODE, PROTECTIVE_STOP, TOOL = 258, 261, 400
RUNNING = 7

REPLY_S = 0.5
"""The controller answers within a few ms."""
POLL_S = 0.1
TAKE_POLL_S = 0.02
TAKE_S = 2.0
"""Within this time a living program takes a job over."""
BLIND_S = 5.0
"""For so long the registers may be unreadable while a job runs."""
TRIES = 3
RETRY_S = 0.25
"""Longer than the first back-off of a port that could not be opened."""

T = TypeVar("T")
ON_LOST = {"finish": 0, "stop": 1}


class Mover:
    """The registers of one arm. Raises `Refused`, `Fault` or `Lost`; every wait ends by its deadline.

    `end` ends the program on the arm at once; it is called when an arm that was stopped by its own safety
    system must not go on by itself as soon as somebody unlocks it.
    """

    def __init__(self, name: str, modbus: Modbus, on_lost: str, end: Callable[[], None]) -> None:
        self.name = name
        self.pulse = Pulse()
        self._modbus = modbus
        self._on_lost = ON_LOST[on_lost]
        self._end = end
        self._beats = 0

    async def registers(self, address: int, count: int) -> list[int]:
        """Registers as they stand now."""
        return await self._repeat(lambda: self._modbus.read_holding(UNIT, address, count, REPLY_S))

    async def answer(self) -> Answer:
        """What the program says now, in one read."""
        answer = Answer.of(await self.registers(handshake.ANSWER, handshake.ANSWER_COUNT))
        self.pulse.see(answer, _now())
        return answer

    async def tool_mm(self) -> tuple[float, float, float]:
        """x, y, z of the tool in the base frame, mm."""
        x, y, z = (signed16(word) / 10 for word in await self.registers(TOOL, 3))
        return x, y, z

    async def beat(self) -> None:
        """Tell the arm that labedge is alive, and look whether its program is; two to four times a second."""
        self._beats = (self._beats + 1) & 0xFFFF
        with wire_errors():
            await self._modbus.write_registers(
                UNIT, handshake.EDGE_HEARTBEAT, [self._beats, self._on_lost], REPLY_S
            )
            # Once only: the next beat must not wait for this answer.
            words = await self._modbus.read_holding(UNIT, handshake.ANSWER, handshake.ANSWER_COUNT, REPLY_S)
        self.pulse.see(Answer.of(words), _now())

    async def withdraw(self) -> None:
        """Take back whatever is requested."""
        await self._write(handshake.REQUEST, [0])

    async def wakes(self, within_s: float) -> bool:
        """Whether the program's heartbeat moves within the time."""
        until = _now() + within_s
        while True:
            await self.answer()
            if self.pulse.alive(_now()):
                return True
            if _now() > until:
                return False
            await asyncio.sleep(POLL_S)

    async def why_unsafe(self) -> str | None:
        """A sentence if the arm has been stopped by its safety system, else None."""
        protective, emergency = await self.registers(PROTECTIVE_STOP, 2)
        if emergency:
            return (
                f"{self.name} is in an emergency stop: clear the cause, release the button, "
                "look whether labware is in the gripper, then reset and initialize."
            )
        if protective:
            return (
                f"{self.name} is in a protective stop: see what it has hit, free it, unlock it on the "
                "pendant, look whether labware is in the gripper, then reset."
            )
        return None

    async def run(self, job: Job, attempt: Attempt, patience_s: float, memo: dict[str, Any]) -> None:
        """Have a job done. `Fault`: it failed. `Refused`, or `Lost` with sent=False: it never began."""
        with nothing_sent():
            before = await self._ready()
        words = job.registers(self._beats, self._on_lost)
        frame = frame_write_registers(UNIT, handshake.JOB, words, tid=0)
        frame += frame_write_register(UNIT, handshake.REQUEST, 1, tid=0)
        await attempt.intend(frame, job_before=before, patience_s=patience_s, **memo)
        # A job that is written and not requested moves nothing.
        with nothing_sent():
            await self._write(handshake.JOB, words)
        await self._write(handshake.REQUEST, [1])
        if not await self._taken(job.job_id):
            raise Refused(f"{self.name} did not take the job within {TAKE_S:g} s; it has been withdrawn.")
        answer = await self.follow(job.job_id, patience_s)
        if answer.error:
            raise Fault(f"{self.name}: {handshake.reason(answer.error)}.")

    async def follow(self, job_id: int, patience_s: float) -> Answer:
        """Wait for the end of an accepted job; returns the registers that tell how it ended."""
        began = seen = _now()
        standing = True
        while True:
            try:
                answer = await self.answer()
                if standing:
                    await self.withdraw()
                    standing = False
                seen = _now()
                if fate(answer, job_id) in (Fate.FINISHED, Fate.FAILED) and not answer.busy:
                    return answer
                await self._check(answer, job_id, began)
            except _InDoubt:
                raise
            except (Lost, Refused) as problem:
                if _now() - seen > BLIND_S:
                    raise Lost(f"{self.name} cannot be asked what its job does: {problem}") from problem
            if _now() - began > patience_s:
                raise Lost(
                    f"{self.name} has not ended its job within {patience_s:.0f} s: look what keeps it."
                )
            await asyncio.sleep(POLL_S)

    async def settle(self, intent: Intent) -> tuple[Fate, Answer]:
        """What became of a job, once it is clear that nothing more becomes of it."""
        request, _, high, low = await self.registers(handshake.REQUEST, 4)
        if request:
            await self.withdraw()
            # The program may have seen the request in the very moment in which it was withdrawn.
            await asyncio.sleep(POLL_S)
        answer = await self.answer()
        became = fate(answer, intent.job_id)
        if became is Fate.RUNNING:
            answer = await self.follow(intent.job_id, float(intent.memo["patience_s"]))
            became = fate(answer, intent.job_id)
        written = decode_uint32([high, low], WordOrder.HIGH_FIRST)
        if became is Fate.RESTARTED and 0 != written == intent.memo["job_before"] != intent.job_id:
            # The controller still shows the job before this one: this one never got as far as its registers.
            became = Fate.NEVER_BEGAN
        return became, answer

    async def _check(self, answer: Answer, job_id: int, began: float) -> None:
        """Raise if this job cannot come to its own end any more."""
        unsafe = await self.why_unsafe()
        if unsafe is not None:
            self._end()
            raise Fault(unsafe)
        became = fate(answer, job_id)
        if became in (Fate.STOPPED, Fate.RESTARTED, Fate.NEVER_BEGAN):
            raise _InDoubt(f"{self.name}: the job was {became.value}; look where the labware is.")
        if not self.pulse.alive(_now()) and _now() - began > Pulse.SILENCE_S:
            raise _InDoubt(
                f"{self.name}: the program on the arm has stood still for {Pulse.SILENCE_S:g} s; "
                "look at the pendant, and where the labware is."
            )

    async def _ready(self) -> int:
        """Id of the job that the registers show now; raises `Refused` unless the arm can take another."""
        unsafe = await self.why_unsafe()
        if unsafe is not None:
            raise Refused(unsafe)
        (mode,) = await self.registers(MODE, 1)
        if mode != RUNNING:
            raise Refused(f"{self.name} has no power or its brakes are on: run its operation `initialize`.")
        if not await self.wakes(TAKE_S):
            raise Refused(
                f"{self.name}: the program labedge_mover does not run on the arm: reset the cell, "
                "or run the operation `initialize`."
            )
        request, _, high, low = await self.registers(handshake.REQUEST, 4)
        if request:
            await self.withdraw()
        until = _now() + TAKE_S
        while (answer := await self.answer()).accepted or answer.busy:
            if answer.busy or _now() > until:
                raise Refused(f"{self.name} is still busy with job {answer.accepted_id}: wait, or stop it.")
            await asyncio.sleep(TAKE_POLL_S)
        return decode_uint32([high, low], WordOrder.HIGH_FIRST)

    async def _taken(self, job_id: int) -> bool:
        """Whether the program takes the job over; a job not taken in time is withdrawn."""
        until = _now() + TAKE_S
        while _now() < until:
            try:
                answer = await self.answer()
            except (Lost, Refused):
                await asyncio.sleep(POLL_S)
                continue
            if answer.accepted_id == job_id:
                return True
            await asyncio.sleep(TAKE_POLL_S)
        with already_sent():
            await self.withdraw()
            await asyncio.sleep(POLL_S)
            became = fate(await self.answer(), job_id)
        if became is Fate.RESTARTED:
            raise Lost(f"{self.name}: the program on the arm ended while it was given a job.")
        return became is not Fate.NEVER_BEGAN

    async def _write(self, address: int, words: list[int]) -> None:
        """Function 6 for one register, 16 for several."""
        modbus = self._modbus
        if len(words) == 1:
            await self._repeat(lambda: modbus.write_register(UNIT, address, words[0], REPLY_S))
        else:
            await self._repeat(lambda: modbus.write_registers(UNIT, address, words, REPLY_S))

    async def _repeat(self, request: Callable[[], Awaitable[T]]) -> T:
        """Ask, and again if no answer comes: here every read and every write may be repeated."""
        sent = False
        for _ in range(TRIES - 1):
            try:
                with wire_errors():
                    return await request()
            except Lost as problem:
                sent = sent or problem.sent
            await asyncio.sleep(RETRY_S)
        try:
            with wire_errors():
                return await request()
        except Lost as problem:
            raise Lost(str(problem), sent=sent or problem.sent) from problem


class _InDoubt(Lost):
    """The link is well, and what it says leaves the job in doubt."""


def _now() -> float:
    return asyncio.get_running_loop().time()
