"""The journal's words: what is said in one session is read back by the next."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from drivers.api import Intent, Outcome
from edge.link.messages import Reason, Reply
from edge.plan.cellmodel import CellModel
from edge.plan.inventory import Inventory, Standing
from edge.store.database import Database
from edge.store.journal import (
    KEPT_STATUS_S,
    KEPT_STATUSES,
    RECENT_REPLIES,
    IntentRecord,
    Journal,
    OutcomeRecord,
    Record,
    ResolutionRecord,
    RunRecord,
    StepRecord,
    StoredRun,
)
from tests.edge.instruments import cell_of


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    store = Database(tmp_path)
    store.open()
    yield store
    await store.close()


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database)


def accept(journal: Journal, plan_id: str, priority: int = 0) -> StoredRun:
    return journal.accept(plan_id, f"uid-{plan_id}", f"sha-{plan_id}", b'{"plan": 1}', priority)


def intent(job_id: int, execution: str = "a") -> Intent:
    return Intent(
        execution=execution,
        operation="draw",
        args={"volume_ul": 30.0, "source": "trough/A1"},
        job_id=job_id,
        frame=b"\x02\x31\x41\xff\x03",
        memo={"before": 0, "after": 90},
    )


async def test_records_of_a_run_come_back_as_they_were(journal: Journal) -> None:
    n = journal.reserve()
    said: list[Record] = [
        IntentRecord(n, "pump", intent(n)),
        OutcomeRecord(n, "a", Outcome("unknown", reason="no answer")),
        ResolutionRecord("a", "finished", "ann"),
        StepRecord("a", "finished", {"volume_ul": 30.0, "label": "µl", "list": [1, 2.5, None]}, "done"),
        RunRecord("Held", "why", "ann"),
    ]
    journal.record("p", said[0], n)
    for record in said[1:]:
        journal.record("p", record)
    journal.record("q", StepRecord("a", "failed"))
    journal.audit({"command": "hold", "by": "ann"})
    await journal.durable()
    assert journal.records("p") == said
    assert journal.records("q") == [StepRecord("a", "failed")]
    assert journal.records("none") == []


async def test_numbers_go_on_after_a_restart(database: Database, journal: Journal) -> None:
    numbers = [journal.reserve() for _ in range(3)]
    assert numbers == [1, 2, 3]
    journal.record("p", IntentRecord(3, "pump", intent(3)), 3)
    await journal.durable()
    again = Journal(database)
    assert again.reserve() == 4
    assert accept(again, "first").arrival == 1
    await again.durable()
    assert accept(Journal(database), "second").arrival == 2


async def test_a_plan_once_accepted_is_known(journal: Journal) -> None:
    run = accept(journal, "p", priority=5)
    await journal.durable()
    assert journal.run("p") == run
    assert journal.run("q") is None
    assert (run.state, run.priority, run.payload) == ("Queued", 5, b'{"plan": 1}')


async def test_states_of_runs_and_what_is_unfinished(journal: Journal) -> None:
    for plan_id in "abcd":
        accept(journal, plan_id)
    journal.set_run("a", "Complete")
    journal.set_run("b", "Execute", "begun", "ann")
    journal.set_run("c", "Aborted", "stopped by hand")
    await journal.durable()
    assert [run.plan_id for run in journal.unfinished()] == ["b", "d"]
    assert [run.plan_id for run in journal.runs()] == ["d", "c", "b", "a"]
    assert [run.plan_id for run in journal.runs(limit=2)] == ["d", "c"]
    assert {run.payload for run in journal.runs()} == {b""}, "a list is no archive"
    found = journal.run("c")
    assert found is not None
    assert (found.state, found.reason) == ("Aborted", "stopped by hand")
    assert journal.records("b") == [RunRecord("Execute", "begun", "ann")]


async def test_statuses_of_long_ago_are_due_once(database: Database, journal: Journal) -> None:
    count = KEPT_STATUSES + 5
    for n in range(count):
        accept(journal, f"p{n}")
        journal.set_run(f"p{n}", "Complete")
    await journal.durable()
    assert journal.long_past() == [f"p{n}" for n in range(5)]
    await journal.durable()
    assert journal.long_past() == []
    database.put("UPDATE runs SET changed_at = ? WHERE plan_id = 'p7'", time.time() - KEPT_STATUS_S - 60)
    await journal.durable()
    assert journal.long_past() == ["p7"]


async def test_a_run_on_its_way_keeps_its_status(journal: Journal) -> None:
    for n in range(KEPT_STATUSES + 2):
        accept(journal, f"p{n}")
    await journal.durable()
    assert journal.long_past() == []


async def test_the_inventory_is_the_last_one_saved(journal: Journal, tmp_path: Path) -> None:
    assert journal.inventory() is None
    inventory = Inventory.initial(CellModel(cell_of(tmp_path)))
    journal.save_inventory(inventory)
    inventory.wells["plate-1/A1"] = {"dye": 30.25}
    inventory.places["plate-1"] = Standing("nest-2", 3, 4)
    inventory.places["trough"] = None
    journal.save_inventory(inventory)
    inventory.wells.clear()
    await journal.durable()
    found = journal.inventory()
    assert found is not None
    assert found.wells["plate-1/A1"] == {"dye": 30.25}
    assert (found.places["plate-1"], found.places["trough"]) == (Standing("nest-2", 3, 4), None)


async def test_facts(journal: Journal) -> None:
    assert journal.fact("remote_locked", bool) is None
    journal.set_fact("remote_locked", True)
    journal.set_fact("remote_locked", False)
    await journal.durable()
    assert journal.fact("remote_locked", bool) is False


async def test_the_first_answer_to_a_command_is_remembered(database: Database, journal: Journal) -> None:
    first = Reply("c-1", "refused", [Reason("", "no")])
    journal.remember_reply("c-1", first)
    assert msgspec.json.decode(journal.reply("c-1") or b"", type=Reply) == first, "before it is committed"
    await journal.durable()
    assert msgspec.json.decode(Journal(database).reply("c-1") or b"", type=Reply) == first
    assert journal.reply("c-2") is None


async def test_answers_that_have_left_memory_are_in_the_file(journal: Journal) -> None:
    for n in range(RECENT_REPLIES + 10):
        journal.remember_reply(f"c-{n}", Reply(f"c-{n}", "done"))
    assert len(journal._recent) == RECENT_REPLIES
    await journal.durable()
    assert journal.reply("c-0") is not None
