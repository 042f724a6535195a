"""What is posted leaves once at least, in order, however often the link goes and the process dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.store.database import Database, StoreError
from edge.store.outbox import IN_FLIGHT, MEMORY, Message, Outbox
from tests.edge.instruments import until


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    store = Database(tmp_path)
    store.open()
    yield store
    await store.close()


class LinkGone(Exception):
    """What a publish raises when the link is down."""


class Broker:
    """Takes messages; loses the link at the publishes that `failing` names (counted from 1)."""

    def __init__(self, *failing: int) -> None:
        self.got: list[bytes] = []
        self.messages: list[Message] = []
        self.failing = set(failing)
        self.calls = 0
        self.at_once = self.most_at_once = 0

    async def publish(self, message: Message) -> None:
        self.calls += 1
        mine = self.calls
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if mine in self.failing:
                raise LinkGone
            self.got.append(message.payload)
            self.messages.append(message)
        finally:
            self.at_once -= 1


async def send(outbox: Outbox, broker: Broker, enough: int) -> None:
    """Send, again after each loss of the link, until the broker has `enough` different messages."""

    async def keep_sending() -> None:
        while True:
            try:
                await outbox.send_forever(broker.publish)
            except LinkGone:
                continue

    sender = asyncio.ensure_future(keep_sending())
    try:
        await until(lambda: len(set(broker.got)) >= enough)
        await asyncio.sleep(0.01)
    finally:
        sender.cancel()
        await asyncio.wait([sender])


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [str(n).encode() for n in range(start, start + count)]


def lasts(got: list[bytes]) -> list[bytes]:
    """Each message at its last arrival: what was sent again counts there."""
    return list(dict.fromkeys(reversed(got)))[::-1]


async def left(database: Database) -> int:
    await database.durable()
    ((count,),) = database.rows("SELECT count(*) FROM outbox")
    return int(count)


async def test_everything_leaves_in_order_and_is_forgotten(database: Database) -> None:
    outbox, broker = Outbox(database), Broker()
    for payload in numbers(100):
        outbox.post("t", payload)
    await send(outbox, broker, 100)
    assert broker.got == numbers(100)
    assert 1 < broker.most_at_once <= IN_FLIGHT
    assert await left(database) == 0


async def test_a_message_leaves_with_all_it_has(database: Database) -> None:
    outbox, broker = Outbox(database), Broker()
    outbox.post("topic/a", b"payload", b"correlation")
    await send(outbox, broker, 1)
    assert broker.messages == [Message(1, "topic/a", b"payload", b"correlation")]


async def test_nothing_leaves_before_it_is_durable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(database)
    committed: list[int] = []

    async def publish(message: Message) -> None:
        committed.append(database.rows("SELECT count(*) FROM outbox WHERE n = ?", message.n)[0][0])

    sender = asyncio.ensure_future(outbox.send_forever(publish))
    for payload in numbers(40):
        outbox.post("t", payload)
        await asyncio.sleep(0)
    await until(lambda: len(committed) == 40)
    assert set(committed) == {1}
    sender.cancel()
    await asyncio.wait([sender])


async def test_what_is_posted_while_sending_goes_too(database: Database) -> None:
    outbox, broker = Outbox(database), Broker()
    sender = asyncio.ensure_future(outbox.send_forever(broker.publish))
    for n, payload in enumerate(numbers(60)):
        outbox.post("t", payload)
        if n % 7 == 0:
            await asyncio.sleep(0.001)
    await until(lambda: len(broker.got) == 60)
    assert broker.got == numbers(60)
    sender.cancel()
    await asyncio.wait([sender])


async def test_after_a_loss_everything_behind_it_is_sent_again_in_order(database: Database) -> None:
    outbox, broker = Outbox(database), Broker(20, 41, 42)
    for payload in numbers(60):
        outbox.post("t", payload)
    await send(outbox, broker, 60)
    assert set(broker.got) == set(numbers(60))
    assert broker.got[-1] == numbers(60)[-1]
    assert await left(database) == 0


async def test_a_message_posted_while_the_backlog_is_fetched_is_not_forgotten(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backlog is found to be empty, and directly before that a message came."""
    outbox, broker = Outbox(database), Broker()
    outbox.post("t", b"0")
    await send(outbox, broker, 1)
    real = database.durable

    async def durable_and_one_more() -> None:
        monkeypatch.setattr(database, "durable", real)
        await real()
        outbox.post("t", b"late")

    monkeypatch.setattr(database, "durable", durable_and_one_more)
    await send(outbox, broker, 2)
    outbox.post("t", b"after")
    await send(outbox, broker, 3)
    assert broker.got == [b"0", b"late", b"after"]


