"""The cell's states and what is done in them; and what happens when two things happen at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from drivers.errors import Lost
from edge.run import devices
from edge.run.machine import State
from tests.edge.instruments import Bot, Gate, hangs, until
from tests.edge.run.lab import Lab, op, session


async def at_work(lab: Lab, bot: str = "arm", *steps: dict[str, Any]) -> tuple[str, Gate]:
    """A run in the middle of its first step."""
    gate = Gate()
    lab.bots[bot].answers.append(gate)
    plan = await lab.submit(*(steps or (op(id="a"), op(id="b"))))
    await gate.reached.wait()
    return plan, gate


# ---- the ordinary way -------------------------------------------------------------------------------------


async def test_a_boot_prepares_the_devices_and_waits_for_plans(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        assert all("prepare" in bot.log for bot in lab.bots.values())


async def test_the_states_of_a_run(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan = await lab.submit(op(id="a"))
        assert await lab.ended(plan) == "Complete"
        await lab.state(State.IDLE)
        assert [state for run, state in lab.ears.runs if run == plan] == [
            "Queued",
            "Starting",
            "Execute",
            "Completing",
            "Complete",
        ]
        assert [document.name for document in lab.ears.said] == ["start", "descriptor", "event", "stop"]
        assert lab.ears.said[0].doc["plan_id"] == plan


async def test_without_autostart_the_head_waits_for_start_and_complete_for_reset(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        first, second = await lab.submit(op(id="a")), await lab.submit(op(id="a"))
        await asyncio.sleep(0.01)
        assert lab.controller.state is State.IDLE
        assert (await lab.command("start")).result == "done"
        assert await lab.ended(first) == "Complete"
        await lab.state(State.COMPLETE)
        assert (await lab.command("start")).result == "refused"
        assert (await lab.command("reset")).result == "done"
        await asyncio.sleep(0.01)
        assert lab.controller.state is State.IDLE, "the first start has been used up"
        assert [run.plan_id for run in lab.controller.queue] == [second]


async def test_the_queue_goes_by_priority_then_arrival(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        _, gate = await at_work(lab)
        for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 5), ("third", 0)):
            await lab.submit(op(id="a", device="reader"), plan_id=name, priority=priority)
        assert [run.plan_id for run in lab.controller.queue] == ["high", "first", "second", "third", "low"]
        gate.open.set()
        await lab.ended("low")
        started = [run for run, state in lab.ears.runs if state == "Starting"][1:]
        assert started == ["high", "first", "second", "third", "low"]


async def test_a_queue_survives_a_restart(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        for name, priority in (("a", 0), ("b", 3), ("c", 0)):
            await lab.submit(op(), plan_id=name, priority=priority)
    async with session(tmp_path, autostart=False) as lab:
        assert [run.plan_id for run in lab.controller.queue] == ["b", "a", "c"]


# ---- hold, stop, abort ------------------------------------------------------------------------------------


async def test_hold_is_done_when_the_step_has_ended(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab)
        answers = lab.take("hold")
        await until(lambda: answers)
        await asyncio.sleep(0.01)
        assert [reply.result for reply in answers] == ["accepted"]
        assert lab.controller.state is State.HOLDING
        gate.open.set()
        await until(lambda: len(answers) == 2)
        assert answers[1].result == "done"
        assert lab.phases() == [("a", "finished")]
        await asyncio.sleep(0.01)
        assert lab.did("arm") == ["poke"], "nothing begins while it is held"
        assert (await lab.command("unhold")).result == "done"
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["poke", "poke"]


async def test_hold_in_the_last_step_completes_after_unhold(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab, "arm", op(id="a"))
        answers = lab.take("hold")
        gate.open.set()
        await until(lambda: len(answers) == 2)
        assert lab.controller.state is State.HELD
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"


async def test_hold_ends_a_pause_between_attempts(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].absent = Lost("no port", sent=False)
        await lab.submit(op(id="a", on_error={"retry": 1, "backoff_s": 3600}))
        await until(lambda: lab.controller.active and lab.controller.active.steps["a"].reason)
        assert (await lab.command("hold")).result == "done"
        assert (await lab.command("stop")).result == "done"


async def test_stop_lets_the_running_step_end_and_begins_no_other(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab)
        answers = lab.take("stop")
        await asyncio.sleep(0.01)
        assert lab.controller.state is State.STOPPING
        gate.open.set()
        await until(lambda: len(answers) == 2)
        assert answers[1].result == "done"
        assert await lab.ended(plan) == "Stopped"
        assert lab.did("arm") == ["poke"]
        assert lab.phases() == [("a", "finished")]
        assert lab.stored(plan)[1] == "stop by ann"
        assert lab.ears.said[-1].doc["exit_status"] == "fail"
        assert (await lab.command("reset")).result == "done"


async def test_stop_from_held(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab)
        lab.take("hold")
        gate.open.set()
        await lab.state(State.HELD)
        assert (await lab.command("stop")).result == "done"
        assert await lab.ended(plan) == "Stopped"
        assert lab.did("arm") == ["poke"]


async def reach(lab: Lab, state: State) -> None:
    """Bring the cell into a state, as it comes there in life."""
    await lab.state(State.IDLE)
    if state is State.IDLE:
        return
    if state in (State.STOPPED, State.RESETTING):
        await lab.command("stop")
        if state is State.RESETTING:
            lab.take("reset")
        return
    if state is State.COMPLETE:
        await lab.submit(op(id="a"))
        await lab.state(State.COMPLETE)
        return
    _, gate = await at_work(lab)
    if state in (State.HOLDING, State.HELD, State.UNHOLDING):
        lab.take("hold")
    if state in (State.HELD, State.UNHOLDING):
        gate.open.set()
        await lab.state(State.HELD)
    if state is State.UNHOLDING:
        lab.take("unhold")
    if state is State.STOPPING:
        lab.take("stop")
    if state in (State.ABORTING, State.ABORTED, State.CLEARING):
        lab.take("abort")
    if state in (State.ABORTED, State.CLEARING):
        await lab.state(State.ABORTED)
    if state is State.CLEARING:
        lab.take("clear")


@pytest.mark.parametrize(
    "state",
    [
        State.STOPPED,
        State.RESETTING,
        State.IDLE,
        State.EXECUTE,
        State.COMPLETE,
        State.HOLDING,
        State.HELD,
        State.UNHOLDING,
        State.STOPPING,
        State.ABORTING,
        State.ABORTED,
        State.CLEARING,
    ],
)
async def test_abort_in_every_state(tmp_path: Path, state: State) -> None:
    async with session(tmp_path, autostart=state is not State.COMPLETE) as lab:
        if state is State.COMPLETE:
            await lab.state(State.IDLE)
            lab.controller.want_start()
        await reach(lab, state)
        assert lab.controller.state is state
        for bot in lab.bots.values():
            bot.log.clear()
        answers = lab.take("abort", local=False)
        assert all("halt" in bot.log for bot in lab.bots.values()), "before anything else happens"
        await until(lambda: len(answers) == 2)
        assert [reply.result for reply in answers] == ["accepted", "done"]
        assert lab.controller.state is State.ABORTED
        assert lab.controller.active is None
        assert lab.controller.remote_locked
        await lab.journal.durable()
        assert lab.journal.fact("state", str) == "Aborted"
        assert lab.journal.unfinished() == []


async def test_abort_stops_the_step_at_once_and_confirms(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        bot = lab.bots["arm"]
        bot.answers.append(hangs)
        plan = await lab.submit(op(id="a"), op(id="b"))
        await until(lambda: bot.moving)
        assert (await lab.command("abort")).result == "done"
        assert not bot.moving
        assert bot.log.index("halt") < bot.log.index("halted")
        assert await lab.ended(plan) == "Aborted"
        assert lab.ears.said[-1].doc["exit_status"] == "abort"
        assert lab.controller.alarms.standing == {}


async def test_a_device_that_goes_on_moving_is_told_and_the_others_are_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def short(device: Bot) -> str:
        return "" if await device.halted() else "it still moves"

    monkeypatch.setattr(devices, "confirm", short)
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)

        def deaf() -> None:
            raise OSError("no line")

        def blind() -> None:
            lab.bots["pump"].moving = True

        monkeypatch.setattr(lab.bots["arm"], "halt", deaf)
        monkeypatch.setattr(lab.bots["pump"], "halt", blind)
        assert (await lab.command("abort")).result == "done"
        assert set(lab.controller.alarms.standing) == {"stop-arm", "moving-pump"}
        assert "halt" in lab.bots["reader"].log
        lab.bots["pump"].moving = False
        await lab.command("clear")
        assert lab.controller.alarms.standing == {}


async def test_a_driver_that_fails_when_it_is_asked_does_not_keep_the_cell_from_aborting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)

        async def broken() -> bool:
            raise KeyError("bug")

        monkeypatch.setattr(lab.bots["arm"], "halted", broken)
        assert (await lab.command("abort")).result == "done"
        assert "its driver failed" in lab.controller.alarms.standing["moving-arm"].message
        assert (await lab.command("clear")).result == "done"

        monkeypatch.setattr(lab.bots["arm"], "prepare", broken)
        assert (await lab.command("reset")).result == "done"


async def test_hammering_the_button_is_one_abort(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        bot = lab.bots["arm"]
        plan, _ = await at_work(lab)
        bot.moving = True
        answers = [lab.take("abort", id="same") for _ in range(4)]
        for _ in range(5):
            await asyncio.sleep(0)
            answers.append(lab.take("abort"))
        await until(lambda: all(len(each) == 2 for each in answers))
        assert bot.log.count("halt") >= 9
        assert await lab.ended(plan) == "Aborted"
        assert lab.controller.alarms.standing == {}


async def test_after_an_abort_nothing_moves_before_clear_and_reset(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await at_work(lab)
        waiting = await lab.submit(op(id="a"))
        await lab.command("abort")
        for name in ("start", "unhold", "hold", "reset", "stop"):
            assert (await lab.command(name)).result == "refused"
        assert (await lab.command("clear")).result == "done"
        assert lab.controller.state is State.STOPPED
        await asyncio.sleep(0.01)
        assert lab.did("arm").count("poke") == 1
        assert (await lab.command("reset")).result == "done"
        assert await lab.ended(waiting) == "Complete"
