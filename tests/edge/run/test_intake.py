"""Plans at the door: verdicts, duplicates, and what a plan is worth when its turn comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.link.messages import utc_now
from edge.run import intake as module
from edge.run.machine import State
from tests.edge.run.lab import op, plan_of, session


async def test_an_accepted_plan_is_durable_and_queued(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        payload = json.dumps(plan_of("p", op(), priority=3)).encode()
        verdict = await lab.verdict(payload)
        assert (verdict.plan_id, verdict.verdict, verdict.reasons) == ("p", "accepted", [])
        run = lab.journal.run("p")
        assert run is not None
        assert (run.state, run.priority, run.payload) == ("Queued", 3, payload)
        assert run.sha256 == hashlib.sha256(payload).hexdigest()
        assert [queued.plan_id for queued in lab.controller.queue] == ["p"]


async def test_the_same_again_is_a_duplicate_and_another_under_its_name_is_not(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.submit(op(), plan_id="p")
        assert (await lab.verdict(plan_of("p", op()))).verdict == "duplicate"
        verdict = await lab.verdict(plan_of("p", op(), name="other"))
        assert verdict.verdict == "rejected"
        assert "already used for another plan" in verdict.reasons[0].message
        assert await lab.ended("p") == "Complete"
        assert (await lab.verdict(plan_of("p", op()))).verdict == "duplicate"
        assert lab.did("arm") == ["poke"]
    async with session(tmp_path) as lab:
        assert (await lab.verdict(plan_of("p", op()))).verdict == "duplicate"


async def test_a_known_plan_is_a_duplicate_even_when_it_would_not_be_accepted_now(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        step = op("draw", "pump", source="trough/A1", volume_ul=400)
        await lab.submit(step, plan_id="p")
        await lab.ended("p")
        assert (await lab.verdict(plan_of("p", step))).verdict == "duplicate"
        assert (await lab.verdict(plan_of("q", step))).verdict == "rejected"


async def test_a_rejected_name_may_be_used_again(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        for _ in range(2):
            verdict = await lab.verdict(plan_of("p", op("fly")))
            assert verdict.verdict == "rejected"
        assert (await lab.verdict(plan_of("p", op()))).verdict == "accepted"


async def test_two_at_once_under_one_name_are_one(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        verdicts = await asyncio.gather(*(lab.verdict(plan_of("p", op())) for _ in range(5)))
        assert sorted(verdict.verdict for verdict in verdicts) == ["accepted"] + ["duplicate"] * 4
        assert len(lab.controller.queue) == 1


@pytest.mark.parametrize("payload", [b"", b"not json", b"[]", b'{"plan_id": "a b"}', b"\xff" * 100])
async def test_what_has_no_name_is_answered_by_its_digest(tmp_path: Path, payload: bytes) -> None:
    async with session(tmp_path) as lab:
        verdict = await lab.verdict(payload)
        assert verdict.verdict == "rejected"
        assert verdict.plan_id == f"sha256-{hashlib.sha256(payload).hexdigest()}"
        assert verdict.reasons[0].message


async def test_signed_plans_are_refused_clearly(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        verdict = await lab.verdict(b"eyJhbGciOiJFZERTQSJ9.e30.AA")
        assert "signed plans are not built yet" in verdict.reasons[0].message


async def test_form_and_content_are_judged_together(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        verdict = await lab.verdict(plan_of("p", op(timeout_s=-1), op("fly"), op(depth_mm="deep"), cell="x"))
        assert {reason.path for reason in verdict.reasons} == {
            "steps[0].timeout_s",
            "steps[1].operation",
            "steps[2].args.depth_mm",
            "cell",
        }


async def test_a_full_queue_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 2)
    async with session(tmp_path, autostart=False) as lab:
        for _ in range(2):
            await lab.submit(op())
        verdict = await lab.verdict(plan_of("p", op()))
        assert verdict.reasons[0].message == "the queue is full: 2 plans wait already"


async def test_a_large_plan_is_judged_beside_the_loop(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        steps = [op("look", "pump") for _ in range(4_000)]
        plan = plan_of("p", *steps)
        assert len(json.dumps(plan)) > module.LARGE_BYTES
        ticks = 0
        judging = asyncio.ensure_future(lab.verdict(plan))
        while not judging.done():
            ticks += 1
            await asyncio.sleep(0)
        assert (await judging).verdict == "accepted"
        assert ticks > 20, "the loop went on"


async def test_a_plan_that_expires_in_the_queue_does_not_start(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        soon = utc_now() + timedelta(milliseconds=60)
        plan = await lab.submit(op(), expires_at=soon.isoformat())
        assert await lab.intake.admit(lab.controller.queue[0]) == ""
        await asyncio.sleep(0.07)
        assert "expired" in await lab.intake.admit(lab.controller.queue[0])
        await lab.command("start")
        assert await lab.ended(plan) == "Stopped"
        assert lab.did("arm") == []


async def test_a_plan_in_the_queue_is_judged_by_the_world_of_its_turn(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        step = op("draw", "pump", source="trough/A1", volume_ul=300)
        await lab.command("stop")
        plans = [await lab.submit(step) for _ in range(2)]
        await lab.command("reset")
        assert await lab.ended(plans[0]) == "Complete"
        assert await lab.ended(plans[1]) == "Stopped"
        assert "pump would hold 600 µl" in lab.stored(plans[1])[1]
        assert lab.did("pump") == ["draw"]


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.dictionaries(
            st.sampled_from(["device", "operation", "args", "on_error", "record", "timeout_s"]),
            st.one_of(
                st.sampled_from(["pump", "arm", "poke", "draw", "look"]),
                st.none(),
                st.integers(),
                st.dictionaries(
                    st.sampled_from(["depth_mm", "source", "volume_ul", "$"]),
                    st.one_of(
                        st.integers(), st.text(max_size=6), st.fixed_dictionaries({"$": st.text(max_size=9)})
                    ),
                ),
            ),
        ).map(lambda step: json.dumps(plan_of("p", step)).encode()),
    )
)
async def test_any_payload_gets_a_verdict(tmp_path_factory: pytest.TempPathFactory, payload: bytes) -> None:
    async with session(tmp_path_factory.mktemp("any"), autostart=False) as lab:
        verdict = await lab.verdict(payload)
        assert verdict.verdict == "accepted" or verdict.reasons
        assert (await lab.verdict(plan_of("good", op()))).verdict == "accepted"
