"""A line shared and interrupted: turns, conversations, stops, closing."""

from __future__ import annotations

import asyncio

import pytest

from protocols.errors import LinkDown, LinkTimeout
from protocols.exchange import Exchange
from protocols.lines import LineDecoder
from protocols.manners import Manners, Replies
from protocols.tcp import TcpStream
from protocols.turns import SILENCES
from tests.protocols.peers import TcpPeer, choked, fill, mute
from tests.protocols.rigs import QUICK, any_line, ask, echo, line


async def test_units_share_the_line_fairly() -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"open")
        peer.chunks.clear()
        async with asyncio.TaskGroup() as group:
            for label in (b"a1", b"a2", b"a3", b"b1", b"b2", b"c1"):
                group.create_task(ask(exchange, label, unit=label[:1].decode()))
        assert [chunk.strip() for chunk in peer.chunks] == [b"a1", b"b1", b"c1", b"a2", b"b2", b"a3"]


async def test_a_dead_unit_waits_outside_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with line(lambda data: None if data.startswith(b"dead") else data) as (exchange, peer):
        for _ in range(SILENCES):
            with pytest.raises(LinkTimeout):
                await ask(exchange, b"dead", "dead", timeout_s=0.005)
        heard = peer.received.count(b"dead")
        waiting = [asyncio.create_task(ask(exchange, b"dead", "dead")) for _ in range(3)]
        for n in range(10):
            assert await ask(exchange, b"%d" % n, "alive") == b"%d" % n
        assert peer.received.count(b"dead") == heard
        peer.answer = echo
        assert await asyncio.gather(*waiting) == [b"dead"] * 3
    told = [record.message for record in caplog.records]
    assert [text.partition(": ")[2] for text in told] == ["dead has stopped answering", "dead answers again"]


async def test_no_turn_in_time_was_certainly_not_sent() -> None:
    async with line(mute, Manners(turn_timeout_s=0.02)) as (exchange, peer):
        first = asyncio.create_task(ask(exchange, b"one"))
        await peer.heard(5)
        with pytest.raises(LinkTimeout, match="got no turn within") as caught:
            await ask(exchange, b"two", "other")
        assert not caught.value.sent
        peer.say(b"answer\r\n")
        assert await first == b"answer"


async def test_a_stop_passes_at_once_and_fails_what_is_in_flight_or_waits() -> None:
    async with line() as (exchange, peer):
        flying = asyncio.create_task(ask(exchange, b"move", "1"))
        await peer.heard(6)
        waiting = asyncio.create_task(ask(exchange, b"more", "1"))
        await asyncio.sleep(0)
        assert exchange.urgent(b"STOP\r\n")
        for task, sent in ((flying, True), (waiting, False)):
            with pytest.raises(LinkDown, match="interrupted by a stop") as caught:
                await task
            assert caught.value.sent is sent
        await peer.heard(12)
        assert peer.received == b"move\r\nSTOP\r\n"
        peer.answer = echo
        assert await ask(exchange, b"status", "1") == b"status"


async def test_a_stop_of_one_unit_leaves_what_others_have_waiting() -> None:
    async with line() as (exchange, peer):
        flying = asyncio.create_task(ask(exchange, b"move", "1"))
        await peer.heard(6)
        other = asyncio.create_task(ask(exchange, b"read", "2"))
        mine = asyncio.create_task(ask(exchange, b"more", "1"))
        await asyncio.sleep(0)
        peer.answer = lambda data: b"fine\r\n" if b"read" in data else None
        exchange.urgent(b"STOP\r\n", "1")
        with pytest.raises(LinkDown):
            await flying
        with pytest.raises(LinkDown):
            await mine
        assert await other == b"fine"
        assert peer.received == b"move\r\nSTOP\r\nread\r\n"