@pytest.mark.parametrize("backlog", [3, MEMORY + 1, 3 * MEMORY + 17])
async def test_a_restart_finds_the_backlog(tmp_path: Path, backlog: int) -> None:
    database = Database(tmp_path)
    database.open()
    outbox = Outbox(database)
    for payload in numbers(backlog):
        outbox.post("t", payload)
    broker = Broker(backlog // 2)
    with pytest.raises(LinkGone):
        await outbox.send_forever(broker.publish)
    await database.close()

    database = Database(tmp_path)
    database.open()
    outbox = Outbox(database)
    outbox.post("t", b"new")
    await send(outbox, broker, backlog + 1)
    assert lasts(broker.got) == [*numbers(backlog), b"new"]
    assert await left(database) == 0
    await database.close()


async def test_a_backlog_in_memory_is_bounded(database: Database) -> None:
    outbox, broker = Outbox(database), Broker()
    for payload in numbers(MEMORY * 2):
        outbox.post("t", payload)
    assert len(outbox._ready) == MEMORY
    await send(outbox, broker, MEMORY * 2)
    assert broker.got == numbers(MEMORY * 2)


async def test_a_sender_that_is_cancelled_loses_nothing(database: Database) -> None:
    outbox, broker = Outbox(database), Broker()
    hung = asyncio.Event()

    async def hangs(message: Message) -> None:
        hung.set()
        await asyncio.Event().wait()

    for payload in numbers(5):
        outbox.post("t", payload)
    sender = asyncio.ensure_future(outbox.send_forever(hangs))
    await hung.wait()
    sender.cancel()
    await asyncio.wait([sender])
    assert sender.cancelled()
    await send(outbox, broker, 5)
    assert broker.got == numbers(5)


async def test_a_full_disk_ends_the_sending_and_keeps_the_messages(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, broker = Outbox(database), Broker()
    outbox.post("t", b"0")

    async def full() -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(database, "durable", full)
        with pytest.raises(StoreError):
            await outbox.send_forever(broker.publish)
    assert broker.got == []
    await send(outbox, broker, 1)
    assert broker.got == [b"0"]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
async def test_in_order_at_least_once_whatever_fails(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = Database(tmp_path_factory.mktemp("outbox"))
    database.open()
    try:
        outbox = Outbox(database)
        count = data.draw(st.integers(1, 60))
        broker = Broker(*data.draw(st.sets(st.integers(1, 80), max_size=8)))
        pauses = data.draw(st.sets(st.integers(0, count)))

        async def post() -> None:
            for n, payload in enumerate(numbers(count)):
                outbox.post("t", payload)
                if n in pauses:
                    await asyncio.sleep(0)

        await asyncio.gather(post(), send(outbox, broker, count))
        assert set(broker.got) == set(numbers(count))
        assert await left(database) == 0
        assert lasts(broker.got) == numbers(count)
    finally:
        await database.close()


async def test_documents_are_kept_and_paged(database: Database) -> None:
    outbox = Outbox(database)
    for seq in range(25):
        outbox.keep_document("p", seq, f"d{seq}".encode())
    outbox.keep_document("q", 0, b"other")
    outbox.keep_document("p", 3, b"d3 again")
    await database.durable()
    pages: list[tuple[int, Any]] = []
    while page := outbox.documents("p", len(pages), limit=10):
        assert len(page) <= 10
        pages += page
    assert [seq for seq, _ in pages] == list(range(25))
    assert dict(pages)[3] == b"d3 again"
    assert outbox.documents("p", 24) == [(24, b"d24")]
    assert outbox.documents("p", 25) == []
