"""The daemon, the bench or the power goes away in the middle: nothing that moves is repeated or skipped."""

from __future__ import annotations

import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import MosquittoFactory
from tests.system.kit import RunningCell, documents, moved, plan_of, wait_for
from tests.system.rig import (
    LOOK,
    PRIME,
    BenchPlace,
    all_ready,
    bench_in,
    daemon,
    draw,
    drop,
    full_bench,
    full_cell,
    gapless,
    kill,
    phases,
    red_cell,
    revive,
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[BenchPlace]:
    with bench_in(tmp_path / "bench") as place:
        yield place


@pytest.fixture
async def cell(place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path) -> AsyncIterator[RunningCell]:
    broker = mosquitto()
    async with daemon(tmp_path, red_cell(place.bench, broker), broker.port) as cell:
        yield cell


def drawn(place: BenchPlace) -> float:
    return 40_000 - float(place.bench.world()["wells"]["reservoir/A1"]["volume_ul"])


async def begun(cell: RunningCell, place: BenchPlace, plan: dict[str, Any], ul: float = 5) -> None:
    """The plan is submitted and the plunger has drawn something."""
    assert (await cell.submit(plan))["verdict"] == "accepted"
    wait_for(lambda: drawn(place) > ul)


def order(place: BenchPlace) -> list[str]:
    return [line["what"] for line in moved(place.bench, "red")]


def _moved_times(place: BenchPlace, count: int) -> bool:
    return len(order(place)) >= count


async def test_killed_in_mid_aspirate_the_pump_is_asked_and_nothing_moves_twice(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan = plan_of(cell.id, PRIME, draw(300, speed_ul_s=10), drop(300), LOOK)
    await begun(cell, place, plan)
    await kill(cell)
    await revive(cell)
    held = await cell.run_state(plan["plan_id"], "Held")
    assert "restarted" in held["reason"]
    assert held["steps"]["in_doubt"] == 1
    assert held["current"] == ["draw"]
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert order(place) == ["aspirate", "dispense"]
    assert drawn(place) == pytest.approx(300, abs=0.4)
    assert place.bench.world()["wells"]["plate-1/A1"]["volume_ul"] == pytest.approx(300, abs=0.4)
    found = await documents(cell, plan["plan_id"])
    assert gapless(found)
    assert phases(found) == [(name, "finished") for name in ("prime", "draw", "drop", "look")]
    assert found[-1]["doc"]["exit_status"] == "success"


async def test_killed_again_and_again_every_movement_happens_once_and_in_order(
    cell: RunningCell, place: BenchPlace
) -> None:
    pairs = [(draw(20, f"draw{n}", speed_ul_s=20), drop(20, f"drop{n}")) for n in range(5)]
    plan = plan_of(cell.id, PRIME, *(step for pair in pairs for step in pair))
    await cell.submit(plan)
    for count in (1, 4, 7):
        wait_for(partial(_moved_times, place, count))
        await kill(cell)
        await revive(cell)
        await cell.run_state(plan["plan_id"], "Held")
        assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert order(place) == ["aspirate", "dispense"] * 5
    found = await documents(cell, plan["plan_id"])
    assert gapless(found)
    assert len(phases(found)) == 11
    inventory = cell.of("cell/inventory")[-1]["labware"]
    assert inventory["plate-1"]["wells"]["A1"]["volume_ul"] == pytest.approx(100, abs=0.1)


async def test_an_outcome_whose_step_record_was_cut_off_is_not_done_again(
    cell: RunningCell, place: BenchPlace, tmp_path: Path
) -> None:
    """A group commit may end between the outcome of an attempt and what the run makes of it."""
    slow = draw(100, "second", speed_ul_s=10)
    plan = plan_of(cell.id, PRIME, draw(100, "first"), slow, drop(150))
    await begun(cell, place, plan, ul=105)
    await kill(cell)
    with sqlite3.connect(tmp_path / "state" / "journal.db") as journal:
        cut = journal.execute(
            "DELETE FROM journal WHERE kind = 'step' AND CAST(body AS TEXT) LIKE '%\"first\"%finished%'"
        ).rowcount
    assert cut == 1
    await revive(cell)
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert order(place) == ["aspirate", "aspirate", "dispense"]
    assert drawn(place) == pytest.approx(200, abs=0.5)


async def test_a_failed_step_still_waits_for_its_answer_after_a_crash(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan = plan_of(cell.id, PRIME, draw(300, speed_ul_s=10), drop(50))
    await begun(cell, place, plan)
    place.bench.fault("red", "stuck")
    held = await cell.run_state(plan["plan_id"], "Held")
    assert held["waiting_for"][0]["kind"] == "failed"
    before = drawn(place)
    await kill(cell)
    await revive(cell)
    await cell.command("unhold")
    await cell.until(lambda: cell.of(f"run/{plan['plan_id']}/status")[-1]["waiting_for"])
    again = await cell.run_state(plan["plan_id"], "Held")
    assert (again["waiting_for"][0]["step"], again["waiting_for"][0]["kind"]) == ("draw", "failed")
    assert drawn(place) == before
    assert len(order(place)) == 1


async def test_an_answer_given_before_a_crash_still_counts(cell: RunningCell, place: BenchPlace) -> None:
    plan = plan_of(cell.id, PRIME, draw(300, speed_ul_s=10), LOOK)
    await begun(cell, place, plan)
    place.bench.fault("red", "stuck")
    await cell.run_state(plan["plan_id"], "Held")
    answer = {"plan_id": plan["plan_id"], "step": "draw", "as": "finished"}
    assert (await cell.command("resolve", **answer))["result"] == "done"
    await kill(cell)
    await revive(cell)
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert len(order(place)) == 1


async def test_killed_while_held_between_steps_it_goes_on_behind_the_last_one(
    cell: RunningCell, place: BenchPlace
) -> None:
    steps = [draw(40, f"draw{n}", speed_ul_s=20) for n in range(3)]
    plan = plan_of(cell.id, PRIME, *steps)
    await begun(cell, place, plan)
    assert (await cell.command("hold"))["result"] == "done"
    count = len(order(place))
    await kill(cell)
    await revive(cell)
    held = await cell.run_state(plan["plan_id"], "Held")
    assert (held["steps"]["finished"], held["steps"]["in_doubt"]) == (count + 1, 0)
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert order(place) == ["aspirate"] * 3


@pytest.mark.parametrize(("recovery", "final"), [("resume", "Complete"), ("stop", "Stopped")])
async def test_recovery_after_a_crash(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path, recovery: str, final: str
) -> None:
    broker = mosquitto()
    file = red_cell(place.bench, broker, recovery=recovery)
    async with daemon(tmp_path, file, broker.port) as cell:
        plan = plan_of(cell.id, PRIME, draw(200, speed_ul_s=10), drop(100))
        await begun(cell, place, plan)
        await kill(cell)
        cell.start()
        await cell.run_state(plan["plan_id"], final)
        found = await documents(cell, plan["plan_id"])
        assert gapless(found)
        assert order(place) == (["aspirate", "dispense"] if final == "Complete" else ["aspirate"])
        await cell.state("Idle" if final == "Complete" else "Stopped")


@pytest.mark.parametrize("end", ["operator", "sigterm"])
async def test_what_a_person_has_held_is_not_resumed_by_a_restart(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path, end: str
) -> None:
    """Somebody may have their hands in the cell."""
    broker = mosquitto()
    async with daemon(tmp_path, red_cell(place.bench, broker, recovery="resume"), broker.port) as cell:
        plan = plan_of(cell.id, PRIME, draw(40, speed_ul_s=20), drop(20), drop(20, "again"))
        await begun(cell, place, plan)
        if end == "operator":
            assert (await cell.command("hold"))["result"] == "done"
            await kill(cell)
        else:
            cell.signal(signal.SIGTERM)
            assert cell.wait() == 0
            await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})
        count = len(order(place))
        await revive(cell)
        await all_ready(cell)
        assert cell.of(f"run/{plan['plan_id']}/status")[-1]["state"] == "Held"
        assert len(order(place)) == count
        assert (await cell.command("unhold"))["result"] == "done"
        await cell.run_state(plan["plan_id"], "Complete")
        assert order(place) == ["aspirate", "dispense", "dispense"]


@pytest.mark.parametrize("answer", ["finished", "repeat", "failed"])
async def test_a_bench_that_lost_its_power_leaves_the_step_to_a_person(
    cell: RunningCell, place: BenchPlace, answer: str
) -> None:
    last = drop(30) if answer == "finished" else LOOK
    plan = plan_of(cell.id, PRIME, draw(500, speed_ul_s=10), last)
    await begun(cell, place, plan)
    place.restart()
    held = await cell.run_state(plan["plan_id"], "Held")
    waiting = held["waiting_for"][0]
    assert (waiting["step"], waiting["kind"]) == ("draw", "in_doubt")
    alarm = await cell.until(lambda: next((a for a in cell.of("alarm") if a["id"] == "run-held"), None))
    assert "draw" in alarm["message"]
    done = cell.cli("resolve", plan["plan_id"], "nothing", "--as", answer)
    assert done.returncode == 1
    assert "draw" in done.stderr
    done = cell.cli("resolve", plan["plan_id"], "draw", "--as", answer)
    assert done.returncode == 0, done.stderr
    await all_ready(cell)
    assert (await cell.command("unhold"))["result"] == "done"
    if answer == "failed":
        await cell.run_state(plan["plan_id"], "Complete")
        assert ("draw", "failed") in phases(await documents(cell, plan["plan_id"]))
        return
    # The pump has to be initialised after its power cut: whoever repeats or goes on is told so.
    held = await cell.run_state(plan["plan_id"], "Held")
    assert "initialise" in held["waiting_for"][0]["text"]
    assert held["waiting_for"][0]["step"] == ("drop" if answer == "finished" else "draw")
    assert (await cell.command("stop"))["result"] == "done"


async def test_a_second_daemon_on_the_same_state_is_refused(cell: RunningCell) -> None:
    second = cell.cli("run", str(cell.file))
    assert second.returncode == 1
    assert "another labedge daemon already uses" in second.stderr
    assert "Traceback" not in second.stderr
    assert cell.cli("status").returncode == 0


async def test_a_pump_with_another_serial_number_is_refused_and_never_moved(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    file = red_cell(place.bench, broker)
    file["devices"]["red"]["identity"] = "SN 4711"
    running = RunningCell(tmp_path, file, broker.port)
    running.start()
    try:
        async with running.connected():
            await running.until(
                lambda: any(
                    s.get("devices", {}).get("red", {}).get("state") == "refused"
                    for s in running.of("cell/status")
                )
            )
            alarm = await running.until(lambda: running.of("alarm"))
            assert "SN 4711" in alarm[0]["message"]
            assert "SN 1001" in alarm[0]["message"]
            await running.state("Idle")
            plan = plan_of(running.id, PRIME | {"on_error": {"then": "stop"}})
            await running.submit(plan)
            stopped = await running.run_state(plan["plan_id"], "Stopped")
            assert "SN 4711" in stopped["reason"]
            assert place.bench.lines("action", "red") == []
    finally:
        running.stop()


async def test_a_run_whose_device_left_the_cell_file_is_not_resumed_by_guess(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan = plan_of(cell.id, PRIME, draw(40, speed_ul_s=20), LOOK, drop(20), drop(20, "again"))
    await begun(cell, place, plan)
    assert (await cell.command("hold"))["result"] == "done"
    await kill(cell)
    scale = cell.cell["devices"].pop("scale")
    cell.start()
    assert cell.wait() == 1
    said = cell.log.read_text()
    assert plan["plan_id"] in said
    assert "scale" in said
    assert "Traceback" not in said
    cell.cell["devices"]["scale"] = scale
    await revive(cell)
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert order(place) == ["aspirate", "dispense", "dispense"]


CARRY = {
    "id": "carry",
    "device": "arm",
    "operation": "move_labware",
    "args": {"labware": "plate-1", "to": "reader"},
}
READ = {
    "id": "read",
    "device": "reader",
    "operation": "scan",
    "args": {"well": "plate-1/A1", "wavelengths_nm": list(range(400, 700, 20))},
    "record": True,
}


@pytest.mark.parametrize("where", ["arm", "reader"])
async def test_killed_while_the_arm_carries_or_the_photometer_reads(
    mosquitto: MosquittoFactory, tmp_path: Path, where: str
) -> None:
    broker = mosquitto()
    with bench_in(tmp_path / "bench", full_bench()) as place:
        bench = place.bench
        async with daemon(tmp_path, full_cell(bench.addresses, broker.url), broker.port) as cell:
            power = {"id": "power", "device": "arm", "operation": "initialize"}
            plan = plan_of(cell.id, power, CARRY, READ)
            assert (await cell.submit(plan))["verdict"] == "accepted"
            if where == "arm":
                wait_for(lambda: bench.world()["labware"]["plate-1"]["at"] is None)
            else:
                wait_for(lambda: bench.world()["instruments"]["reader"]["running"])
            await kill(cell)
            await revive(cell)
            assert (await cell.command("unhold"))["result"] == "done"
            await cell.run_state(plan["plan_id"], "Complete")
            places = [line for line in bench.lines("action", "arm") if line["what"] == "place"]
            assert len(places) == 1
            assert bench.world()["labware"]["plate-1"]["at"] == "reader"
            found = await documents(cell, plan["plan_id"])
            assert gapless(found)
            assert phases(found) == [(name, "finished") for name in ("power", "carry", "read")]


async def test_a_journal_that_cannot_be_written_stops_everything_and_an_abort_is_still_obeyed(
    cell: RunningCell, place: BenchPlace, tmp_path: Path
) -> None:
    plan = plan_of(cell.id, PRIME, draw(300, speed_ul_s=10), drop(20))
    await begun(cell, place, plan)
    assert cell._process is not None
    # A disk that is full, as far as this process can see.
    full = max(file.stat().st_size for file in (tmp_path / "state").iterdir())
    resource.prlimit(cell._process.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    await cell.state("Aborted")
    assert "journal" in cell.cli("status").stdout
    assert order(place) == ["aspirate"]
    for _ in range(2):
        aborted = cell.cli("abort")
        assert aborted.returncode == 0, aborted.stderr
    resource.prlimit(
        cell._process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    cell.stop()
    assert "Traceback" not in cell.log.read_text()
    cell.start()
    await cell.state("Aborted")


async def test_a_plate_that_the_cell_file_has_replaced_is_gone_from_the_books(
    cell: RunningCell, place: BenchPlace
) -> None:
    first = plan_of(cell.id, PRIME, draw(60), drop(60), draw(30, "left"))
    await cell.submit(first)
    await cell.run_state(first["plan_id"], "Complete")
    cell.stop()
    await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})
    labware = cell.cell["labware"]
    labware["plate-2"] = labware.pop("plate-1")
    cell.cell["devices"].pop("blue")
    await revive(cell, "Idle")
    inventory = await cell.until(
        lambda: "plate-2" in cell.of("cell/inventory")[-1]["labware"] and cell.of("cell/inventory")[-1]
    )
    assert inventory["labware"]["plate-2"] == {"type": "sbs-96", "at": "nest-1", "wells": {}}
    assert inventory["labware"]["reservoir"]["wells"]["A1"]["volume_ul"] == pytest.approx(39_910, abs=1)
    assert inventory["vessels"]["red"]["volume_ul"] == pytest.approx(30, abs=1)
    assert "blue" not in inventory["vessels"]
    second = plan_of(cell.id, drop(30) | {"args": {"target": "plate-2/A1", "volume_ul": 30}})
    assert (await cell.submit(second))["verdict"] == "accepted"
    await cell.run_state(second["plan_id"], "Complete")
