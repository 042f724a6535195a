"""The pH driver on the simulated bench."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.errors import Fault, Lost
from drivers.sensors.hamilton_arc_ph import ArcOptions, HamiltonArcPh, Nothing, PhReading
from firmware_sim.pytest_plugin import RunningBench
from protocols.links import Links
from tests.drivers.attempts import Try

ARC = {"model": "hamilton-arc-ph", "link": "pty:rs485"}
BENCH: dict[str, Any] = {
    "bench": "ph",
    "seed": 7,
    "instruments": {
        "ph": {**ARC, "address": 1, "serial": "1234", "in": "beaker/A1"},
        "other": {**ARC, "address": 2},
    },
    "labware": {
        "beaker": {"type": "trough-1", "well_capacity_ul": 50000, "contents": {"A1": {"buffer": 40000}}}
    },
    "liquids": {"buffer": {"density_g_ml": 1.0, "ph": 4.0}},
}
on_bench = pytest.mark.bench(BENCH)


@asynccontextmanager
async def sensor(bench: RunningBench, links: Links, name: str = "ph") -> AsyncIterator[HamiltonArcPh]:
    address = 1 if name == "ph" else 2
    options = ArcOptions(driver="hamilton-arc-ph", port=bench.addresses[name], address=address)
    device = HamiltonArcPh(name, options, links)
    await device.open()
    yield device
    await device.close()


@on_bench
async def test_identifies_and_measures_the_beaker(bench: RunningBench, links: Links) -> None:
    async with sensor(bench, links) as device, sensor(bench, links, "other") as other:
        identity = await device.identify()
        assert identity.serial == "1234"
        reading = await device.measure(Nothing(), Try())
        assert reading.ph == pytest.approx(4.0, abs=0.1)
        assert 10 < reading.temperature_c < 40
        assert (await other.measure(Nothing(), Try())).ph == pytest.approx(7.0, abs=0.1)


@on_bench
@pytest.mark.parametrize("kind", ["drop-reply", "garble", "truncate", "drop-request"])
async def test_a_lost_reading_is_never_another_one(bench: RunningBench, links: Links, kind: str) -> None:
    async with sensor(bench, links) as device, sensor(bench, links, "other") as other:
        await device.read()
        bench.fault("ph", kind)
        with pytest.raises(Lost):
            await device.read()
        assert (await other.read()).ph == pytest.approx(7.0, abs=0.1)
        assert (await device.read()).ph == pytest.approx(4.0, abs=0.1)


@on_bench
async def test_late_reply_is_not_the_next_reading(bench: RunningBench, links: Links) -> None:
    async with sensor(bench, links) as device:
        bench.fault("ph", "delay", delay_s=1.2)
        with pytest.raises(Lost):
            await device.read()
        readings: list[PhReading] = [await device.read() for _ in range(3)]
    assert all(reading.ph == pytest.approx(4.0, abs=0.1) for reading in readings)
    assert all(10 < reading.temperature_c < 40 for reading in readings)


@on_bench
async def test_error_of_the_sensor_is_a_fault(bench: RunningBench, links: Links) -> None:
    async with sensor(bench, links) as device:
        bench.fault("ph", "error")
        with pytest.raises(Fault, match="reports an error"):
            await device.measure(Nothing(), Try())
