"""Conditions on live readings that hold, stop or abort the cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import MosquittoFactory
from tests.system.kit import RunningCell, documents, moved, plan_of
from tests.system.rig import LOOK, PRIME, BenchPlace, bench_in, daemon, draw, drop, red_cell

CellMaker = Callable[..., AbstractAsyncContextManager[RunningCell]]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[BenchPlace]:
    with bench_in(tmp_path / "bench") as place:
        yield place


@pytest.fixture
def guarded(place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path) -> CellMaker:
    """A cell with the interlock `spill`: too much on the balance."""

    def start(command: str, **more: Any) -> AbstractAsyncContextManager[RunningCell]:
        broker = mosquitto()
        rule = {"name": "spill", "when": "scale.mass_g > 0.02", "for_s": 0.2, "command": command} | more
        file = red_cell(place.bench, broker, interlocks=[rule], telemetry={"rate_hz": 20})
        return daemon(tmp_path, file, broker.port)

    return start


def spilling(cell: str) -> dict[str, Any]:
    """Too much once the second drop has begun, which takes some two seconds longer than that."""
    return plan_of(
        cell, PRIME, draw(250), drop(15, "first"), drop(150, "second", speed_ul_s=2), drop(50, "third"), LOOK
    )


def drifts(place: BenchPlace, per_s: float) -> None:
    """The reading goes off for half a second, at forty times that pace."""
    place.bench.fault("scale", "drift", per_s=per_s, for_s=0.5)


async def alarmed(cell: RunningCell, state: str) -> dict[str, Any]:
    found: dict[str, Any] = await cell.until(
        lambda: next(
            (a for a in cell.of("alarm") if a["id"] == "interlock-spill" and a["state"] == state), None
        )
    )
    return found


def drops(place: BenchPlace) -> int:
    return len([line for line in moved(place.bench, "red") if line["what"] == "dispense"])


async def test_an_interlock_holds_and_nobody_unholds_while_it_is_violated(
    guarded: CellMaker, place: BenchPlace
) -> None:
    async with guarded("hold", severity="medium") as cell:
        plan = spilling(cell.id)
        await cell.submit(plan)
        held = await cell.run_state(plan["plan_id"], "Held")
        assert "spill" in held["reason"]
        assert drops(place) == 2
        alarm = await alarmed(cell, "unacknowledged")
        assert (alarm["severity"], alarm["source"]) == ("medium", "spill")
        assert "scale.mass_g > 0.02" in alarm["message"]
        for refused in (await cell.command("unhold"), await cell.command("start")):
            assert refused["result"] == "refused"
            assert "spill" in refused["reasons"][0]["message"]
        typed = cell.cli("unhold")
        assert typed.returncode == 1
        assert "spill" in typed.stderr
        assert "spill" in cell.cli("status").stdout
        drifts(place, -0.02)
        await alarmed(cell, "returned_to_normal")
        assert (await cell.command("unhold"))["result"] == "done"
        await cell.run_state(plan["plan_id"], "Complete")
        assert drops(place) == 3


async def test_an_interlock_stops_after_the_running_step(guarded: CellMaker, place: BenchPlace) -> None:
    async with guarded("stop") as cell:
        plan = spilling(cell.id)
        await cell.submit(plan)
        stopped = await cell.run_state(plan["plan_id"], "Stopped")
        assert "spill" in stopped["reason"]
        assert drops(place) == 2
        assert (await documents(cell, plan["plan_id"]))[-1]["doc"]["exit_status"] == "fail"


async def test_an_interlock_aborts_in_the_middle_of_a_movement(guarded: CellMaker, place: BenchPlace) -> None:
    async with guarded("abort") as cell:
        plan = spilling(cell.id)
        await cell.submit(plan)
        aborted = await cell.run_state(plan["plan_id"], "Aborted")
        assert "spill" in aborted["reason"]
        given = place.bench.world()["wells"]["plate-1/A1"]["volume_ul"]
        assert 20 < given < 160
        await cell.state("Aborted")
        assert place.bench.world()["wells"]["plate-1/A1"]["volume_ul"] == given
        for command in ("clear", "reset"):
            assert cell.cli(command).returncode == 0
        await cell.state("Idle")


async def test_a_violated_interlock_keeps_the_queue_waiting(guarded: CellMaker, place: BenchPlace) -> None:
    async with guarded("hold") as cell:
        place.bench.fault("scale", "drift", per_s=0.002)
        await alarmed(cell, "unacknowledged")
        plan = plan_of(cell.id, PRIME, draw(20))
        assert (await cell.submit(plan))["verdict"] == "accepted"
        refused = await cell.command("start")
        assert "spill" in refused["reasons"][0]["message"]
        assert cell.of(f"run/{plan['plan_id']}/status")[-1]["state"] == "Queued"
        assert moved(place.bench, "red") == []
        place.bench.fault("scale", "drift", per_s=-0.005)
        await cell.run_state(plan["plan_id"], "Complete")


async def test_a_peak_shorter_than_for_s_does_nothing(guarded: CellMaker, place: BenchPlace) -> None:
    async with guarded("abort", for_s=60) as cell:
        plan = spilling(cell.id)
        await cell.submit(plan)
        await cell.run_state(plan["plan_id"], "Complete")
        assert not [a for a in cell.of("alarm") if a["id"] == "interlock-spill"]


async def test_a_restart_does_not_forget_a_violation(guarded: CellMaker, place: BenchPlace) -> None:
    async with guarded("hold") as cell:
        plan = spilling(cell.id)
        await cell.submit(plan)
        await cell.run_state(plan["plan_id"], "Held")
        cell.signal(9)
        cell.wait()
        await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})
        seen = len(cell.of("alarm"))
        cell.start()
        await cell.state("Held")
        await cell.until(lambda: any(a["id"] == "interlock-spill" for a in cell.of("alarm")[seen:]))
        assert (await cell.command("unhold"))["result"] == "refused"
        assert drops(place) == 2
