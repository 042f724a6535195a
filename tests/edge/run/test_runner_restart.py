"""What a restart makes of a run: nothing is silently repeated, nothing is silently skipped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from drivers.api import Outcome
from edge.run.machine import State
from tests.edge.instruments import (
    Gate,
    Moved,
    fails,
    gives,
    hangs,
    loses,
    until,
)
from tests.edge.run.lab import Lab, op, session

FINISHED = Outcome("finished", result={"volume_ul": 9.0})
NOT_EXECUTED = Outcome("not_executed", reason="it stands where it stood")


async def held(lab: Lab, kind: str, *steps: dict[str, Any]) -> str:
    plan = await lab.submit(*steps)
    await lab.state(State.HELD)
    await until(lambda: lab.waiting() == (steps[0]["id"], kind))
    return plan


async def crash_in(tmp_path: Path, answer: Any, *steps: dict[str, Any]) -> str:
    """A session that is lost while the arm is at its first operation."""
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(answer)
        plan = await lab.submit(*steps)
        await until(lambda: lab.did("arm"))
        await asyncio.sleep(0.005)
        return plan


@pytest.mark.parametrize(
    ("operation", "said", "phase", "did"),
    [
        ("poke", FINISHED, "finished", ["settle poke"]),
        ("poke", NOT_EXECUTED, "finished", ["settle poke", "poke"]),
        ("heat", None, "finished", ["heat"]),
    ],
)
async def test_an_intent_without_an_outcome_is_settled_first(
    tmp_path: Path, operation: str, said: Outcome | None, phase: str, did: list[str]
) -> None:
    plan = await crash_in(tmp_path, hangs, op(operation, id="a"), op(id="b", device="reader"))
    async with session(tmp_path) as lab:
        assert lab.controller.state is State.HELD
        assert lab.run(plan).steps["a"].state == "in_doubt"
        if said is not None:
            lab.bots["arm"].settles.append(said)
        assert (await lab.command("unhold")).result == "done"
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == did
        assert lab.phases() == [("a", phase), ("b", "finished")]
        assert [document.name for document in lab.ears.said].count("start") == 0, "it has been written"


async def test_after_a_restart_the_settling_question_is_the_first_frame(tmp_path: Path) -> None:
    await crash_in(tmp_path, hangs, op(id="a"))
    async with session(tmp_path) as lab:
        lab.bots["arm"].settles.append(FINISHED)
        await lab.command("unhold")
        await until(lambda: "settle poke" in lab.bots["arm"].log)
        first = lab.bots["arm"].log[: lab.bots["arm"].log.index("settle poke")]
        assert set(first) <= {"open", "identify"}


@pytest.mark.parametrize("operation", ["poke", "stir"])
async def test_after_a_restart_a_person_may_have_to_settle_it(tmp_path: Path, operation: str) -> None:
    plan = await crash_in(tmp_path, hangs, op(operation, id="a"))
    async with session(tmp_path) as lab:
        lab.take("unhold")
        await until(lambda: lab.waiting() == ("a", "in_doubt") and lab.controller.state is State.HELD)
        assert operation not in lab.did("arm")
        await lab.resolve(plan, "a", "finished")
        await lab.command("unhold")
        assert await lab.ended(plan) == "Complete"
        assert operation not in lab.did("arm")


async def test_finished_steps_stay_finished_and_their_results_are_there(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(gives(Moved(7.0)))
        gate = Gate()
        lab.bots["pump"].answers.append(gate)
        plan = await lab.submit(
            op(id="a"),
            op("look", "pump", id="b", record=True),
            op(id="c", depth_mm={"$": "a.volume_ul + 1"}),
        )
        await gate.reached.wait()
    async with session(tmp_path) as lab:
        assert lab.run(plan).steps["a"].result == {"volume_ul": 7.0}
        await lab.command("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.intended(plan)[-1]["depth_mm"] == 8.0
        assert lab.did("arm") == ["poke"]
        whole = [seq for seq, _ in lab.outbox.documents(plan, 0)]
        assert whole == list(range(len(whole)))


async def test_a_failure_that_waits_for_a_person_waits_after_a_restart_too(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        await held(lab, "failed", op(id="a"))
    async with session(tmp_path) as lab:
        lab.take("unhold")
        await until(lambda: lab.waiting() == ("a", "failed") and lab.controller.state is State.HELD)
        assert lab.did("arm") == []


@pytest.mark.parametrize(("answer", "did"), [("finished", []), ("failed", []), ("repeat", ["poke"])])
@pytest.mark.parametrize("how", [fails, loses])
async def test_an_answer_given_before_a_restart_still_counts(
    tmp_path: Path, how: Any, answer: str, did: list[str]
) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(how)
        kind = "failed" if how is fails else "in_doubt"
        plan = await held(lab, kind, op(id="a"), op(id="b", device="reader"))
        await lab.resolve(plan, "a", answer)
    async with session(tmp_path) as lab:
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == did
        assert lab.phases() == [("a", "failed" if answer == "failed" else "finished"), ("b", "finished")]


async def test_an_outcome_that_the_run_had_not_used_yet_is_used_after_the_restart(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan = await lab.submit(op("draw", "pump", id="a", source="trough/A1", volume_ul=100), op(id="b"))
        assert await lab.ended(plan) == "Complete"
        steps = "DELETE FROM journal WHERE kind = 'step'"
        lab.database.put(steps)
        lab.database.put("DELETE FROM documents WHERE seq > 0")
        lab.database.put("UPDATE runs SET state = 'Execute'")
        lab.database.put("DELETE FROM facts WHERE key = 'inventory'")
        await lab.journal.durable()
    async with session(tmp_path) as lab:
        await lab.command("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.did("pump") == lab.did("arm") == []
        assert lab.phases() == [("a", "finished"), ("b", "finished")]
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(900)


async def test_a_run_in_doubt_that_is_stopped_instead_is_booked_carefully(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(hangs)
        plan = await lab.submit(op("draw", "pump", id="a", source="trough/A1", volume_ul=100))
        await until(lambda: lab.did("pump") == ["draw"])
    async with session(tmp_path) as lab:
        assert (await lab.command("stop")).result == "done"
        assert await lab.ended(plan) == "Stopped"
        assert lab.phases() == [("a", "in_doubt")]
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(900)
