"""Question and answer on one line: one in flight, a deadline, and a clean line before the next.

    request ─► the unit's turn ─► open / resynchronise ─► write ─► first frame that `accept` takes
                                                             └──► timeout, cancel: the line is dirty

An answer that comes too late is the classic way to take one value for another. After a timeout, a
cancellation or a damaged frame the line is therefore dirty: before it is used again, it must have been
silent for `quiet_s`, an answer that is still owed gets time to arrive, and everything received is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic

from protocols.codec import Decoder, FrameT, Malformed
from protocols.errors import BadFrame, LinkDown, LinkTimeout
from protocols.manners import Manners, Replies
from protocols.pending import Accept, Owed, Pending
from protocols.stream import Stream
from protocols.turns import Backoff, Stirring, Turns, Unit

LOG = logging.getLogger(__name__)
RESYNCHRONISE_S = 2.0
"""How long a line may go on talking before it is opened anew."""
INBOX_LIMIT = 1000
STOPPED = "interrupted by a stop"


class Exchange(Generic[FrameT]):
    """Requests and answers of all units on one port. Owned by `links.Links`, shared by drivers.

    Counters: `strays`, frames that nobody waited for; `malformed`, damaged ones.
    """

    def __init__(self, stream: Stream, decoder: Decoder[FrameT], manners: Manners | None = None) -> None:
        self.stream = stream
        self.decoder = decoder
        self.manners = manners or Manners()
        self.strays = 0
        self.malformed = 0
        self._tagged = self.manners.replies is Replies.TAGGED
        self._turns = Turns()
        self._pending: Pending[FrameT] | None = None
        self._talk: Conversation[FrameT] | None = None
        self._owed: list[Owed[FrameT]] = []
        self._dirty = False
        self._broken = False
        self._closed = False
        self._stops = 0
        self._last_byte = float("-inf")
        self._heard = Stirring()
        self._reconnect = Backoff()
        self._down: str | None = None
        stream.listen(self._on_bytes, self._on_lost)

    @property
    def name(self) -> str:
        """The port's path or URL."""
        return self.stream.name

    @property
    def is_open(self) -> bool:
        """Whether the port is open now."""
        return self.stream.is_open

    async def request(self, data: bytes, *, accept: Accept[FrameT], timeout_s: float, unit: str) -> FrameT:
        """Send `data` and return the first frame that `accept` takes.

        `timeout_s` counts from the sending. `accept` sees every whole frame, late ones too, and must be pure;
        frames it refuses are dropped and counted. Raises `LinkDown` (no port; lost; stopped), `LinkTimeout`
        (no turn: sent=False; no answer), `BadFrame` (only a damaged answer by the deadline), and what
        `accept` raises.
        """
        async with self.converse(unit) as talk:
            return await talk.request(data, accept=accept, timeout_s=timeout_s)

    async def send(self, data: bytes, unit: str) -> None:
        """Send a command that has no answer. Raises `LinkDown`, `LinkTimeout` (no turn), sent=False."""
        async with self.converse(unit) as talk:
            talk.send(data)
            self._mark_up()

    @asynccontextmanager
    async def converse(self, unit: str) -> AsyncIterator[Conversation[FrameT]]:
        """Hold the line for several frames. A body that fails after it has sent leaves the line dirty."""
        self._refuse_if_down()
        party = self._turns.unit(unit)
        stops = (self._stops, party.stops)
        try:
            await self._turns.take(party, self.manners.turn_timeout_s, lambda: self._delay(party))
        except TimeoutError:
            raise LinkTimeout(
                f"{self.name}: {unit} got no turn within {self.manners.turn_timeout_s:g} s, "
                "because the line is busy or the unit has not been answering.",
                sent=False,
            ) from None
        talk = Conversation(self, party, stops)
        try:
            await self._make_ready()
            self._talk = talk
            yield talk
        except BaseException:
            self._dirty = self._dirty or (talk.has_sent and not self._tagged)
            raise
        finally:
            self._talk = None
            self.strays += len(talk.inbox)
            self._turns.give_back(party)

    def urgent(self, data: bytes, unit: str | None = None) -> bool:
        """Send the bytes of a stop at once, whatever is going on; see `Stream.urgent`. Never raises.

        The request in flight fails with `LinkDown` (sent=True). So do, with sent=False, requests of `unit`
        (None: of every unit) that were made before the stop and have not been sent: none may move
        anything after it. The line is dirty.
        """
        waiting = self.stream.queued
        taken = self.stream.urgent(data)
        if unit is None:
            self._stops += 1
        else:
            self._turns.unit(unit).stops += 1
        if self._pending is not None:
            sent = waiting < self._pending.length
            self._pending.fail(LinkDown(f"{self.name}: {STOPPED}.", sent=sent))
        self._broken = self._broken or (self._tagged and waiting > 0)
        if not self._tagged:
            self._dirty = True
            self._last_byte = _now()
            self._owe(lambda _: True, self._turns.unit(unit or ""), _now() + self.manners.late_s)
        return taken

    async def close(self) -> None:
        """Close the port for good: what is in flight or waits fails with `LinkDown`."""
        self._closed = True
        if self._pending is not None:
            self._pending.fail(LinkDown(f"{self.name} has been closed here.", sent=True))
        self._turns.stir()
        await self.stream.close()

    def _delay(self, unit: Unit) -> float:
        """Seconds for which the unit must stay outside the queue."""
        now = _now()
        if self._closed:
            return 0.0
        until = unit.backoff.ready_at if unit.given_up else now
        if self.manners.replies is Replies.ADDRESSED:
            until = max([until, *(owed.until for owed in self._owed if owed.unit is unit)])
        return until - now

    def _refuse_if_down(self) -> None:
        if self._closed:
            raise LinkDown(f"{self.name} has been closed here.", sent=False)
        if not self.stream.is_open and _now() < self._reconnect.ready_at:
            raise LinkDown(self._down or f"{self.name} is not open.", sent=False)

    async def _make_ready(self) -> None:
        self._refuse_if_down()
        if self._broken:
            await self.stream.close()
        if not self.stream.is_open:
            await self._open()
        elif self._dirty:
            await self._resynchronise()
        if self.manners.gap_s:
            pause = self._last_byte + self.manners.gap_s - _now()
            if pause > 0:
                await asyncio.sleep(pause)

    async def _open(self) -> None:
        try:
            await self.stream.open()
        except LinkDown as problem:
            self._reconnect.failed(_now())
            self._mark_down(str(problem))
            raise
        if self._closed:
            await self.stream.close()
            raise LinkDown(f"{self.name} has been closed here.", sent=False)
        # Until something has answered, a port that opens and drops again is as good as one that won't open.
        self._reconnect.failed(_now())
        self._clean()

    def _mark_down(self, reason: str) -> None:
        if self._down is None:
            LOG.warning("%s", reason)
        self._down = reason

    def _mark_up(self) -> None:
        self._reconnect.succeeded()
        if self._down is not None:
            LOG.info("%s is back", self.name)
        self._down = None

    async def _resynchronise(self) -> None:
        """Wait until the line is silent and owes nothing, at most `RESYNCHRONISE_S`; then reopen it."""
        limit = _now() + max(RESYNCHRONISE_S, self.manners.late_s)
        while (pause := self._unrest()) > 0:
            if _now() + pause > limit:
                LOG.warning("%s does not come to rest; it is opened anew", self.name)
                await self.stream.close()
                await self._open()
                return
            await self._heard.wait(pause)
            if not self.stream.is_open:
                await self._open()
                return
        self._clean()

    def _unrest(self) -> float:
        """Seconds for which the line must at least stay silent from now on."""
        self.stream.poll()
        now = _now()
        if self.stream.queued:
            return max(self.manners.quiet_s, 0.001)
        until = self._last_byte + self.manners.quiet_s
        if self.manners.replies is Replies.ANONYMOUS:
            until = max([until, *(owed.until for owed in self._owed)])
        return until - now

    def _clean(self) -> None:
        self.stream.discard_input()
        self.decoder.reset()
        self._dirty = False
        self._broken = False
        if self.manners.replies is not Replies.ADDRESSED:
            self._owed.clear()

    def _write(self, data: bytes) -> None:
        self.stream.write(data)
        self._last_byte = _now() + len(data) * self.manners.character_s

    async def _answer(self, pending: Pending[FrameT], unit: Unit) -> FrameT:
        self._pending = pending
        loop = asyncio.get_running_loop()
        alarm = loop.call_at(pending.deadline, self._expire, pending, unit)
        try:
            frame = await pending.answer
        except (LinkTimeout, LinkDown):
            self._owe(pending.accept, unit, _now() + self.manners.late_s)
            raise
        except asyncio.CancelledError:
            self._withdraw()
            late = pending.deadline + self.manners.late_s
            self._owe(pending.accept, unit, min(late, _now() + RESYNCHRONISE_S))
            raise
        finally:
            alarm.cancel()
            self._pending = None
        self._mark_up()
        if unit.answered():
            LOG.info("%s: %s answers again", self.name, unit.name)
        return frame

    def _owe(self, accept: Accept[FrameT], unit: Unit, until: float) -> None:
        if not self._tagged:
            now = _now()
            self._owed = [owed for owed in self._owed if owed.until > now]
            self._owed.append(Owed(accept, unit, until))

    def _expire(self, pending: Pending[FrameT], unit: Unit) -> None:
        if pending.answer.done():
            return
        sent = self._withdraw() < pending.length
        if unit.failed(_now()):
            LOG.warning("%s: %s has stopped answering", self.name, unit.name)
        if pending.malformed is not None:
            pending.fail(self._bad_frame(pending.malformed))
            return
        sentence = f"{self.name}: {unit.name} did not answer within {pending.timeout_s:g} s."
        pending.fail(LinkTimeout(sentence, sent=sent))

    def _withdraw(self) -> int:
        """A request the peer has not taken must not reach it later, when nobody expects it any more."""
        dropped = self.stream.discard_output()
        self._broken = self._broken or (self._tagged and dropped > 0)
        return dropped

    def _bad_frame(self, item: Malformed) -> BadFrame:
        return BadFrame(f"{self.name}: the answer was damaged: {item.why} ({item.raw[:32].hex(' ')}).")

    def _on_bytes(self, data: bytes) -> None:
        self._last_byte = _now()
        self._heard.stir()
        for item in self.decoder.feed(data):
            if isinstance(item, Malformed):
                self._on_malformed(item)
            else:
                self._on_frame(item)

    def _on_malformed(self, item: Malformed) -> None:
        self.malformed += 1
        self._broken = self._broken or self._tagged
        if self._pending is not None:
            self._pending.malformed = item
            if self._tagged:
                # A stream that has lost its frame boundaries brings no good answer any more.
                self._pending.fail(self._bad_frame(item))

    def _on_frame(self, frame: FrameT) -> None:
        pending = self._pending
        if pending is not None and not pending.answer.done():
            try:
                taken = pending.accept(frame)
            except Exception as problem:
                pending.fail(problem)
                return
            if taken:
                pending.answer.set_result(frame)
                return
        elif self._talk is not None and len(self._talk.inbox) < INBOX_LIMIT:
            self._talk.inbox.append(frame)
            return
        self.strays += 1
        for owed in [owed for owed in self._owed if owed.is_paid_by(frame)]:
            self._owed.remove(owed)
            owed.unit.stirred.stir()

    def _on_lost(self, reason: str) -> None:
        self._mark_down(reason)
        if self._pending is not None:
            self._pending.fail(LinkDown(reason, sent=True))


