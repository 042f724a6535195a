"""Two things at once, failures inside, and the end and the beginning of a session."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edge.run.machine import Event, NotInThisState, State
from edge.run.progress import ActiveRun
from edge.store.database import StoreError
from edge.store.journal import Journal
from tests.edge.instruments import Bot, Gate, fails, hangs, until
from tests.edge.run.lab import Lab, op, session


async def at_work(lab: Lab, bot: str = "arm", *steps: dict[str, Any]) -> tuple[str, Gate]:
    """A run in the middle of its first step."""
    gate = Gate()
    lab.bots[bot].answers.append(gate)
    plan = await lab.submit(*(steps or (op(id="a"), op(id="b"))))
    await gate.reached.wait()
    return plan, gate


# ---- two things at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Event.STOP, Event.ABORT, Event.HOLD])
async def test_a_command_in_the_very_moment_a_run_ends(tmp_path: Path, event: Event) -> None:
    """Whichever comes first: the run is ended exactly once, and the cell is where the command wants it."""
    for ticks in range(12):
        async with session(tmp_path / str(ticks)) as lab:
            plan, gate = await at_work(lab, "arm", op(id="a"))
            gate.open.set()
            for _ in range(ticks):
                await asyncio.sleep(0)
            try:
                lab.controller.handle(event)
            except NotInThisState:
                assert await lab.ended(plan) == "Complete"
                continue
            if event is Event.HOLD:
                await lab.state(State.HELD)
                lab.controller.handle(Event.UNHOLD)
                assert await lab.ended(plan) == "Complete"
            else:
                await lab.state(State.STOPPED if event is Event.STOP else State.ABORTED)
                assert lab.controller.active is None
                await lab.journal.durable()
                assert lab.journal.unfinished() == []
            stops = [document for document in lab.ears.said if document.name == "stop"]
            assert len(stops) == 1


async def test_the_work_of_one_state_does_not_end_the_next(tmp_path: Path) -> None:
    """The end of a step's work and a command arrive in the same turn of the loop."""
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        drive = lab.controller._work[State.EXECUTE]

        async def ends_and_stops() -> Event | None:
            event = await drive()
            lab.controller.handle(Event.STOP, "just now")
            return event

        lab.controller._work[State.EXECUTE] = ends_and_stops
        plan = await lab.submit(op(id="a"))
        assert await lab.ended(plan) == "Stopped"
        assert lab.controller.active is None
        assert lab.stored(plan) == ("Stopped", "just now")


async def test_a_plan_withdrawn_while_it_is_admitted_does_not_start_another_unadmitted(
    tmp_path: Path,
) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        first, second = await lab.submit(op(id="a")), await lab.submit(op(id="a"))
        asked: list[str] = []
        go = asyncio.Event()

        async def slow(run: ActiveRun) -> str:
            asked.append(run.plan_id)
            if run.plan_id == first:
                await go.wait()
                return "it is not wanted any more"
            return ""

        lab.controller.admit = slow
        lab.take("start")
        await until(lambda: asked == [first])
        assert (await lab.command("cancel", args={"plan_id": first})).result == "done"
        go.set()
        assert await lab.ended(second) == "Complete"
        assert asked == [first, second]
        assert lab.stored(first) == ("Stopped", "cancelled by ann")


