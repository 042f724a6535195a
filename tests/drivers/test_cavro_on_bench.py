"""The pump driver on the simulated bench, whose log tells what really moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from drivers.api import Intent
from drivers.errors import DriverError, Fault, Lost, Refused
from drivers.liquid.cavro_xcalibur import pump as module
from drivers.liquid.cavro_xcalibur.declared import Aspirate, CavroOptions, Dispense, Initialize
from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur
from firmware_sim.pytest_plugin import RunningBench
from protocols.links import Links
from tests.drivers.scripted import Try

PORTS = {1: "reservoir/A1", 2: {"over": "nozzle-1"}}
PUMP = {"model": "cavro-xcalibur", "link": "pty:rs485", "syringe_ul": 1000, "ports": PORTS}
BENCH = {
    "bench": "pumps",
    "seed": 7,
    "speed": 20.0,
    "instruments": {"red": {**PUMP, "address": 1, "serial": "1234"}, "blue": {**PUMP, "address": 2}},
    "positions": {
        "nest-1": {"frame": [[0, 0, 0], [100, 0, 0], [0, 100, 0]]},
        "nozzle-1": {"at": "nest-1"},
    },
    "labware": {
        "reservoir": {"type": "trough-1", "well_capacity_ul": 50000, "contents": {"A1": {"dye": 40000}}},
        "plate-1": {"type": "sbs-6", "at": "nest-1", "well_capacity_ul": 16000},
    },
    "liquids": {"dye": {"density_g_ml": 1.0}},
}
SLOW = {**BENCH, "speed": 1.0}
on_bench = pytest.mark.bench(BENCH)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)


def make(bench: RunningBench, links: Links, name: str = "red", address: int = 1) -> CavroXCalibur:
    given = {"driver": "cavro-xcalibur", "port": bench.addresses[name], "address": address}
    options = msgspec.convert({**given, "syringe_ul": 1000, "ports": PORTS, "top_speed": 5000}, CavroOptions)
    return CavroXCalibur(name, options, links)


@pytest_asyncio.fixture
async def red(bench: RunningBench, links: Links) -> AsyncIterator[CavroXCalibur]:
    """An initialised pump."""
    pump = make(bench, links)
    await pump.open()
    await pump.initialize(Initialize(), Try())
    yield pump


def moves(bench: RunningBench, instrument: str = "red") -> list[tuple[str, float, str]]:
    """What matter has really moved: (what, µl, where), without empty initialisations and valve turns."""
    actions = bench.lines("action", instrument)
    return [
        (line["what"], round(line["amount_ul"], 3), line["place"])
        for line in actions
        if line["what"] != "valve" and line["amount_ul"]
    ]


def intent_of(attempt: Try, operation: str) -> Intent:
    return Intent("step", operation, {}, 1, attempt.frames[0], attempt.memo)


async def settled(pump: CavroXCalibur, attempt: Try, operation: str = "aspirate") -> tuple[str, str]:
    outcome = await pump.settle(intent_of(attempt, operation))
    return outcome.kind, outcome.reason


@on_bench
async def test_two_pumps_share_a_line(bench: RunningBench, links: Links, red: CavroXCalibur) -> None:
    blue = make(bench, links, "blue", 2)
    await blue.open()
    await blue.initialize(Initialize(), Try())
    assert (await red.identify()).serial == "1234"

    async def mix(pump: CavroXCalibur, volume_ul: float) -> None:
        await pump.aspirate(Aspirate("reservoir/A1", volume_ul), Try())
        await pump.dispense(Dispense("plate-1/A1", volume_ul), Try())

    await asyncio.gather(mix(red, 100.0), mix(blue, 50.0))
    assert moves(bench, "red") == [("aspirate", 100.0, "reservoir/A1"), ("dispense", 100.0, "plate-1/A1")]
    assert moves(bench, "blue") == [("aspirate", 50.0, "reservoir/A1"), ("dispense", 50.0, "plate-1/A1")]
    assert bench.world()["labware"]["plate-1"]["wells"]["A1"]["volume_ul"] == pytest.approx(150.0)


FAULTS: list[dict[str, Any]] = [
    {"kind": "drop-reply"},
    {"kind": "drop-request"},
    {"kind": "garble"},
    {"kind": "garble", "side": "request"},
    {"kind": "truncate"},
    {"kind": "truncate", "side": "request"},
    {"kind": "delay", "delay_s": 0.25},
    {"kind": "duplicate-reply"},
    {"kind": "noise", "count": 3},
]


@on_bench
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(str(value) for value in fault.values()))
async def test_a_fault_at_any_message_moves_matter_once(
    bench: RunningBench, red: CavroXCalibur, fault: dict[str, Any]
) -> None:
    # Q, ?, command, Q, ?: each of them is hit in turn.
    for after in range(5):
        before = moves(bench)
        bench.fault("red", **{**fault, "after": after} if fault["kind"] != "noise" else fault)
        moved = await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())
        assert moved.volume_ul == 10.0
        assert moves(bench)[len(before) :] == [("aspirate", 10.0, "reservoir/A1")]
    assert bench.lines("fault", "red")


@on_bench
async def test_all_acknowledgements_lost_and_the_pump_says_that_it_moved(
    bench: RunningBench, red: CavroXCalibur
) -> None:
    bench.fault("red", "drop-reply", after=2, count=4)
    attempt = Try()
    with pytest.raises(Lost) as lost:
        await red.aspirate(Aspirate("reservoir/A1", 10.0), attempt)
    assert lost.value.sent
    assert (await settled(red, attempt))[0] == "finished"
    assert moves(bench) == [("aspirate", 10.0, "reservoir/A1")]


@on_bench
async def test_a_command_that_never_arrived_and_the_pump_says_that_it_did_not_move(
    bench: RunningBench, red: CavroXCalibur
) -> None:
    bench.fault("red", "drop-request", after=2, count=4)
    attempt = Try()
    with pytest.raises(Lost):
        await red.aspirate(Aspirate("reservoir/A1", 10.0), attempt)
    assert (await settled(red, attempt))[0] == "not_executed"
    assert moves(bench) == []
    await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())
    assert moves(bench) == [("aspirate", 10.0, "reservoir/A1")]


@pytest.mark.bench(SLOW)
async def test_another_process_settles_a_move_that_is_still_going_on(
    bench: RunningBench, red: CavroXCalibur, links: Links
) -> None:
    attempt = Try()
    move = asyncio.ensure_future(red.aspirate(Aspirate("reservoir/A1", 400.0), attempt))
    await _drawing(bench, red)
    move.cancel()
    with pytest.raises(asyncio.CancelledError):
        await move
    await links.close()
    second = Links()
    successor = make(bench, second)
    await successor.open()
    assert (await settled(successor, attempt))[0] == "finished"
    await second.close()
    assert moves(bench) == [("aspirate", 400.0, "reservoir/A1")]


@pytest.mark.bench(SLOW)
async def test_a_stop_in_mid_motion(bench: RunningBench, red: CavroXCalibur) -> None:
    attempt = Try()
    move = asyncio.ensure_future(red.aspirate(Aspirate("reservoir/A1", 900.0), attempt))
    await _drawing(bench, red)
    red.halt()
    with pytest.raises(Lost):
        await move
    while not await red.halted():
        pass
    kind, reason = await settled(red, attempt)
    assert kind == "unknown"
    assert "on its way from 0 µl to 900 µl" in reason
    ((what, drawn_ul, place),) = moves(bench)
    assert (what, place) == ("aspirate", "reservoir/A1")
    assert 0 < drawn_ul < 900
    # What it holds is not spilled by accident, and goes where the cell file says if it is told to.
    with pytest.raises(Refused, match="expel: true"):
        await red.initialize(Initialize(), Try())
    await red.initialize(Initialize(expel=True), Try())
    assert moves(bench)[1] == ("initialize", drawn_ul, "plate-1/A1")


async def _drawing(bench: RunningBench, pump: CavroXCalibur) -> None:
    """Wait until liquid has come into the syringe."""
    async with asyncio.timeout(10):
        while not bench.world()["instruments"][pump.name]["liquid_ul"]:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


@pytest.mark.bench(SLOW)
async def test_a_restart_in_mid_motion_can_only_be_judged_by_a_person(
    bench: RunningBench, red: CavroXCalibur
) -> None:
    attempt = Try()
    move = asyncio.ensure_future(red.aspirate(Aspirate("reservoir/A1", 900.0), attempt))
    await _drawing(bench, red)
    bench.fault("red", "reboot", for_s=0.05)
    with pytest.raises(Lost, match="restarted during the move"):
        await move
    assert await settled(red, attempt) == (
        "unknown",
        "red: it was switched on or restarted; how far the plunger got is lost.",
    )
    with pytest.raises(Refused, match="initialise it first"):
        await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())


@on_bench
async def test_a_blocked_plunger_is_the_pumps_fault_until_it_is_initialised(
    bench: RunningBench, red: CavroXCalibur
) -> None:
    await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())
    bench.fault("red", "stuck")
    with pytest.raises(Fault, match="the plunger was blocked"):
        await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())
    with pytest.raises(DriverError, match="initialise"):
        await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())
    await red.initialize(Initialize(expel=True), Try())
    await red.aspirate(Aspirate("reservoir/A1", 10.0), Try())


@on_bench
async def test_a_dead_pump_does_not_hold_up_its_neighbour(
    bench: RunningBench, links: Links, red: CavroXCalibur
) -> None:
    blue = make(bench, links, "blue", 2)
    await blue.open()
    await blue.initialize(Initialize(), Try())
    bench.fault("red", "hang")

    async def ask() -> None:
        with pytest.raises(Lost):
            await red.read()

    async def work() -> None:
        for _ in range(3):
            await blue.aspirate(Aspirate("reservoir/A1", 10.0), Try())

    await asyncio.gather(ask(), work())
    assert moves(bench, "blue") == [("aspirate", 10.0, "reservoir/A1")] * 3
