"""The arm's driver on the simulated bench, whose log tells what really moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from drivers.api import Intent, Pose
from drivers.arms.universal_robots import UniversalRobots
from drivers.arms.universal_robots.driver import MoveLabware, Nothing, UrOptions
from drivers.errors import Fault, Lost, Refused
from firmware_sim.pytest_plugin import RunningBench
from protocols.links import Links
from tests.drivers.attempts import Try, intent_of

BENCH: dict[str, Any] = {
    "bench": "arm",
    "seed": 7,
    "speed": 10.0,
    "instruments": {
        "arm": {
            "model": "universal-robots",
            "link": "tcp:127.0.0.1:0",
            "dashboard": "127.0.0.1:0",
            "serial": "20175500123",
        }
    },
    "positions": {
        "nest-1": {"frame": [[400, 0, 100], [500, 0, 100], [400, -100, 100]]},
        "nest-2": {"frame": [[400, 300, 120], [400, 400, 120], [500, 300, 120]]},
    },
    "labware": {"plate-1": {"type": "sbs-96", "at": "nest-1", "well_capacity_ul": 360}},
}
SLOW = {**BENCH, "speed": 2.5}
CARRY = MoveLabware("plate-1", "nest-2")
BACK = MoveLabware("plate-1", "nest-1")


class Cell:
    """The taught points as the edge has them, with the plate where the last finished move has put it."""

    points: ClassVar = {"nest-1": Pose(400, 0, 100, 0.0), "nest-2": Pose(400, 300, 120, 1.5707963)}

    def __init__(self) -> None:
        self.position = "nest-1"

    def pose(self, position: str, labware: str, well: str | None) -> Pose:
        point = self.points[position]
        return point if well is None else Pose(point.x_mm - 9.0, point.y_mm, point.z_mm, point.rz_rad)

    def where(self, labware: str) -> tuple[str, str | None] | None:
        return self.position, None


@asynccontextmanager
async def arm(bench: RunningBench, **options: Any) -> AsyncIterator[UniversalRobots]:
    links = Links()
    dashboard = bench.addresses["arm.dashboard"].removeprefix("tcp://")
    given = UrOptions(driver="universal-robots", port=bench.addresses["arm"], dashboard=dashboard, **options)
    device = UniversalRobots("arm", given, links)
    device.geometry = Cell()
    await device.open()
    try:
        yield device
    finally:
        await device.close()
        await links.close()


def moved(bench: RunningBench) -> list[str]:
    return [line["what"] for line in bench.lines("action", "arm") if line["what"] in ("pick", "place")]


def seated(bench: RunningBench, position: str) -> bool:
    return bool(bench.world()["labware"]["plate-1"]["at"] == position)


async def until_busy(device: UniversalRobots) -> None:
    async with asyncio.timeout(10):
        while not (await device.read()).busy:
            continue


async def until_halted(device: UniversalRobots) -> None:
    async with asyncio.timeout(10):
        while not await device.halted():
            continue


async def settled_move(device: UniversalRobots, first_id: int) -> None:
    """Move as the edge does: what is in doubt is settled, what did not happen is tried again."""
    for job_id in range(first_id, first_id + 5):
        attempt = Try(job_id)
        try:
            await device.move_labware(CARRY, attempt)
        except Lost as problem:
            if problem.sent and (await device.settle(carried(attempt))).kind == "finished":
                return
        else:
            return
    pytest.fail("the plate was not moved")


def carried(attempt: Try) -> Intent:
    return intent_of(attempt, "move_labware", CARRY)


@pytest.mark.bench(BENCH)
async def test_carries_a_plate_there_and_back(bench: RunningBench) -> None:
    async with arm(bench) as device:
        identity = await device.identify()
        assert identity.serial == "20175500123"
        await device.initialize(Nothing(), Try(1))
        await device.home(Nothing(), Try(2))
        assert (await device.read()).homed
        attempt = Try(3)
        result = await device.move_labware(CARRY, attempt)
        assert result.position == "nest-2"
        assert (await device.settle(carried(attempt))).kind == "finished"
        assert isinstance(device.geometry, Cell)
        device.geometry.position = "nest-2"
        await device.move_labware(BACK, Try(4))
    assert moved(bench) == ["pick", "place", "pick", "place"]
    assert seated(bench, "nest-1")


@pytest.mark.bench(BENCH)
@pytest.mark.parametrize("kind", ["drop-reply", "drop-request", "delay", "garble", "duplicate-reply"])
async def test_trouble_on_the_wire_moves_the_plate_once(bench: RunningBench, kind: str) -> None:
    async with arm(bench) as device:
        await device.initialize(Nothing(), Try(1))
        bench.fault("arm", kind, after=3, count=4, **({"delay_s": 0.8} if kind == "delay" else {}))
        await settled_move(device, 5)
    assert moved(bench) == ["pick", "place"]
    assert seated(bench, "nest-2")


@pytest.mark.bench(BENCH)
async def test_nothing_to_grip_is_a_fault(bench: RunningBench) -> None:
    async with arm(bench) as device:
        await device.initialize(Nothing(), Try(1))
        assert isinstance(device.geometry, Cell)
        device.geometry.position = "nest-2"
        attempt = Try(7)
        with pytest.raises(Fault, match="nothing was gripped"):
            await device.move_labware(BACK, attempt)
        outcome = await device.settle(intent_of(attempt, "move_labware", BACK))
    assert outcome.kind == "failed"
    assert "place" not in moved(bench)


@pytest.mark.bench(SLOW)
async def test_stop_in_mid_motion_stops_keeps_the_grip_and_asks_a_person(bench: RunningBench) -> None:
    async with arm(bench) as device:
        await device.initialize(Nothing(), Try(1))
        attempt = Try(8)
        moving = asyncio.ensure_future(device.move_labware(CARRY, attempt))
        await until_busy(device)
        async with asyncio.timeout(20):
            while not (await device.read()).holding:
                continue
        device.halt()
        with pytest.raises(Lost):
            await moving
        await until_halted(device)
        stands = await device.read()
        assert (await device.settle(carried(attempt))).kind == "unknown"
        with pytest.raises(Refused):
            await device.move_labware(CARRY, Try(9))
        await asyncio.sleep(0.3)
        later = await device.read()
        assert (later.x_mm, later.y_mm, later.z_mm) == (stands.x_mm, stands.y_mm, stands.z_mm)
        assert moved(bench) == ["pick"]
        await device.prepare()
        assert (await device.read()).program
        assert (await device.read()).holding


@pytest.mark.bench(SLOW)
async def test_program_restarted_in_mid_motion_is_not_taken_for_anything_else(bench: RunningBench) -> None:
    async with arm(bench) as device:
        await device.initialize(Nothing(), Try(1))
        attempt = Try(10)
        moving = asyncio.ensure_future(device.move_labware(CARRY, attempt))
        await until_busy(device)
        moving.cancel()
        await asyncio.wait([moving])
        device.halt()
        await until_halted(device)
        await device.prepare()
        outcome = await device.settle(carried(attempt))
    assert outcome.kind == "unknown"
    assert "restarted" in outcome.reason


@pytest.mark.bench(SLOW)
async def test_settle_waits_for_a_motion_that_goes_on(bench: RunningBench) -> None:
    async with arm(bench) as first:
        await first.initialize(Nothing(), Try(1))
        attempt = Try(11)
        moving = asyncio.ensure_future(first.move_labware(CARRY, attempt))
        await until_busy(first)
        moving.cancel()
        await asyncio.wait([moving])
    async with arm(bench) as second:
        outcome = await second.settle(carried(attempt))
    assert outcome.kind == "finished"
    assert moved(bench) == ["pick", "place"]


@pytest.mark.bench(SLOW)
async def test_stuck_arm_is_a_protective_stop(bench: RunningBench) -> None:
    async with arm(bench) as device:
        await device.initialize(Nothing(), Try(1))
        bench.fault("arm", "stuck")
        with pytest.raises(Fault, match="protective stop"):
            await device.move_labware(CARRY, Try(12))
        reading = await device.read()
        assert reading.protective_stop
        with pytest.raises(Refused, match="protective stop"):
            await device.prepare()


@pytest.mark.bench(BENCH)
async def test_disconnect_is_survived(bench: RunningBench) -> None:
    async with arm(bench) as device:
        await device.initialize(Nothing(), Try(1))
        bench.fault("arm", "disconnect", for_s=0.3)
        await settled_move(device, 13)
    assert moved(bench) == ["pick", "place"]