class Conversation(Generic[FrameT]):
    """The line, held for one unit. Use only inside `Exchange.converse`."""

    def __init__(self, exchange: Exchange[FrameT], unit: Unit, stops: tuple[int, int]) -> None:
        self.inbox: deque[FrameT] = deque()
        self.has_sent = False
        self._exchange = exchange
        self._unit = unit
        self._stops = stops

    def send(self, data: bytes) -> None:
        """Send without waiting. Raises `LinkDown` (sent=False), also if a stop has come since."""
        exchange = self._exchange
        if self._stops != (exchange._stops, self._unit.stops):
            raise LinkDown(f"{exchange.name}: {STOPPED}.", sent=False)
        exchange._write(data)
        self.has_sent = True

    async def request(self, data: bytes, *, accept: Accept[FrameT], timeout_s: float) -> FrameT:
        """As `Exchange.request`. What came before the sending is not the answer: it is dropped."""
        exchange = self._exchange
        exchange.stream.poll()
        exchange.strays += len(self.inbox)
        self.inbox.clear()
        if not exchange._tagged:
            exchange.decoder.reset()
        self.send(data)
        return await exchange._answer(Pending(accept, len(data), timeout_s), self._unit)

    async def receive(self, *, accept: Accept[FrameT], timeout_s: float) -> FrameT:
        """The next frame that `accept` takes, from the last one taken on. Raises as `request`."""
        while self.inbox:
            frame = self.inbox.popleft()
            if accept(frame):
                return frame
            self._exchange.strays += 1
        return await self._exchange._answer(Pending(accept, 0, timeout_s), self._unit)


def _now() -> float:
    return asyncio.get_running_loop().time()
