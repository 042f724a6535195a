"""The photometer's driver on the simulated bench."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.errors import Fault, Lost, Refused
from drivers.sensors.lads_photometer import LadsPhotometer
from drivers.sensors.lads_photometer.driver import LadsOptions, Measure, Scan
from firmware_sim.pytest_plugin import RunningBench
from protocols.links import Links
from tests.drivers.attempts import Try, intent_of

BENCH: dict[str, Any] = {
    "bench": "light",
    "seed": 7,
    "instruments": {
        "reader": {"model": "lads-photometer", "link": "opc.tcp://127.0.0.1:0", "at": "nest-1", "noise": 0}
    },
    "positions": {
        "nest-1": {"frame": [[0, 0, 0], [100, 0, 0], [0, 100, 0]]},
        "nest-2": {"frame": [[0, 300, 0], [100, 300, 0], [0, 400, 0]]},
    },
    "labware": {
        "plate-1": {
            "type": "sbs-96",
            "at": "nest-1",
            "well_capacity_ul": 360,
            "contents": {"A1": {"dye": 200}, "A2": {"dye": 100, "water": 100}},
        }
    },
    "liquids": {"dye": {"density_g_ml": 1.0, "absorbance": {450: 2.0, 600: 0.5}}, "water": {}},
}
EMPTY = {**BENCH, "labware": {"plate-1": {**BENCH["labware"]["plate-1"], "at": "nest-2"}}}


@asynccontextmanager
async def reader(bench: RunningBench, links: Links) -> AsyncIterator[LadsPhotometer]:
    options = LadsOptions(driver="lads-photometer", port=bench.addresses["reader"])
    device = LadsPhotometer("reader", options, links)
    await device.open()
    try:
        yield device
    finally:
        await device.close()


async def started(bench: RunningBench, device: LadsPhotometer) -> None:
    async with asyncio.timeout(10):
        while not (await device.read()).running:
            continue


@pytest.mark.bench(BENCH)
async def test_measures_what_is_in_the_well(bench: RunningBench, links: Links) -> None:
    async with reader(bench, links) as device:
        assert (await device.identify()).serial
        full = await device.measure(Measure("plate-1/A1", 450.0), Try(1))
        half = await device.scan(Scan([450.0, 600.0], "plate-1/A2"), Try(2))
    assert full.absorbance > 0.1
    assert half.absorbance[0] == pytest.approx(full.absorbance / 2, rel=0.02)
    assert half.absorbance[1] == pytest.approx(half.absorbance[0] / 4, rel=0.02)


@pytest.mark.bench(BENCH)
async def test_reading_is_settled_by_its_number(bench: RunningBench, links: Links) -> None:
    wanted = Measure("plate-1/A1", 450.0)
    attempt = Try(11)
    async with reader(bench, links) as first:
        measuring = asyncio.ensure_future(first.measure(wanted, attempt))
        await started(bench, first)
        measuring.cancel()
        await asyncio.wait([measuring])
    async with reader(bench, links) as second:
        outcome = await second.settle(intent_of(attempt, "measure", wanted))
        assert outcome.kind == "finished"
        assert outcome.result["absorbance"] > 0.1
        assert outcome.result["wavelength_nm"] == 450.0
        never = Try(12)
        await never.intend(b"")
        assert (await second.settle(intent_of(never, "measure", wanted))).kind == "not_executed"


@pytest.mark.bench(BENCH)
async def test_halt_aborts_and_a_reset_clears(bench: RunningBench, links: Links) -> None:
    async with reader(bench, links) as device:
        measuring = asyncio.ensure_future(device.measure(Measure("plate-1/A1"), Try(21)))
        await started(bench, device)
        device.halt()
        with pytest.raises(Fault, match="Aborted without a result"):
            await measuring
        assert await device.halted()
        with pytest.raises(Refused, match="Aborted"):
            await device.measure(Measure("plate-1/A1"), Try(22))
        await device.prepare()
        assert (await device.measure(Measure("plate-1/A1"), Try(23))).absorbance > 0.1


@pytest.mark.bench(EMPTY)
async def test_empty_reader_gives_no_number(bench: RunningBench, links: Links) -> None:
    async with reader(bench, links) as device:
        with pytest.raises(Fault, match="whether a plate is in it"):
            await device.measure(Measure("plate-1/A1"), Try(31))


@pytest.mark.bench(BENCH)
async def test_bench_that_is_gone_is_lost(bench: RunningBench, links: Links) -> None:
    async with reader(bench, links) as device:
        bench.stop()
        with pytest.raises(Lost) as caught:
            await device.measure(Measure("plate-1/A1"), Try(41))
        device.halt()
    assert not caught.value.sent
