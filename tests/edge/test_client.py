"""The planner's client against a scripted cell on a real broker."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge import client as client_module
from edge.broker import EmbeddedBroker
from edge.client import CellClient, ClientError, new_id, plan, step
from edge.link.messages import CellStatus, Offline
from edge.plan.model import parse
from tests.edge.fake_cell import CELL_STATUS, FakeCell


@pytest.fixture
async def url(embedded: EmbeddedBroker) -> str:
    return f"mqtt://{embedded.host}:{embedded.port}"


@pytest.fixture
async def cell(url: str) -> AsyncIterator[FakeCell]:
    async with FakeCell(url).running() as running:
        yield running


@pytest.fixture
async def link(url: str, cell: FakeCell) -> AsyncIterator[CellClient]:
    async with CellClient(url, "bench-1", by="test") as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 0.1)


def _plan() -> dict[str, Any]:
    return plan("bench-1", [step("weigh", "scale", "weigh", record=True)])


async def _seqs(link: CellClient, plan_id: str, from_seq: int = 0) -> list[int]:
    async with asyncio.timeout(10):
        return [document.seq async for document in link.documents(plan_id, from_seq)]


async def test_a_plan_gets_its_verdict(link: CellClient, cell: FakeCell) -> None:
    job = _plan()
    verdict = await link.submit(job)
    assert (verdict.plan_id, verdict.verdict) == (job["plan_id"], "accepted")
    assert json.loads(cell.plans[0]) == job


async def test_an_unreadable_plan_is_answered_by_its_digest(link: CellClient, cell: FakeCell) -> None:
    payload = b'{"plan_id": 7}'
    digest = f"sha256-{hashlib.sha256(payload).hexdigest()}"
    cell.on_plan = lambda cell, plan: cell.verdict(digest, "rejected", {"path": "plan_id", "message": "bad"})
    verdict = await link.submit(payload)
    assert verdict.verdict == "rejected"
    assert verdict.reasons[0].message == "bad"


async def test_without_an_answer_the_silence_is_explained(link: CellClient, cell: FakeCell) -> None:
    cell.on_plan = lambda cell, plan: None
    with pytest.raises(ClientError, match="No cell `bench-1` has ever been on this broker"):
        await link.submit(_plan(), within_s=0.2)
    await cell.say("cell/status", {"online": False}, retain=True)
    assert await link.status() == Offline()
    with pytest.raises(ClientError, match="Cell bench-1 is offline"):
        await link.submit(_plan(), within_s=0.2)


async def test_an_unreachable_broker_is_named() -> None:
    with pytest.raises(ClientError, match=r"127\.0\.0\.1:1\b"):
        await CellClient("mqtt://127.0.0.1:1", "bench-1").__aenter__()


async def test_status_and_capabilities_are_what_is_retained(link: CellClient, cell: FakeCell) -> None:
    waiting = asyncio.create_task(link.until_online(10))
    await cell.say("cell/status", {"online": False}, retain=True)
    await cell.say("cell/status", CELL_STATUS, retain=True)
    assert (await waiting).devices["red"].identity == "SN 1"
    said = await link.status()
    assert isinstance(said, CellStatus)
    assert said.state == "Idle"
    limits = {"plan_bytes": 1, "plan_steps": 1, "plan_depth": 1, "queue": 1}
    nothing: dict[str, Any] = {
        "cell": "bench-1",
        "devices": {},
        "positions": [],
        "labware": {},
        "limits": limits,
    }
    await cell.say("cell/capabilities", nothing, retain=True)
    assert (await link.capabilities()).cell == "bench-1"


async def test_a_cell_that_was_never_there_is_said_to_be(link: CellClient) -> None:
    with pytest.raises(ClientError, match="has ever been on this broker"):
        await link.until_online(0.1)
    with pytest.raises(ClientError, match="Check the cell's id"):
        await link.status(0.1)


async def test_a_command_waits_for_its_end(link: CellClient, cell: FakeCell) -> None:
    async def answer(cell: FakeCell, command: dict[str, Any]) -> None:
        await cell.reply("another", "failed")
        await cell.reply(command["id"], "accepted")
        await cell.reply(command["id"], "done")

    cell.on_command = answer
    args: dict[str, Any] = {"plan_id": "p1", "step": "draw", "as": "finished"}
    reply = await link.command("resolve", **args)
    assert reply.result == "done"
    [command] = cell.commands
    assert command["args"] == {"plan_id": "p1", "step": "draw", "as": "finished"}
    assert (command["command"], command["cell"], command["by"]) == ("resolve", "bench-1", "test")
    assert command["expires_at"] > command["issued_at"]


async def test_a_run_is_followed_to_its_end(link: CellClient, cell: FakeCell) -> None:
    seen = []
    await cell.run_status("p1", "Queued")
    async with asyncio.timeout(10):
        async for status in link.follow("p1"):
            seen.append(status.state)
            following = {"Queued": "Execute", "Execute": "Complete"}.get(status.state)
            if following:
                await cell.run_status("other", "Aborted")
                await cell.run_status("p1", following)
    assert seen == ["Queued", "Execute", "Complete"]


async def test_a_run_that_nobody_speaks_of_is_not_waited_for(link: CellClient) -> None:
    with pytest.raises(ClientError, match="says nothing of a run p1"):
        async for _ in link.follow("p1", first_within_s=0.1):
            pass


async def test_documents_come_in_order_and_once(link: CellClient, cell: FakeCell) -> None:
    job = _plan()
    await link.submit(job)
    for seq in (0, 2, 1, 1, 0):
        await cell.document(job["plan_id"], seq)
    await cell.document(job["plan_id"], 3, "stop")
    assert await _seqs(link, job["plan_id"]) == [0, 1, 2, 3]
    assert cell.commands == []


async def test_a_gap_is_asked_for(link: CellClient, cell: FakeCell) -> None:
    job = _plan()

    async def replay(cell: FakeCell, command: dict[str, Any]) -> None:
        for seq in range(command["args"]["from_seq"], 4):
            await cell.document(job["plan_id"], seq, "stop" if seq == 3 else "event")
        await cell.reply(command["id"], "done")

    cell.on_command = replay
    await link.submit(job)
    await cell.document(job["plan_id"], 0)
    await cell.document(job["plan_id"], 2)
    assert await _seqs(link, job["plan_id"]) == [0, 1, 2, 3]
    assert [command["args"] for command in cell.commands] == [{"plan_id": job["plan_id"], "from_seq": 1}]


async def test_a_stop_that_got_lost_is_asked_for(link: CellClient, cell: FakeCell) -> None:
    job = _plan()

    async def replay(cell: FakeCell, command: dict[str, Any]) -> None:
        await cell.document(job["plan_id"], 1, "stop")
        await cell.reply(command["id"], "done")

    cell.on_command = replay
    await link.submit(job)
    await cell.document(job["plan_id"], 0, "start")
    await cell.run_status(job["plan_id"], "Complete")
    assert await _seqs(link, job["plan_id"]) == [0, 1]


async def test_a_run_of_somebody_else_is_replayed_from_where_one_wants(
    link: CellClient, cell: FakeCell
) -> None:
    async def replay(cell: FakeCell, command: dict[str, Any]) -> None:
        for seq in range(command["args"]["from_seq"], 3):
            await cell.document("p9", seq, "stop" if seq == 2 else "event")
        await cell.reply(command["id"], "done")

    cell.on_command = replay
    assert await _seqs(link, "p9", 1) == [1, 2]


async def test_a_run_that_the_cell_does_not_know_is_an_error(link: CellClient, cell: FakeCell) -> None:
    cell.on_command = lambda cell, command: cell.reply(
        command["id"], "refused", {"path": "", "message": "there is no run `p0`"}
    )
    with pytest.raises(ClientError, match="there is no run `p0`"):
        await _seqs(link, "p0")


async def test_what_is_no_json_harms_nobody(link: CellClient, cell: FakeCell) -> None:
    await link.submit(_plan())
    await cell._session.publish(f"{cell.base}/run/p1/status", b"garbage", qos=1)
    await cell._session.publish(f"{cell.base}/cell/status", b"[]", qos=1)
    await cell.run_status("p1", "Complete")
    async with asyncio.timeout(10):
        assert [status.state async for status in link.follow("p1")] == ["Complete"]
    with pytest.raises(ClientError, match="is none"):
        await link.status()


def test_a_written_plan_is_one_that_the_cell_can_read() -> None:
    job = plan("bench-1", [step("draw", "red", "aspirate", source="reservoir/A1", volume_ul=5)], name="x")
    parsed, reasons = parse(json.dumps(job).encode())
    assert reasons == []
    assert (parsed.plan_id, parsed.name) == (job["plan_id"], "x")
    assert parsed.steps[0].args == {"source": "reservoir/A1", "volume_ul": 5}


def test_ids_are_of_version_7_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1_700_000_000_000_000_000, 1_700_000_000_001_000_000])
    monkeypatch.setattr("edge.client.time.time_ns", lambda: next(moments))
    first, second = new_id(), new_id()
    assert first < second
    for made in (first, second):
        assert uuid.UUID(made).version == 7
        assert uuid.UUID(made).variant == uuid.RFC_4122
    assert uuid.UUID(first).int >> 80 == 1_700_000_000_000
