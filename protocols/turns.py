"""Who may use a shared line next, and how long to leave alone what doesn't answer.

Units on one line (pumps on RS-485, Modbus addresses) take turns: first come, first served inside a unit,
one turn each between units. A unit that keeps silent waits outside, so that it costs the others little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

SILENCES = 3
"""Failures in a row after which a unit gets one turn per back-off period only."""


class Backoff:
    """How long to wait before trying again: doubles from `first_s` to `last_s`. Pure: time is an argument."""

    def __init__(self, first_s: float = 0.2, last_s: float = 5.0) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._next_s = first_s
        self.ready_at = float("-inf")

    def failed(self, now: float) -> None:
        """It failed at `now` (s): nothing before `ready_at`, and next time twice as long."""
        self.ready_at = now + self._next_s
        self._next_s = min(self._last_s, 2 * self._next_s)

    def succeeded(self) -> None:
        """It works: the next failure starts from the beginning."""
        self._next_s = self._first_s
        self.ready_at = float("-inf")


class Stirring:
    """Something may have changed before the time is up."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def stir(self) -> None:
        """Wake who waits now."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until stirred, at most `timeout_s`."""
        self._event.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()


class Unit:
    """What a line remembers of one unit on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = asyncio.Lock()
        self.stirred = Stirring()
        self.stops = 0
        self.silences = 0
        self.backoff = Backoff()

    @property
    def given_up(self) -> bool:
        """Whether the unit has been silent so often that it waits outside."""
        return self.silences >= SILENCES

    def answered(self) -> bool:
        """It answered; True if it had been given up before."""
        returned = self.given_up
        self.silences = 0
        self.backoff.succeeded()
        return returned

    def failed(self, now: float) -> bool:
        """It had not answered, or only rubbish, at `now` (s); True if that makes it given up."""
        self.silences += 1
        if self.given_up:
            self.backoff.failed(now)
        return self.silences == SILENCES


class Turns:
    """The line's queue. At most one request of each unit stands in it, so that first-come is fair.

    A unit that must stay outside for a while does so before it queues up; its later requests wait behind it.
    """

    def __init__(self) -> None:
        self._line = asyncio.Lock()
        self._units: dict[str, Unit] = {}
        self._waiting = 0

    def unit(self, name: str) -> Unit:
        """The unit of that name, new if it hasn't been on the line yet."""
        if name not in self._units:
            self._units[name] = Unit(name)
        return self._units[name]

    async def take(self, unit: Unit, timeout_s: float, delay: Callable[[], float]) -> None:
        """Wait for the unit's turn; raises `TimeoutError` if it doesn't come within `timeout_s`.

        `delay` tells, each time it is asked, for how many seconds the unit must still stay outside.
        """
        if not (self._waiting or self._line.locked() or unit.gate.locked()) and delay() <= 0:
            # Nobody is there: neither lock can make us wait, so no deadline is needed.
            await unit.gate.acquire()
            await self._line.acquire()
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue_up(unit, delay)
        finally:
            self._waiting -= 1

    async def _queue_up(self, unit: Unit, delay: Callable[[], float]) -> None:
        await unit.gate.acquire()
        try:
            while (pause := delay()) > 0:
                await unit.stirred.wait(pause)
            await self._line.acquire()
        except BaseException:
            unit.gate.release()
            raise

    def stir(self) -> None:
        """Let every unit that stays outside ask again whether it must."""
        for unit in self._units.values():
            unit.stirred.stir()

    def give_back(self, unit: Unit) -> None:
        """The turn is over."""
        self._line.release()
        unit.gate.release()
