"""What operators and planners may command, what they are told, and what is refused and why."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.link.messages import Reply, utc_now
from edge.run.commands import MAX_AGE_S, NOT_BUILT, Refusal, read_command
from edge.run.machine import State
from edge.store.database import StoreError
from tests.edge.instruments import Gate, fails, until
from tests.edge.run.lab import Lab, op, session


async def at_work(lab: Lab, *steps: dict[str, Any]) -> tuple[str, Gate]:
    gate = Gate()
    lab.bots["arm"].answers.append(gate)
    plan = await lab.submit(*(steps or (op(id="a"), op(id="b"))))
    await gate.reached.wait()
    return plan, gate


def told(reply: Reply) -> str:
    (reason,) = reply.reasons
    return reason.message


async def refused(lab: Lab, name: str, **fields: Any) -> str:
    reply = await lab.command(name, **fields)
    assert reply.result == "refused", reply
    return told(reply)


# ---- refusals ---------------------------------------------------------------------------------------------


async def test_commands_that_mean_nothing_now_say_so(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        for name in ("hold", "unhold", "clear"):
            assert await refused(lab, name) == f"{name} has no meaning while the cell is Idle"
        assert await refused(lab, "start") == "there is no plan in the queue to start"
        assert await refused(lab, "fly") == "there is no command `fly`"
        assert await refused(lab, "done") == "there is no command `done`"
        await lab.command("stop")
        assert await refused(lab, "start") == "start has no meaning while the cell is Stopped"


@pytest.mark.parametrize("name", list(NOT_BUILT))
async def test_what_is_not_built_is_refused(tmp_path: Path, name: str) -> None:
    async with session(tmp_path) as lab:
        assert await refused(lab, name) == f"{NOT_BUILT[name]}: not built yet in this version"


async def test_reset_has_no_meaning_in_the_middle_of_a_run(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await at_work(lab)
        assert await refused(lab, "reset") == "reset has no meaning while the cell is Execute"


async def test_another_cells_command(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        assert "for cell `bench-2`; this is `bench-1`" in await refused(lab, "stop", cell="bench-2")
        assert (await lab.command("stop", cell="bench-1")).result == "done"


async def test_old_expired_and_retained_commands(tmp_path: Path) -> None:
    now = utc_now()
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        expired = {"expires_at": now - timedelta(seconds=1)}
        stale = {"issued_at": now - timedelta(seconds=MAX_AGE_S + 5)}
        naive = {"issued_at": now.replace(tzinfo=None)}
        assert "expired at" in await refused(lab, "stop", local=False, **expired)
        assert "is stale after 300 s" in await refused(lab, "stop", local=False, **stale)
        assert "need a time zone" in await refused(lab, "stop", local=False, **naive)
        assert "without the retain flag" in await refused(lab, "stop", local=False, retained=True)
        assert lab.controller.state is State.IDLE
        fresh = stale | {"expires_at": now + timedelta(seconds=60)}
        assert (await lab.command("stop", local=False, **fresh)).result == "done"


async def test_an_abort_is_never_refused(tmp_path: Path) -> None:
    now = utc_now()
    old = {"expires_at": now - timedelta(days=1), "issued_at": now - timedelta(days=2), "cell": "bench-2"}
    async with session(tmp_path) as lab:
        await at_work(lab)
        for _ in range(2):
            reply = await lab.command("abort", id="again", local=False, retained=True, **old)
            assert reply.result == "done"
        assert lab.controller.state is State.ABORTED
        assert (await lab.command("clear")).result == "done"
        assert (await lab.command("abort", id="again", local=False)).result == "done"
        assert lab.controller.state is State.ABORTED


async def test_an_abort_works_without_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with session(tmp_path) as lab:
        await at_work(lab)

        async def full() -> None:
            raise StoreError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(lab.journal, "durable", full)
            patch.setattr(lab.journal, "reply", _broken)
            answers = lab.take("abort")
            assert all("halt" in bot.log for bot in lab.bots.values())
            assert (await lab.answered(answers)).result == "done"
            assert await refused(lab, "clear") == "the journal cannot be read"


def _broken(command_id: str) -> bytes | None:
    raise StoreError("the journal cannot be read")


# ---- answers ----------------------------------------------------------------------------------------------


async def test_a_command_is_accepted_once_it_is_durable_and_done_when_it_is_done(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        _, gate = await at_work(lab)
        answers = lab.take("hold", id="h-1")
        assert lab.controller.state is State.HOLDING, "it takes effect at once"
        assert answers == [], "and is answered later"
        await until(lambda: answers)
        assert [each.result for each in answers] == ["accepted"]
        gate.open.set()
        assert (await lab.answered(answers)) == Reply("h-1", "done")
        assert (await lab.command("hold")).result == "done", "it is held already"


async def test_a_command_that_is_overtaken_has_failed(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        _, _ = await at_work(lab)
        answers = lab.take("hold")
        await until(lambda: answers)
        lab.take("abort")
        reply = await lab.answered(answers)
        assert (reply.result, told(reply)) == ("failed", "the cell went to Aborting instead")


async def test_short_lived_states_are_noticed(tmp_path: Path) -> None:
    """An unhold whose run is over before the journal has said `durable`."""
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab, op(id="a"))
        lab.take("hold")
        gate.open.set()
        await lab.state(State.HELD)
        go = asyncio.Event()
        durable = lab.journal.durable

        async def slow() -> None:
            await go.wait()
            await durable()

        lab.journal.durable = slow
        answers = lab.take("unhold")
        await lab.state(State.COMPLETING, State.COMPLETE, State.RESETTING, State.IDLE)
        lab.journal.durable = durable
        go.set()
        assert (await lab.answered(answers)).result == "done"
        assert await lab.ended(plan) == "Complete"


async def test_a_repeated_id_gets_the_first_answer_and_changes_nothing(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        assert (await lab.command("stop", id="x")).result == "done"
        await lab.command("reset", id="y")
        assert lab.take("stop", id="x") == [Reply("x", "done")]
        assert lab.controller.state is not State.STOPPING
        first = await lab.command("fly", id="z")
        assert lab.take("stop", id="z") == [first]
        await lab.journal.durable()
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        assert lab.take("stop", id="x") == [Reply("x", "done")], "after a restart too"
        assert lab.controller.state is State.IDLE


async def test_an_id_that_is_still_under_way_is_not_obeyed_twice(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        _, gate = await at_work(lab)
        first = lab.take("stop", id="x")
        assert lab.take("abort", id="other", cell="bench-1") == []
        second = lab.take("stop", id="x")
        gate.open.set()
        await lab.answered(first)
        assert second == []


async def test_who_asked_for_what_is_in_the_journal(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        await lab.command("stop", by="ann")
        await lab.command("hold", by="bob", local=False)
        await lab.command("abort", by="eve", local=True)
        await lab.journal.durable()
        rows = lab.database.rows("SELECT body FROM journal WHERE kind = 'command' ORDER BY n")
        said = [msgspec.json.decode(body) for (body,) in rows]
        assert [(each["command"], each["by"], each["local"], each["result"]) for each in said] == [
            ("stop", "ann", True, "accepted"),
            ("hold", "bob", False, "refused"),
            ("abort", "eve", True, "accepted"),
        ]


async def test_a_journal_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)

        async def full() -> None:
            raise StoreError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(lab.journal, "durable", full)
            reply = await lab.command("stop")
        assert (reply.result, told(reply)) == ("failed", "the disk is full")


# ---- the lock after an abort ------------------------------------------------------------------------------


async def test_after_an_abort_only_the_bench_clears_and_resets(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        await lab.state(State.IDLE)
        await lab.command("abort", local=False)
        assert "only taken at the bench: labedge clear" in await refused(lab, "clear", local=False)
        assert await refused(lab, "reset", local=True) == "reset has no meaning while the cell is Aborted"
        assert "only taken at the bench" in await refused(lab, "clear", local=False)
        await lab.journal.durable()
    async with session(tmp_path) as lab:
        assert "only taken at the bench" in await refused(lab, "clear", local=False)
        assert (await lab.command("clear", local=True)).result == "done"
        assert "only taken at the bench: labedge reset" in await refused(lab, "reset", local=False)
        assert (await lab.command("reset", local=True)).result == "done"
        await lab.command("stop", local=False)
        assert (await lab.command("reset", local=False)).result == "done", "the abort is over"


async def test_a_cell_file_may_allow_it_from_afar(tmp_path: Path) -> None:
    async with session(tmp_path, remote_clear=True) as lab:
        await lab.state(State.IDLE)
        await lab.command("abort", local=False)
        assert (await lab.command("clear", local=False)).result == "done"
        assert (await lab.command("reset", local=False)).result == "done"
        assert not lab.controller.remote_locked


async def test_interlocks_keep_what_moves_from_beginning(tmp_path: Path) -> None:
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        await lab.submit(op(id="a"))
        lab.controller.blocked = lambda: ["lid-open", "overtemp"]
        assert await refused(lab, "start") == (
            "interlock lid-open, overtemp is violated; start only when it is back to normal"
        )
        lab.controller.blocked = list
        lab.bots["arm"].answers.append(fails)
        lab.take("start")
        await lab.state(State.HELD)
        lab.controller.blocked = lambda: ["lid-open"]
        assert "interlock lid-open is violated; unhold only" in await refused(lab, "unhold")
        assert (await lab.command("stop")).result == "done", "what ends is not kept from ending"
        assert (await lab.command("reset")).result == "done"


# ---- cancel, resolve, replay ------------------------------------------------------------------------------


async def test_cancel_takes_a_plan_out_of_the_queue(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        running, gate = await at_work(lab)
        waiting = await lab.submit(op(id="a"))
        assert (await lab.command("cancel", args={"plan_id": waiting})).result == "done"
        assert await lab.ended(waiting) == "Stopped"
        assert lab.stored(waiting)[1] == "cancelled by ann"
        names = [document.name for document in lab.ears.said if document.doc.get("plan_id") == waiting]
        assert names == ["start"]
        gate.open.set()
        assert await lab.ended(running) == "Complete"
        assert "no queued or active run" in await refused(lab, "cancel", args={"plan_id": waiting})
        assert "no queued or active run" in await refused(lab, "cancel")


async def test_cancel_of_the_active_run_is_a_stop(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan, gate = await at_work(lab)
        answers = lab.take("cancel", args={"plan_id": plan})
        gate.open.set()
        assert (await lab.answered(answers)).result == "done"
        assert await lab.ended(plan) == "Stopped"


async def test_resolve_needs_a_step_that_waits_for_it(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        lab.bots["arm"].answers.append(fails)
        plan = await lab.submit(op(id="a"))
        await lab.state(State.HELD)
        answer = {"plan_id": plan, "step": "a", "as": "finished"}
        assert "resolve needs as" in await refused(lab, "resolve", args=answer | {"as": "maybe"})
        assert "resolve needs as" in await refused(lab, "resolve", args=answer | {"as": ["finished"]})
        assert "no queued or active run" in await refused(lab, "resolve", args=answer | {"plan_id": "other"})
        assert "only step `a` waits" in await refused(lab, "resolve", args=answer | {"step": "b"})
        assert (await lab.command("resolve", args=answer)).result == "done"
        lab.take("unhold")
        assert await lab.ended(plan) == "Complete"
    async with session(tmp_path, autostart=False) as lab:
        await lab.state(State.IDLE)
        plan = await lab.submit(op(id="a"), plan_id="another")
        answer = {"plan_id": plan, "step": "a", "as": "finished"}
        assert "no step waits for one" in await refused(lab, "resolve", args=answer)


async def test_replay(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:
        plan = await lab.submit(op(id="a"))
        await lab.ended(plan)
        assert (await lab.command("replay", args={"plan_id": plan})).result == "done"
        assert (await lab.command("replay", args={"plan_id": plan, "from_seq": 2})).result == "done"
        assert lab.replayed == [(plan, 0), (plan, 2)]
        assert "there is no run `x`" in await refused(lab, "replay", args={"plan_id": "x"})
        assert "there is no run" in await refused(lab, "replay", args={"plan_id": 7})
        for odd in (-1, "2", 1.5, True, 2**80):
            reason = await refused(lab, "replay", args={"plan_id": plan, "from_seq": odd})
            assert reason == "from_seq must be a whole number, 0 or more"


async def test_work_that_fails_inside_is_answered(tmp_path: Path) -> None:
    async with session(tmp_path) as lab:

        async def broken(plan_id: str, from_seq: int) -> None:
            raise KeyError("bug")

        lab.desk._replay = broken
        plan = await lab.submit(op(id="a"))
        await lab.ended(plan)
        reply = await lab.command("replay", args={"plan_id": plan}, id="r")
        assert (reply.result, told(reply)) == ("failed", "labedge itself failed: 'bug'")
        assert lab.take("replay", args={"plan_id": plan}, id="r") == [reply]


# ---- what arrives as bytes --------------------------------------------------------------------------------


def test_commands_as_bytes() -> None:
    assert read_command(b'{"command": "hold", "id": "c-1"}').command == "hold"
    for payload in (
        b"",
        b"hold",
        b"[]",
        b'{"command": "hold"}',
        b'{"command": "hold", "id": ""}',
        b'{"command": "hold", "id": "a/b"}',
        b'{"command": "hold", "id": "a", "extra": 1}',
        b'{"command": "hold", "id": "a", "args": 7}',
        b'{"command": "hold", "id": "a", "expires_at": "soon"}',
        b"[" * 100_000,
    ):
        with pytest.raises(Refusal):
            read_command(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"command": "abort"}',
        b'{"command": "abort", "id": "a/b/#"}',
        b'{"command": "abort", "id": 7, "args": "x", "extra": [1]}',
        b'{"command": "abort", "id": "a", "issued_at": "yesterday"}',
    ],
)
def test_an_abort_is_understood_whatever_else_is_wrong(payload: bytes) -> None:
    command = read_command(payload)
    assert command.command == "abort"
    assert command.id