async def test_everything_withdrawn_while_the_first_is_admitted(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        plan = await lab.submit(op(id="a"))
        go = asyncio.Event()

        async def slow(run: ActiveRun) -> str:
            await go.wait()
            return ""

        lab.controller.admit = slow
        lab.take("start")
        await asyncio.sleep(0.005)
        await lab.command("cancel", args={"plan_id": plan})
        go.set()
        await asyncio.sleep(0.005)
        assert lab.controller.state is State.IDLE
        assert lab.did("arm") == []


async def test_a_cancel_in_the_moment_of_the_start(tmp_path: Path) -> None:
    for ticks in range(10):
        async with session(tmp_path / str(ticks), autostart=False) as lab:
            await lab.state(State.IDLE)
            plan = await lab.submit(op(id="a"), op(id="b"))
            lab.take("start")
            for _ in range(ticks):
                await asyncio.sleep(0)
            answers = lab.take("cancel", args={"plan_id": plan})
            await lab.answered(answers)
            assert await lab.ended(plan) == ("Stopped" if answers[-1].result == "done" else "Complete")


async def test_a_plan_that_does_not_fit_any_more_is_withdrawn_with_the_reason(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        plan = await lab.submit(op("draw", "pump", id="a", source="trough/A1", volume_ul=100))
        lab.keeper.inventory.wells["trough/A1"] = {"dye": 10.0}
        reply = await lab.command("start")
        assert reply.result == "failed"
        assert "would be overdrawn" in reply.reasons[0].message
        assert await lab.ended(plan) == "Stopped"
        assert "would be overdrawn" in lab.stored(plan)[1]
        await lab.submit(op(id="a"))
        await asyncio.sleep(0.01)
        assert lab.controller.state is State.IDLE, "that start is over"


async def test_a_start_is_over_when_the_cell_goes_elsewhere(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        await lab.submit(op(id="a"))
        blocked: list[str] = []
        lab.controller.blocked = lambda: blocked
        answers = lab.take("start")
        blocked.append("lid-open")
        await until(lambda: answers)
        await lab.command("stop")
        await until(lambda: len(answers) == 2)
        assert answers[1].result == "failed"
        assert "went to Stopping" in answers[1].reasons[0].message
        blocked.clear()
        await lab.command("reset")
        await asyncio.sleep(0.01)
        assert lab.controller.state is State.IDLE


async def test_an_interlock_that_is_violated_lets_nothing_start(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        blocked = ["lid-open"]
        lab.controller.blocked = lambda: blocked
        plan = await lab.submit(op(id="a"))
        await asyncio.sleep(0.01)
        assert lab.controller.state is State.IDLE
        blocked.clear()
        lab.controller.queue_changed()
        assert await lab.ended(plan) == "Complete"


# ---- what goes wrong inside -------------------------------------------------------------------------------


async def test_a_driver_with_a_bug_aborts_the_run_and_not_the_daemon(tmp_path: Path) -> None:
    async def bug(bot: Bot, attempt: Any) -> Any:
        raise KeyError("bug")

    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(bug)
        plan = await lab.submit(op(id="a"))
        assert await lab.ended(plan) == "Aborted"
        assert lab.stored(plan)[1] == "labedge itself failed: 'bug'"
        await lab.state(State.ABORTED)
        await lab.command("clear")
        await lab.command("reset")
        assert await lab.ended(await lab.submit(op(id="a"))) == "Complete"


async def test_a_journal_that_cannot_be_written_moves_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab)

        async def full() -> None:
            raise StoreError("the journal cannot be written (disk full)")

        with monkeypatch.context() as patch:
            patch.setattr(lab.journal, "durable", full)
            gate.open.set()
            await lab.state(State.ABORTED)
        assert lab.did("arm").count("poke") == 1, "no frame without its intent"
        assert "journal" in lab.controller.alarms.standing
        assert await lab.ended(plan) == "Aborted"
        assert "cannot be written" in lab.stored(plan)[1]


async def test_a_plan_that_could_not_be_kept_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)

        async def full() -> None:
            raise StoreError("the journal cannot be written (disk full)")

        with monkeypatch.context() as patch:
            patch.setattr(lab.journal, "durable", full)
            with pytest.raises(StoreError):
                await lab.submit(op(id="a"), plan_id="p")
        assert lab.controller.queue == []
        assert await lab.submit(op(id="a"), plan_id="p") == "p"
        await lab.journal.durable()
        assert [run.plan_id for run in lab.journal.unfinished()] == ["p"]


# ---- the end of a session ---------------------------------------------------------------------------------


async def test_shutting_down_holds_behind_the_running_step(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab)
        ending = asyncio.ensure_future(lab.controller.shut_down(5.0))
        await asyncio.sleep(0.005)
        gate.open.set()
        await ending
        assert lab.controller.state is State.HELD
        assert lab.phases() == [("a", "finished")]
        assert all("halt" in bot.log for bot in lab.bots.values())
        assert lab.stored(plan)[0] == "Held"
    async with session(tmp_path) as lab:
        assert lab.controller.state is State.HELD
        await lab.command("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["poke"]


async def test_shutting_down_stops_a_step_that_takes_too_long(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(hangs)
        plan = await lab.submit(op(id="a"))
        await until(lambda: lab.bots["arm"].moving)
        await lab.controller.shut_down(0.01)
        assert not lab.bots["arm"].moving
        assert lab.stored(plan)[0] in ("Holding", "Held")
    async with session(tmp_path) as lab:
        assert lab.run(plan).steps["a"].state == "in_doubt"


@pytest.mark.parametrize("how", ["idle", "resetting", "between runs"])
async def test_nothing_starts_while_the_daemon_ends(tmp_path: Path, how: str) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        plan, gate = await at_work(lab, "arm", op(id="a"))
        waiting = await lab.submit(op(id="a", device="reader"))
        if how == "between runs":
            gate.open.set()
            await lab.ended(plan)
        else:
            await lab.command("abort")
            await lab.command("clear")
            if how == "resetting":
                lab.take("reset")
        await lab.controller.shut_down(0.05)
        await asyncio.sleep(0.01)
        if how != "between runs":
            assert lab.did("reader") == []
            assert [run.plan_id for run in lab.controller.queue] == [waiting]
        for name in ("unhold", "start", "reset"):
            reply = await lab.command(name)
            assert (reply.result, "shut down" in reply.reasons[0].message) == ("refused", True)
        assert (await lab.verdict(b"{}")).verdict == "rejected"
        verdict = await lab.verdict(_plan("late"))
        assert verdict.reasons[0].message == "the cell is being shut down"


def _plan(plan_id: str) -> dict[str, Any]:
    return {
        "schema": "labedge.plan/1",
        "plan_id": plan_id,
        "cell": "bench-1",
        "steps": [op(id="a")],
    }


async def test_the_drive_ends_when_it_is_told_to_whatever_it_does(tmp_path: Path) -> None:
    for ticks in range(8):
        async with session(tmp_path / str(ticks)) as lab:
            await lab.state(State.IDLE)
            lab.controller.handle(Event.STOP)
            for _ in range(ticks):
                await asyncio.sleep(0)
            lab.drive.cancel()
            await asyncio.wait([lab.drive], timeout=5)
            assert lab.drive.cancelled()


async def test_a_held_cell_is_held_after_a_restart_until_somebody_unholds(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        plan = await lab.submit(op(id="a"))
        await lab.state(State.HELD)
    for _ in range(2):
        async with session(tmp_path) as lab:
            await asyncio.sleep(0.01)
            assert lab.controller.state is State.HELD
            assert lab.did("arm") == []
            assert lab.stored(plan)[0] == "Held"


async def test_a_stopped_cell_stays_stopped_and_an_aborted_one_aborted(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        await lab.command("stop")
    async with session(tmp_path) as lab:
        assert lab.controller.state is State.STOPPED
        await lab.command("abort")
    async with session(tmp_path) as lab:
        assert lab.controller.state is State.ABORTED
        assert lab.controller.remote_locked
        assert isinstance(lab.journal, Journal)


async def test_an_unfinished_run_of_an_aborted_cell_is_ended_with_its_books(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(hangs)
        plan = await lab.submit(op("draw", "pump", id="a", source="trough/A1", volume_ul=100), op(id="b"))
        await until(lambda: lab.bots["pump"].moving)
        lab.journal.set_fact("state", "Aborting")
        await lab.journal.durable()

    async def bury(lab: Lab) -> None:
        (stored,) = lab.journal.unfinished()
        lab.controller.bury(lab.intake.restore(stored), "Aborted", "the cell was aborted")
        await lab.journal.durable()

    async with session(tmp_path, before=bury) as lab:
        assert lab.controller.state is State.ABORTED
        assert lab.stored(plan) == ("Aborted", "the cell was aborted")
        assert lab.phases() == [("a", "in_doubt")]
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(900)
        assert lab.did("pump") == lab.did("arm") == []
