"""What a step comes to, and what that means for its run and its cell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import MosquittoFactory
from tests.system.kit import RunningCell, documents, moved, plan_of, wait_for
from tests.system.rig import (
    LOOK,
    PRIME,
    BenchPlace,
    bench_in,
    daemon,
    draw,
    drop,
    order_of,
    phases,
    red_cell,
)

OVERLOAD = 9


@pytest.fixture
def place(tmp_path: Path) -> Iterator[BenchPlace]:
    with bench_in(tmp_path / "bench") as place:
        yield place


@pytest.fixture
async def cell(place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path) -> AsyncIterator[RunningCell]:
    broker = mosquitto()
    async with daemon(tmp_path, red_cell(place.bench, broker), broker.port) as cell:
        yield cell


def look(step: str = "look", **on_error: Any) -> dict[str, Any]:
    return LOOK | {"id": step} | ({"on_error": on_error} if on_error else {})


def blind(place: BenchPlace, error: int = 1) -> None:
    """The balance reports an error of its own until it is told to report none (0)."""
    place.bench.fault("scale", "error", code=error)


def complaints(place: BenchPlace) -> int:
    """How often a plan has asked the blind balance for a weight at rest (`S`; live readings ask `SI`)."""
    return len([line for line in place.bench.lines("rx", "scale") if line["hex"] == "53 0d 0a"])


async def accepted(cell: RunningCell, *steps: dict[str, Any], **more: Any) -> str:
    plan = plan_of(cell.id, *steps, **more)
    verdict = await cell.submit(plan)
    assert verdict["verdict"] == "accepted", verdict
    return str(plan["plan_id"])


async def attempts(cell: RunningCell, plan_id: str, step: str) -> int:
    events = [d["doc"]["data"] for d in await documents(cell, plan_id) if d["name"] == "event"]
    return int(next(e["attempts"] for e in events if e.get("execution") == step and "attempts" in e))


async def waiting(cell: RunningCell, plan_id: str, step: str) -> str:
    """The run is Held because of this step: why."""

    def there() -> Any:
        status = cell.of(f"run/{plan_id}/status")[-1:]
        return status and status[0]["state"] == "Held" and status[0]["waiting_for"]

    (found,) = await cell.until(there)
    assert found["step"] == step
    return str(found["text"])


async def test_a_step_that_fails_is_tried_as_often_as_it_says(cell: RunningCell, place: BenchPlace) -> None:
    blind(place)
    plan_id = await accepted(cell, look(retry=2, backoff_s=0.05, then="continue"), PRIME)
    await cell.run_state(plan_id, "Complete")
    assert await attempts(cell, plan_id, "look") == 3
    assert phases(await documents(cell, plan_id)) == [("look", "failed"), ("prime", "finished")]


async def test_a_retry_after_the_trouble_is_over_finishes_the_step(
    cell: RunningCell, place: BenchPlace
) -> None:
    blind(place)
    plan_id = await accepted(cell, look(retry=100, backoff_s=0.1))
    wait_for(lambda: complaints(place) >= 2)
    blind(place, 0)
    await cell.run_state(plan_id, "Complete")
    assert await attempts(cell, plan_id, "look") >= 2
    assert phases(await documents(cell, plan_id)) == [("look", "finished")]


async def test_then_hold_waits_for_a_person(cell: RunningCell, place: BenchPlace) -> None:
    blind(place)
    plan_id = await accepted(cell, look(), PRIME)
    assert "error 1" in await waiting(cell, plan_id, "look")
    alarm = await cell.until(lambda: [a for a in cell.of("alarm") if a["id"] == "run-held"])
    assert "look" in alarm[0]["message"]
    blind(place, 0)
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan_id, "Complete")
    await cell.until(
        lambda: [a["state"] for a in cell.of("alarm") if a["id"] == "run-held"][-1:] == ["returned_to_normal"]
    )
    assert phases(await documents(cell, plan_id)) == [("look", "finished"), ("prime", "finished")]


@pytest.mark.parametrize(
    ("then", "final", "exit_status"), [("stop", "Stopped", "fail"), ("abort", "Aborted", "abort")]
)
async def test_then_stop_and_then_abort_end_the_run(
    cell: RunningCell, place: BenchPlace, then: str, final: str, exit_status: str
) -> None:
    blind(place)
    plan_id = await accepted(cell, look(then=then), PRIME, draw())
    ended = await cell.run_state(plan_id, final)
    assert "look" in ended["reason"]
    found = await documents(cell, plan_id)
    assert found[-1]["doc"]["exit_status"] == exit_status
    assert "look" in found[-1]["doc"]["reason"]
    assert phases(found) == [("look", "failed")]
    assert moved(place.bench, "red") == []
    await cell.state(final)


async def test_then_skip_takes_along_what_depends_on_it_and_nothing_else(
    cell: RunningCell, place: BenchPlace
) -> None:
    blind(place)
    plan_id = await accepted(
        cell,
        PRIME,
        look(then="skip"),
        draw({"$": "look.mass_g * 1000"}, "first"),
        draw({"$": "first.volume_ul + 1"}, "second"),
        draw(20, "third"),
    )
    status = await cell.run_state(plan_id, "Complete")
    assert (status["steps"]["skipped"], status["steps"]["finished"]) == (3, 2)
    assert phases(await documents(cell, plan_id)) == [
        ("prime", "finished"),
        ("look", "skipped"),
        ("first", "skipped"),
        ("second", "skipped"),
        ("third", "finished"),
    ]
    assert len(moved(place.bench, "red")) == 1


async def test_after_continue_whoever_reads_the_missing_result_fails(
    cell: RunningCell, place: BenchPlace
) -> None:
    blind(place)
    plan_id = await accepted(
        cell,
        PRIME,
        look(then="continue"),
        draw({"$": "look.mass_g * 1000"}, "first", on_error={"then": "continue"}),
        draw({"$": "look.mass_g * 1000"}, "second"),
    )
    text = await waiting(cell, plan_id, "second")
    assert "look" in text
    assert "failed" in text
    assert (await cell.command("stop"))["result"] == "done"
    assert phases(await documents(cell, plan_id)) == [
        ("prime", "finished"),
        ("look", "failed"),
        ("first", "failed"),
        ("second", "failed"),
    ]
    assert moved(place.bench, "red") == []


async def test_a_step_that_takes_too_long_stops_its_device_and_is_settled(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan_id = await accepted(cell, PRIME, draw(900, speed_ul_s=5, timeout_s=0.6), LOOK)
    text = await waiting(cell, plan_id, "draw")
    assert "stands at" in text
    stood = place.bench.world()["instruments"]["red"]
    held = 40_000 - place.bench.world()["wells"]["reservoir/A1"]["volume_ul"]
    assert 5 < held < 800
    done = cell.cli("resolve", plan_id, "draw", "--as", "failed")
    assert done.returncode == 0, done.stderr
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan_id, "Complete")
    assert place.bench.world()["instruments"]["red"] == stood
    assert ("draw", "failed") in phases(await documents(cell, plan_id))


async def test_a_plunger_that_is_stuck_is_a_failure_and_not_repeated(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan_id = await accepted(
        cell, PRIME, draw(100, speed_ul_s=10, on_error={"retry": 3, "then": "hold"}), LOOK
    )
    wait_for(lambda: place.bench.world()["wells"]["reservoir/A1"]["volume_ul"] < 39_995)
    place.bench.fault("red", "stuck")
    text = await waiting(cell, plan_id, "draw")
    assert "overload" in text
    assert (await cell.command("unhold"))["result"] == "done"
    await waiting(cell, plan_id, "draw")
    done = cell.cli("resolve", plan_id, "draw", "--as", "failed")
    assert done.returncode == 0, done.stderr
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan_id, "Complete")
    assert await attempts(cell, plan_id, "draw") == 1


async def test_an_error_code_of_the_pump_reaches_the_technician_in_words(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan_id = await accepted(cell, PRIME, draw(100, speed_ul_s=10), LOOK)
    wait_for(lambda: place.bench.world()["wells"]["reservoir/A1"]["volume_ul"] < 39_995)
    place.bench.fault("red", "error", code=OVERLOAD)
    text = await waiting(cell, plan_id, "draw")
    assert "plunger" in text
    status = cell.cli("status").stdout
    assert f"labedge resolve {plan_id} draw --as" in status


async def test_a_volume_may_come_from_an_earlier_reading(cell: RunningCell, place: BenchPlace) -> None:
    plan_id = await accepted(
        cell, PRIME, draw(60), drop(60), LOOK, draw({"$": "round(look.mass_g * 1000) / 2"}, "half")
    )
    await cell.run_state(plan_id, "Complete")
    drawn = 40_000 - place.bench.world()["wells"]["reservoir/A1"]["volume_ul"]
    assert drawn == pytest.approx(60 + 30, abs=1.5)


async def test_a_value_that_cannot_be_at_run_time_holds_with_the_reason(
    cell: RunningCell, place: BenchPlace
) -> None:
    plan_id = await accepted(cell, PRIME, LOOK, draw({"$": "look.mass_g - 5"}))
    text = await waiting(cell, plan_id, "draw")
    assert "volume_ul" in text
    assert (await cell.command("unhold"))["result"] == "done"
    await waiting(cell, plan_id, "draw")
    assert (await cell.command("cancel", plan_id=plan_id))["result"] == "done"
    await cell.run_state(plan_id, "Stopped")
    assert moved(place.bench, "red") == []


async def test_what_has_expired_in_the_queue_does_not_start(cell: RunningCell, place: BenchPlace) -> None:
    first = await accepted(cell, PRIME, draw(200, speed_ul_s=5))
    late = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    second = await accepted(cell, PRIME | {"id": "late"}, expires_at=late)
    await cell.run_state(first, "Complete")
    stopped = await cell.run_state(second, "Stopped")
    assert "expired" in stopped["reason"]
    found = await documents(cell, second)
    assert [d["name"] for d in found] == ["start", "stop"]


async def test_the_queue_is_served_by_priority_then_arrival(cell: RunningCell) -> None:
    assert (await cell.command("stop"))["result"] == "done"
    names = {
        await accepted(cell, PRIME, priority=priority): name
        for name, priority in (("low", -1), ("first", 0), ("urgent", 5), ("second", 0))
    }
    assert (await cell.command("reset"))["result"] == "done"
    for plan_id in names:
        await cell.run_state(plan_id, "Complete")
    begun = [
        names[topic.split("/")[-2]]
        for topic, payload, _ in cell.messages
        if topic.endswith("/documents") and payload["name"] == "start"
    ]
    assert begun == ["urgent", "first", "second", "low"]


async def test_a_queued_and_an_active_plan_can_be_cancelled(cell: RunningCell, place: BenchPlace) -> None:
    active = await accepted(cell, PRIME, draw(100, "one", speed_ul_s=10), draw(100, "two", speed_ul_s=10))
    queued = await accepted(cell, PRIME)
    assert (await cell.command("cancel", plan_id=queued))["result"] == "done"
    assert "cancelled by test" in (await cell.run_state(queued, "Stopped"))["reason"]
    wait_for(lambda: place.bench.world()["wells"]["reservoir/A1"]["volume_ul"] < 39_995)
    assert (await cell.command("cancel", plan_id=active))["result"] == "done"
    await cell.run_state(active, "Stopped")
    assert len(moved(place.bench, "red")) == 1
    again = await cell.command("cancel", plan_id=active)
    assert again["result"] == "refused"
    assert active in again["reasons"][0]["message"]


async def test_without_autostart_a_plan_waits_for_start(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with daemon(tmp_path, red_cell(place.bench, broker, autostart=False), broker.port) as cell:
        refused = await cell.command("start")
        assert refused["result"] == "refused"
        assert "no plan" in refused["reasons"][0]["message"]
        plan_id = await accepted(cell, PRIME)
        assert cell.of("cell/status")[-1]["state"] == "Idle"
        assert (await cell.command("start"))["result"] == "done"
        await cell.run_state(plan_id, "Complete")
        await cell.state("Complete")
        second = await accepted(cell, PRIME)
        assert (await cell.command("reset"))["result"] == "done"
        assert cell.of(f"run/{second}/status")[-1]["state"] == "Queued"
        assert (await cell.command("start"))["result"] == "done"
        await cell.run_state(second, "Complete")


async def test_a_hold_ends_the_wait_before_a_retry(cell: RunningCell, place: BenchPlace) -> None:
    blind(place)
    plan_id = await accepted(cell, look(retry=1, backoff_s=3000, then="stop"))
    wait_for(lambda: complaints(place))
    held = await cell.command("hold", timeout_s=8)
    assert held["result"] == "done"
    blind(place, 0)
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan_id, "Complete")


@pytest.mark.parametrize("command", ["suspend", "unsuspend", "answer", "do", "mode", "dance", "done"])
async def test_commands_that_do_not_exist_are_refused_with_a_sentence(
    cell: RunningCell, command: str
) -> None:
    answer = await cell.command(command)
    assert answer["result"] == "refused"
    assert len(answer["reasons"][0]["message"].split()) > 4
    assert order_of(command, cell.id)["command"] == command


async def test_a_live_reading_of_a_device_in_trouble_is_not_used(
    cell: RunningCell, place: BenchPlace
) -> None:
    await cell.until(lambda: cell.of("telemetry/scale"))
    blind(place)
    alarm = await cell.until(lambda: [a for a in cell.of("alarm") if a["id"] == "device-scale"])
    assert "error 1" in alarm[0]["message"]
    assert cell.of("cell/status")[-1]["devices"]["scale"]["state"] in ("ready", "busy")
    plan_id = await accepted(cell, PRIME, draw({"$": "20 + scale.mass_g"}))
    assert "scale.mass_g" in await waiting(cell, plan_id, "draw")
    blind(place, 0)
    await cell.until(lambda: cell.of("cell/status")[-1]["devices"]["scale"]["reason"] == "")
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan_id, "Complete")
