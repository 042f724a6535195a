"""What has to reach the broker, kept until it has: documents, replies, alarms.

A message is posted (queued for the next commit), then durable, then published, then forgotten. It is
published in order; after a crash it may be published twice, and documents carry `seq` so that a
subscriber can tell.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from edge.store.database import Database

MEMORY = 1_000
"""Messages kept in memory; a longer backlog waits in the file alone."""
IN_FLIGHT = 16


class Message(msgspec.Struct, frozen=True):
    """One message to the broker, QoS 1."""

    n: int
    topic: str
    payload: bytes
    correlation: bytes | None = None
    retain: bool = False


Publish = Callable[[Message], Awaitable[None]]


class Outbox:
    """A durable queue with one sender."""

    def __init__(self, database: Database) -> None:
        self.database = database
        ((last,),) = database.rows("SELECT coalesce(max(n), 0) FROM outbox")
        self._n: int = last
        self._ready: deque[Message] = deque()
        ((first,),) = database.rows("SELECT coalesce(min(n), 0) FROM outbox")
        self._spilled = first > 0
        self._sent = first - 1 if first else last
        self._news = asyncio.Event()
        if self._spilled:
            self._news.set()

    def post(
        self, topic: str, payload: bytes, correlation: bytes | None = None, *, retain: bool = False
    ) -> None:
        """Queue a message; it becomes durable with the next commit."""
        self._n += 1
        message = Message(self._n, topic, payload, correlation, retain)
        self.database.put("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", *msgspec.structs.astuple(message))
        if self._spilled or len(self._ready) >= MEMORY:
            self._spilled = True
        else:
            self._ready.append(message)
        self._news.set()

    def keep_document(self, plan_id: str, seq: int, payload: bytes) -> None:
        """Keep a document for `replay`."""
        self.database.put("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", plan_id, seq, payload)

    def documents(self, plan_id: str, from_seq: int, limit: int = 500) -> list[tuple[int, bytes]]:
        """Kept documents of a run from `from_seq` on, a page at a time."""
        return [
            (seq, payload)
            for seq, payload in self.database.rows(
                "SELECT seq, payload FROM documents WHERE plan_id = ? AND seq >= ? ORDER BY seq LIMIT ?",
                plan_id,
                from_seq,
                limit,
            )
        ]

    async def send_forever(self, publish: Publish) -> None:
        """Publish in order, several in flight, until `publish` raises (the link is down)."""
        try:
            while True:
                batch = await self._next_batch()
                results = await asyncio.gather(
                    *(publish(message) for message in batch), return_exceptions=True
                )
                self._settle(batch, results)
        finally:
            self._ready.clear()
            self._spilled = True
            self._news.set()

    def _settle(self, batch: list[Message], results: list[BaseException | None]) -> None:
        """Forget what the broker has; raise the first failure, behind which everything is sent again."""
        failure: BaseException | None = None
        for message, result in zip(batch, results, strict=True):
            if result is not None:
                failure = result
                break
            self._sent = message.n
        self.database.put("DELETE FROM outbox WHERE n <= ?", self._sent)
        if failure is not None:
            raise failure

    async def _next_batch(self) -> list[Message]:
        while True:
            if not self._ready and self._spilled:
                await self.database.durable()
                self._refill()
            if count := min(IN_FLIGHT, len(self._ready)):
                await self.database.durable()  # and not of what is posted while it waits
                return [self._ready.popleft() for _ in range(count)]
            if not self._spilled:
                self._news.clear()
                await self._news.wait()

    def _refill(self) -> None:
        rows = self.database.rows(
            "SELECT n, topic, payload, correlation, retain FROM outbox WHERE n > ? ORDER BY n LIMIT ?",
            self._sent,
            MEMORY,
        )
        self._ready.extend(Message(*row) for row in rows)
        self._spilled = (self._ready[-1].n if self._ready else self._sent) < self._n
