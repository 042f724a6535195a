"""The bench's clock: real time into physical time, and waking up when something is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from firmware_sim.api import Simulator

FINEST_STEP_S = 0.05
"""Longest physical step while anything is under way, so that one instrument sees another's change in time."""
_SHORTEST_SLEEP_S = 0.001


class Clock:
    """Ticks all simulators together. Hosts call `catch_up` before a request is handled and `rearm` after it.

    `speed` is physical seconds in a real second. `after_tick` callbacks run at the end of every `catch_up`;
    `deadlines` give the real time (as `now()`) of something a host itself has to do, or None.
    """

    def __init__(self, simulators: Sequence[Simulator], speed: float = 1.0) -> None:
        self._simulators = list(simulators)
        self._speed = speed
        self._last = self.now()
        self._timer: asyncio.TimerHandle | None = None
        self.after_tick: list[Callable[[], None]] = []
        self.deadlines: list[Callable[[], float | None]] = []

    @staticmethod
    def now() -> float:
        """Real seconds on a clock that never runs backwards."""
        return time.monotonic()

    def catch_up(self) -> None:
        """Bring the world to the present."""
        now = self.now()
        physical_s = (now - self._last) * self._speed
        self._last = now
        advance(self._simulators, physical_s)
        for callback in self.after_tick:
            callback()

    def rearm(self) -> None:
        """Wake up when the next thing is due; sleep while nothing is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = [due / self._speed for due in _dues(self._simulators)]
        now = self.now()
        waits += [moment - now for deadline in self.deadlines if (moment := deadline()) is not None]
        if waits:
            delay = max(min(waits), _SHORTEST_SLEEP_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def stop(self) -> None:
        """No more waking up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        self.catch_up()
        self.rearm()


def advance(simulators: Sequence[Simulator], physical_s: float) -> None:
    """Let time pass for all simulators, in fine steps while anything is under way."""
    left = physical_s
    while True:
        busy = next(iter(_dues(simulators)), None) is not None
        step = min(left, FINEST_STEP_S) if busy else left
        for simulator in simulators:
            simulator.tick(step)
        left -= step
        if left <= 0:
            return


def _dues(simulators: Sequence[Simulator]) -> list[float]:
    return [due for simulator in simulators if (due := simulator.due()) is not None]
