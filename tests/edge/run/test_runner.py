"""What becomes of a step: the four outcomes, what a plan wants then, and what a restart makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from drivers.api import Outcome
from drivers.errors import Lost
from edge.run.machine import State
from tests.edge.instruments import (
    Bot,
    Gate,
    Moved,
    Seen,
    fails,
    gives,
    hangs,
    loses,
    never_sent,
    refuses,
    until,
)
from tests.edge.run.lab import Lab, op, session

FINISHED = Outcome("finished", result={"volume_ul": 9.0})
NOT_EXECUTED = Outcome("not_executed", reason="it stands where it stood")
FAILED = Outcome("failed", reason="it stopped half way")
UNKNOWN = Outcome("unknown", reason="it cannot tell")


async def test_steps_in_their_order_with_results_and_parameters(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.extend([gives(Moved(4.0))])
        plan = await lab.submit(
            op(id="a", depth_mm={"$": "deep"}),
            op(id="b", depth_mm={"$": "a.volume_ul * 2"}),
            op("look", "pump", id="c", record=True),
            op(id="d", depth_mm={"$": "c.absorbance + pump.temperature_c"}),
            parameters={"deep": 3},
        )
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["poke", "poke", "poke"]
        assert lab.phases() == [(name, "finished") for name in "abcd"]
        (seen,) = [d.doc["data"] for d in lab.ears.said if "pump_absorbance" in d.doc.get("data", {})]
        assert (seen["pump_absorbance"], seen["execution"]) == (0.25, "c")
        assert [document.seq for document in lab.ears.said] == list(range(len(lab.ears.said)))
        assert [args.get("depth_mm") for args in lab.intended(plan)] == [3.0, 8.0, None, 20.25]


async def test_liquid_is_booked_as_the_device_says(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(gives(Moved(99.5)))
        plan = await lab.submit(
            op("draw", "pump", source="trough/A1", volume_ul=100),
            op("put", "pump", target="plate-1/A1", volume_ul=30),
        )
        assert await lab.ended(plan) == "Complete"
        stored = lab.journal.inventory()
        assert stored is not None
        assert stored.volume_ul("trough/A1") == pytest.approx(900.5)
        assert stored.volume_ul("plate-1/A1") == pytest.approx(30)
        assert stored.vessels["pump"] == pytest.approx({"dye": 69.5})


async def test_an_expression_is_evaluated_once_an_attempt_and_after_its_turn_has_come(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        gate = Gate()
        lab.bots["arm"].answers.append(gate)
        plan = await lab.submit(op(id="a"), op(id="b", depth_mm={"$": "arm.temperature_c"}))
        await gate.reached.wait()
        lab.controller.actors["arm"].sample.values["temperature_c"] = 42.0
        gate.open.set()
        assert await lab.ended(plan) == "Complete"
        assert [r.intent.args["depth_mm"] for r in lab.journal.records(plan) if hasattr(r, "intent")] == [
            1.0,
            42.0,
        ]


async def test_a_refusal_is_repeated_as_often_as_the_plan_wants(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.extend([refuses, never_sent])
        plan = await lab.submit(op(id="a", on_error={"retry": 2, "backoff_s": 0.001}))
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["poke"]
        phase = next(d.doc["data"] for d in lab.ears.said if "outcome" in d.doc.get("data", {}))
        assert (phase["attempts"], phase["outcome"]) == (3, "finished")


async def test_a_movement_that_failed_is_not_repeated(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        plan = await lab.submit(op(id="a", on_error={"retry": 5, "then": "stop"}), op(id="b"))
        assert await lab.ended(plan) == "Stopped"
        assert lab.moved("arm") == ["poke"]
        assert lab.stored(plan)[1] == "step a: the plunger is stuck"


async def test_what_is_harmless_to_repeat_is_repeated(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.extend([loses, loses])
        plan = await lab.submit(op("heat", id="a"))
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["heat", "heat", "heat"]
        lab.bots["arm"].answers.extend([fails])
        plan = await lab.submit(op("heat", id="a", on_error={"retry": 1}))
        assert await lab.ended(plan) == "Complete"


async def test_a_harmless_step_without_any_answer_holds(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.extend([loses] * 3)
        plan = await lab.submit(op("heat", id="a"))
        await lab.state(State.HELD)
        assert lab.waiting() == ("a", "failed")
        assert lab.did("arm") == ["heat"] * 3
        assert (await lab.command("unhold")).result == "done"
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["heat"] * 4


@pytest.mark.parametrize(
    ("then", "ended", "phases"),
    [
        ("stop", "Stopped", [("a", "failed")]),
        ("abort", "Aborted", [("a", "failed")]),
        ("skip", "Complete", [("a", "skipped"), ("b", "finished"), ("c", "skipped"), ("d", "skipped")]),
        ("continue", "Complete", [("a", "failed"), ("b", "finished"), ("c", "failed"), ("d", "skipped")]),
    ],
)
@pytest.mark.parametrize("how", [fails, refuses])
async def test_what_a_plan_wants_after_a_failure(
    tmp_path: Path, then: str, ended: str, phases: list[tuple[str, str]], how: Any
) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(how)
        plan = await lab.submit(
            op(id="a", on_error={"then": then}),
            op(id="b"),
            op(id="c", depth_mm={"$": "a.volume_ul"}, on_error={"then": "continue"}),
            op(id="d", depth_mm={"$": "c.volume_ul"}, on_error={"then": "skip"}),
        )
        assert await lab.ended(plan) == ended
        if then == "abort":
            await lab.state(State.ABORTED)
        assert lab.phases() == phases
        states = lab.journal.records(plan)
        assert states


async def test_skipping_spreads_to_all_that_depend_on_it(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        plan = await lab.submit(
            op(id="a", on_error={"then": "skip"}),
            op(id="b", depth_mm={"$": "a.volume_ul"}),
            op(id="c", depth_mm={"$": "b.volume_ul"}),
            op(id="d"),
        )
        assert await lab.ended(plan) == "Complete"
        assert lab.phases() == [("a", "skipped"), ("b", "skipped"), ("c", "skipped"), ("d", "finished")]
        reasons = [d.doc["data"]["reason"] for d in lab.ears.said if "outcome" in d.doc.get("data", {})]
        assert reasons[1] == "it needs step `a`, which was skipped"


async def test_what_needs_a_failed_step_fails_itself(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        plan = await lab.submit(
            op(id="a", on_error={"then": "continue"}),
            op(id="b", depth_mm={"$": "a.volume_ul"}, on_error={"then": "stop"}),
        )
        assert await lab.ended(plan) == "Stopped"
        assert "step `a` is failed" in lab.stored(plan)[1]
        assert lab.moved("arm") == ["poke"]


# ---- hold behind a failure --------------------------------------------------------------------------------


async def held(lab: Lab, kind: str, *steps: dict[str, Any]) -> str:
    plan = await lab.submit(*steps)
    await lab.state(State.HELD)
    await until(lambda: lab.waiting() == (steps[0]["id"], kind))
    return plan


async def test_a_refused_step_is_tried_again_by_unhold(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(refuses)
        plan = await held(lab, "failed", op(id="a"), op(id="b"))
        assert lab.run(plan).steps["a"].state == "waiting"
        assert "run-held" in lab.controller.alarms.standing
        assert (await lab.command("unhold")).result == "done"
        assert await lab.ended(plan) == "Complete"
        assert lab.controller.alarms.standing == {}


async def test_a_failed_movement_asks_a_person_and_unhold_alone_repeats_nothing(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        plan = await held(lab, "failed", op(id="a"), op(id="b"))
        lab.take("unhold")
        await until(lambda: lab.ears.runs[-3:] == [(plan, "Execute"), (plan, "Holding"), (plan, "Held")])
        assert lab.moved("arm") == ["poke"]
        assert lab.waiting() == ("a", "failed")
        await lab.resolve(plan, "a", "repeat")
        assert lab.controller.state is State.HELD, "an answer moves nothing"
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.moved("arm") == ["poke", "poke", "poke"]


@pytest.mark.parametrize(
    ("answer", "phase", "did"),
    [
        ("finished", "finished", ["poke"]),
        ("failed", "failed", ["poke"]),
        ("repeat", "finished", ["poke"] * 2),
    ],
)
@pytest.mark.parametrize("kind", ["failed", "in_doubt"])
async def test_what_a_person_says_counts_from_the_next_unhold_on(
    tmp_path: Path, kind: str, answer: str, phase: str, did: list[str]
) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails if kind == "failed" else loses)
        plan = await held(lab, kind, op(id="a"), op(id="b", device="reader"))
        await lab.resolve(plan, "a", answer)
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.phases() == [("a", phase), ("b", "finished")]
        assert lab.moved("arm") == did


# ---- in doubt ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "phase"), [(FINISHED, "finished"), (NOT_EXECUTED, "finished"), (FAILED, "failed")]
)
async def test_the_device_settles_a_lost_answer(tmp_path: Path, said: Outcome, phase: str) -> None:
    async with session(tmp_path) as lab:
        bot = lab.bots["arm"]
        bot.answers.append(loses)
        bot.settles.append(said)
        plan = await lab.submit(
            op(id="a", on_error={"retry": 1, "then": "continue"}), op(id="b", device="reader")
        )
        assert await lab.ended(plan) == "Complete"
        assert lab.phases() == [("a", phase), ("b", "finished")]
        again = ["poke"] if said is NOT_EXECUTED else []
        assert lab.did("arm") == ["poke", "settle poke", *again]
        if said is FINISHED:
            assert lab.stored(plan)[0] == "Complete"


@pytest.mark.parametrize("said", [UNKNOWN, Lost("still no answer")])
async def test_what_nobody_can_tell_is_in_doubt_and_the_device_is_left_alone(
    tmp_path: Path, said: Outcome | Exception
) -> None:
    async with session(tmp_path) as lab:
        bot = lab.bots["arm"]
        bot.answers.append(loses)
        bot.settles.append(said)
        plan = await held(lab, "in_doubt", op(id="a"), op(id="b"))
        run = lab.run(plan)
        assert (run.steps["a"].state, run.counts().in_doubt, run.current()) == ("in_doubt", 1, ["a"])
        assert lab.controller.actors["arm"].quiet
        before = list(bot.log)
        await asyncio.sleep(0.01)
        assert bot.log == before
        await lab.resolve(plan, "a", "finished")
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"
        assert not lab.controller.actors["arm"].quiet


async def test_only_a_person_can_settle_some_operations(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(loses)
        plan = await held(lab, "in_doubt", op("stir", id="a"))
        assert lab.did("arm") == ["stir"]
        await lab.resolve(plan, "a", "repeat")
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["stir", "stir"]


async def test_a_step_that_takes_too_long_is_stopped_and_settled(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        bot = lab.bots["arm"]
        bot.answers.append(hangs)
        bot.settles.append(FAILED)
        plan = await lab.submit(op(id="a", timeout_s=0.01, on_error={"then": "stop"}))
        assert await lab.ended(plan) == "Stopped"
        assert [e for e in bot.log if e in ("halt", "halted", "settle poke")] == [
            "halt",
            "halted",
            "settle poke",
        ]
        assert lab.phases() == [("a", "failed")]


@pytest.mark.parametrize(
    ("then", "ended"), [("continue", "Complete"), ("skip", "Complete"), ("stop", "Stopped")]
)
async def test_a_movement_that_failed_is_booked_as_far_as_it_got(
    tmp_path: Path, then: str, ended: str
) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(fails)
        lab.bots["pump"].settles.append(Outcome("failed", result={"volume_ul": 40.0}))
        plan = await lab.submit(
            op("draw", "pump", id="a", source="trough/A1", volume_ul=100, on_error={"then": then})
        )
        assert await lab.ended(plan) == ended
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(960)
        assert lab.keeper.inventory.vessels["pump"] == pytest.approx({"dye": 40})


# ---- a stop or an abort in the middle ---------------------------------------------------------------------


async def test_what_an_abort_interrupts_is_in_doubt_and_booked_carefully(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(hangs)
        plan = await lab.submit(
            op("draw", "pump", id="a", source="trough/A1", volume_ul=100), op(id="b"), op(id="c")
        )
        await until(lambda: lab.did("pump") == ["draw"])
        assert (await lab.command("abort")).result == "done"
        assert await lab.ended(plan) == "Aborted"
        assert lab.phases() == [("a", "in_doubt")]
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(900)
        assert "b" not in [execution for execution, _ in lab.phases()]
        assert lab.did("arm") == []
        assert not lab.controller.actors["pump"].quiet, "the next run finds a device that answers"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (Outcome("failed", result={"volume_ul": 40.0}), 960),
        (Outcome("not_executed"), 1000),
        (Outcome("finished", result={"volume_ul": 99.0}), 901),
        (UNKNOWN, 900),
    ],
)
async def test_after_an_abort_the_device_says_how_far_it_got(
    tmp_path: Path, said: Outcome, left: float
) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(hangs)
        lab.bots["pump"].settles.append(said)
        plan = await lab.submit(op("draw", "pump", id="a", source="trough/A1", volume_ul=100))
        await until(lambda: lab.did("pump") == ["draw"])
        await lab.command("abort")
        assert await lab.ended(plan) == "Aborted"
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(left)


async def test_an_abort_before_anything_was_sent_books_nothing(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].absent = Lost("no port", sent=False)
        plan = await lab.submit(op("draw", "pump", id="a", source="trough/A1", volume_ul=100))
        await until(lambda: lab.controller.active and lab.controller.active.steps["a"].state == "running")
        await lab.command("abort")
        assert await lab.ended(plan) == "Aborted"
        assert lab.keeper.inventory.volume_ul("trough/A1") == pytest.approx(1000)


# ---- the world when a steps turn comes ---------------------------------------------------------------------


async def test_an_absent_device_holds_the_run_and_nothing_was_done(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        bot: Bot = lab.bots["arm"]
        bot.absent = Lost("no port", sent=False)
        plan = await held(lab, "failed", op(id="a"))
        assert "not connected" in lab.run(plan).steps["a"].reason
        bot.absent = None
        await lab.command("unhold")
        assert await lab.ended(plan) == "Complete"
        assert lab.did("arm") == ["poke"]


async def test_the_world_is_asked_once_more_when_a_steps_turn_comes(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        gate = Gate()
        lab.bots["arm"].answers.append(gate)
        plan = await lab.submit(op(id="a"), op("draw", "pump", id="b", source="trough/A1", volume_ul=100))
        await gate.reached.wait()
        lab.keeper.inventory.wells["trough/A1"] = {"dye": 10.0}
        gate.open.set()
        await lab.state(State.HELD)
        assert "would be overdrawn" in lab.run(plan).steps["b"].reason
        assert lab.did("pump") == []
        lab.keeper.inventory.wells["trough/A1"] = {"dye": 200.0}
        await lab.command("unhold")
        assert await lab.ended(plan) == "Complete"


async def test_a_recorded_result_without_numbers_is_still_data(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["pump"].answers.append(gives(Seen(0.5, "odd", [1.0, 2.0])))
        plan = await lab.submit(op("look", "pump", id="a", record=True))
        assert await lab.ended(plan) == "Complete"
        data = next(d.doc["data"] for d in lab.ears.said if d.name == "event")
        assert (data["pump_label"], data["pump_spectrum"]) == ("odd", [1.0, 2.0])