async def test_a_stop_withdraws_a_request_that_the_peer_has_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"one")
        peer.answer = mute
        with choked(monkeypatch):
            task = asyncio.create_task(ask(exchange, b"move"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert exchange.stream.queued == 6
            assert not exchange.urgent(b"STOP\r\n")
            with pytest.raises(LinkDown, match="stop") as caught:
                await task
            assert not caught.value.sent
        await peer.heard_end(b"STOP\r\n")
        assert peer.received == b"one\r\nSTOP\r\n"


async def test_a_stop_reaches_a_peer_that_had_stalled_before_anything_else() -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"one")
        peer.answer = mute
        peer.stall()
        await fill(exchange.stream)
        assert exchange.urgent(b"STOP\r\n")
        exchange.stream.write(b"GO\r\n")
        peer.unstall()
        await peer.heard_end(b"STOP\r\nGO\r\n")


async def test_nothing_moves_after_a_stop_that_came_while_the_line_was_made_ready() -> None:
    async with line(echo, Manners(quiet_s=0.005, gap_s=0.05)) as (exchange, peer):
        await ask(exchange, b"one")
        task = asyncio.create_task(ask(exchange, b"move"))
        await asyncio.sleep(0.005)
        assert not task.done()
        exchange.urgent(b"STOP\r\n")
        with pytest.raises(LinkDown, match="stop") as caught:
            await task
        assert not caught.value.sent
        assert b"move" not in peer.received


async def test_a_conversation_holds_the_line_for_several_frames() -> None:
    lines = b"I0 B 0 I0\r\nI0 B 0 I1\r\nI0 A 1 S\r\n"
    async with line(lambda data: lines if data == b"I0\r\n" else data) as (exchange, peer):
        async with exchange.converse("scale") as talk:
            found = [await talk.request(b"I0\r\n", accept=any_line, timeout_s=5)]
            other = asyncio.create_task(ask(exchange, b"other", "b"))
            while b" B " in found[-1]:
                found.append(await talk.receive(accept=any_line, timeout_s=5))
            assert b"other" not in peer.received
        assert found == lines.split(b"\r\n")[:-1]
        assert await other == b"other"
        assert exchange.strays == 0


async def give_up_after_one_line(exchange: Exchange[bytes]) -> None:
    async with exchange.converse("u") as talk:
        await talk.request(b"I0\r\n", accept=any_line, timeout_s=5)
        raise RuntimeError("driver")


async def test_a_conversation_that_fails_leaves_the_line_dirty() -> None:
    async with line(lambda _: b"one\r\n", Manners(quiet_s=0.03)) as (exchange, peer):
        with pytest.raises(RuntimeError, match="driver"):
            await give_up_after_one_line(exchange)
        peer.answer = lambda _: b"two\r\n"
        second = asyncio.create_task(ask(exchange, b"x"))
        await asyncio.sleep(0.005)
        peer.say(b"rest of the first\r\n")
        assert await second == b"two"


async def test_the_rest_of_a_conversation_counts_as_strays_and_receive_can_time_out() -> None:
    async with line(lambda _: b"a\r\nb\r\nc\r\n") as (exchange, _):
        async with exchange.converse("u") as talk:
            await talk.request(b"x\r\n", accept=any_line, timeout_s=5)
            assert await talk.receive(accept=lambda text: text == b"c", timeout_s=5) == b"c"
            assert exchange.strays == 1
        with pytest.raises(LinkTimeout):
            async with exchange.converse("u") as talk:
                await talk.receive(accept=any_line, timeout_s=0.01)


async def test_a_command_without_answer_returns_when_it_is_written() -> None:
    async with line() as (exchange, peer):
        await exchange.send(b"START_1\r\n", "stirrer")
        await peer.heard(9)
        assert peer.received == b"START_1\r\n"


async def test_closing_fails_what_flies_and_what_waits_for_good() -> None:
    async with line() as (exchange, peer):
        flying = asyncio.create_task(ask(exchange, b"one", "a"))
        waiting = asyncio.create_task(ask(exchange, b"two", "b"))
        await peer.heard(5)
        await exchange.close()
        for task, sent in ((flying, True), (waiting, False)):
            with pytest.raises(LinkDown, match="closed here") as caught:
                await task
            assert caught.value.sent is sent
        with pytest.raises(LinkDown, match="closed here"):
            await ask(exchange, b"three")
        assert peer.received == b"one\r\n"


async def test_closing_does_not_wait_for_a_unit_that_waits_outside() -> None:
    async with line() as (exchange, _):
        for _ in range(SILENCES + 4):
            exchange._turns.unit("dead").failed(asyncio.get_running_loop().time())
        task = asyncio.create_task(ask(exchange, b"x", "dead"))
        await asyncio.sleep(0)
        await exchange.close()
        with pytest.raises(LinkDown, match="closed"):
            await asyncio.wait_for(task, 1)


async def test_a_late_answer_of_one_unit_holds_up_that_unit_only() -> None:
    """Replies with an address: others may talk while the late one is waited for."""
    manners = Manners(quiet_s=0.005, late_s=30.0, replies=Replies.ADDRESSED)
    async with line(lambda data: None if data.startswith(b"a") else data, manners) as (exchange, peer):

        async def ask_unit(text: bytes, timeout_s: float = 5.0) -> bytes:
            unit = text[:1]
            return await exchange.request(
                text + b"\r\n", accept=lambda got: got[:1] == unit, timeout_s=timeout_s, unit=unit.decode()
            )

        with pytest.raises(LinkTimeout):
            await ask_unit(b"a old", 0.02)
        again = asyncio.create_task(ask_unit(b"a new"))
        await asyncio.sleep(0.02)
        assert await ask_unit(b"b 1") == b"b 1"
        assert b"a new" not in peer.received
        peer.answer = lambda data: data
        peer.say(b"a old\r\n")
        assert await again == b"a new"


@pytest.mark.parametrize("busy", [False, True])
async def test_the_answer_to_a_stop_is_not_the_next_ones(busy: bool) -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"one")
        before = len(peer.received)
        if busy:
            peer.answer = mute
            task = asyncio.create_task(ask(exchange, b"move"))
            await peer.heard(before + 6)
            peer.answer = echo
        await asyncio.sleep(0.02)
        exchange.urgent(b"STOP\r\n")
        assert await ask(exchange, b"status") == b"status"
        if busy:
            with pytest.raises(LinkDown, match="stop"):
                await task


