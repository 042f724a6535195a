"""The clock: physical time for everybody together, and waking up only when something is due."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from firmware_sim.api import Simulator
from firmware_sim.clock import Clock, advance
from firmware_sim.log import nowhere
from firmware_sim.world import World


class Kettle(Simulator):
    """Boils after a while, once."""

    model = "kettle"

    def __init__(self, seconds: float | None) -> None:
        super().__init__("kettle", {}, World({}), nowhere)
        self.left_s = seconds
        self.ticks: list[float] = []

    def tick(self, dt: float) -> None:
        self.ticks.append(dt)
        if self.left_s is not None:
            self.left_s -= dt
            if self.left_s <= 1e-9:
                self.left_s = None

    def due(self) -> float | None:
        return self.left_s

    def reboot(self) -> None:
        self.left_s = None


def test_time_passes_in_fine_steps_while_something_is_under_way() -> None:
    kettle, idle = Kettle(0.12), Kettle(None)
    advance([kettle, idle], 100.0)
    assert kettle.ticks == idle.ticks
    assert kettle.ticks[:3] == [0.05, 0.05, 0.05]
    assert len(kettle.ticks) == 4
    assert sum(kettle.ticks) == pytest.approx(100.0)


def test_idle_time_is_one_step() -> None:
    idle = Kettle(None)
    advance([idle], 3600.0)
    assert idle.ticks == [3600.0]


async def test_the_clock_wakes_when_something_is_due_and_then_sleeps() -> None:
    kettle = Kettle(2.0)
    clock = Clock([kettle], speed=100.0)
    woken = asyncio.Event()
    clock.after_tick.append(lambda: woken.set() if kettle.left_s is None else None)
    clock.catch_up()
    clock.rearm()
    async with asyncio.timeout(10):
        await woken.wait()
    ticks = len(kettle.ticks)
    await asyncio.sleep(0.02)
    assert len(kettle.ticks) == ticks, "nothing is due, so nobody wakes"


async def test_a_host_may_have_deadlines(monkeypatch: Any) -> None:
    clock = Clock([])
    woken = asyncio.Event()
    moment: list[float | None] = [clock.now() + 0.01]

    def reached() -> None:
        if moment[0] is not None and clock.now() >= moment[0]:
            moment[0] = None
            woken.set()

    clock.deadlines.append(lambda: moment[0])
    clock.after_tick.append(reached)
    clock.rearm()
    async with asyncio.timeout(10):
        await woken.wait()
    clock.stop()
    clock.stop()