async def test_a_stop_with_a_slow_answer_is_waited_for() -> None:
    async with line(echo, Manners(quiet_s=0.005, late_s=10.0)) as (exchange, peer):
        await ask(exchange, b"one")
        before = len(peer.received)
        peer.answer = mute
        exchange.urgent(b"STOP\r\n")
        task = asyncio.create_task(ask(exchange, b"status"))
        await peer.heard(before + 6)
        await asyncio.sleep(0.02)
        assert len(peer.received) == before + 6
        peer.answer = echo
        peer.say(b"stopped\r\n")
        assert await task == b"status"


async def test_stop_bytes_that_wait_leave_before_the_line_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TcpPeer() as peer:
        exchange = Exchange(TcpStream("127.0.0.1", peer.port), LineDecoder(), QUICK)
        await exchange.send(b"", "u")
        with choked(monkeypatch):
            exchange.stream.write(b"MOVE\r\n")
            assert not exchange.urgent(b"STOP\r\n")
            task = asyncio.create_task(ask(exchange, b"status"))
            await asyncio.sleep(0.02)
            assert exchange.stream.queued == 6
        peer.answer = lambda data: b"fine\r\n" if data.endswith(b"status\r\n") else None
        assert await task == b"fine"
        assert peer.received == b"STOP\r\nstatus\r\n"
        await exchange.close()


async def test_closing_while_the_port_opens_leaves_it_closed() -> None:
    async with line(echo) as (exchange, _):
        task = asyncio.create_task(ask(exchange, b"one"))
        await asyncio.sleep(0)
        assert not exchange.is_open
        await exchange.close()
        with pytest.raises(LinkDown, match="closed here"):
            await task
        assert not exchange.is_open
