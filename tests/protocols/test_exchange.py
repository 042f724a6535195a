"""One question, its own answer: late, damaged, cancelled, lost and interrupted, over real PTYs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from protocols.errors import BadFrame, LinkDown, LinkTimeout
from protocols.exchange import Exchange
from protocols.framed import FramedDecoder, xor8
from protocols.lines import LineDecoder
from protocols.manners import Manners, Replies
from protocols.serial_port import SerialPort, SerialSettings
from protocols.turns import SILENCES
from tests.protocols.peers import Answer, PtyPeer, fill, mute

QUICK = Manners(quiet_s=0.005)


@asynccontextmanager
async def line(
    answer: Answer = mute, manners: Manners = QUICK
) -> AsyncIterator[tuple[Exchange[bytes], PtyPeer]]:
    """An exchange of lines on a PTY, and the peer behind it."""
    with PtyPeer(answer) as peer:
        exchange = Exchange(SerialPort(peer.path, SerialSettings()), LineDecoder(), manners)
        try:
            yield exchange, peer
        finally:
            await exchange.close()


def any_line(_: bytes) -> bool:
    return True


def echo(data: bytes) -> bytes:
    return data


async def ask(exchange: Exchange[bytes], text: bytes, unit: str = "u", timeout_s: float = 5.0) -> bytes:
    return await exchange.request(text + b"\r\n", accept=any_line, timeout_s=timeout_s, unit=unit)


async def test_the_port_opens_with_the_first_request() -> None:
    async with line(echo) as (exchange, _):
        assert not exchange.is_open
        assert await ask(exchange, b"one") == b"one"
        assert exchange.is_open
        assert [await ask(exchange, b"%d" % n) for n in range(50)] == [b"%d" % n for n in range(50)]


async def test_frames_that_are_not_the_answer_are_dropped_and_counted() -> None:
    async with line(lambda _: b"unasked\r\nS S 1\r\n") as (exchange, _):
        answer = await exchange.request(
            b"S\r\n", accept=lambda text: text.startswith(b"S"), timeout_s=5, unit="u"
        )
        assert answer == b"S S 1"
        assert exchange.strays == 1


async def test_what_came_before_the_question_is_not_its_answer() -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"first")
        # Written to the line, not yet read by the loop: half a line, too.
        peer.say(b"unasked\r\nhal")
        assert await ask(exchange, b"second") == b"second"


async def test_no_answer_is_a_timeout_that_may_have_been_sent() -> None:
    async with line() as (exchange, peer):
        with pytest.raises(LinkTimeout, match=r"pump did not answer within 0\.02 s") as caught:
            await ask(exchange, b"one", "pump", timeout_s=0.02)
        assert caught.value.sent
        assert peer.received == b"one\r\n"


@pytest.mark.parametrize("way", ["timeout", "cancel"])
async def test_a_late_answer_is_never_taken_for_the_next_one(way: str) -> None:
    answers = iter([None, b"new\r\n"])
    async with line(lambda _: next(answers), Manners(quiet_s=0.005, late_s=10.0)) as (exchange, peer):
        timeout_s = 0.02 if way == "timeout" else 5.0
        first = asyncio.create_task(ask(exchange, b"one", timeout_s=timeout_s))
        await peer.heard(5)
        if way == "cancel":
            first.cancel()
        with pytest.raises((LinkTimeout, asyncio.CancelledError)):
            await first
        second = asyncio.create_task(ask(exchange, b"two"))
        await asyncio.sleep(0)
        assert peer.received == b"one\r\n"
        peer.say(b"old\r\n")
        assert await second == b"new"
        assert exchange.strays == 1


async def test_half_an_answer_is_forgotten_after_a_timeout() -> None:
    answers = iter([b"hal", b"whole\r\n"])
    async with line(lambda _: next(answers)) as (exchange, _):
        with pytest.raises(LinkTimeout):
            await ask(exchange, b"one", timeout_s=0.02)
        assert await ask(exchange, b"two") == b"whole"


async def test_a_dirty_line_must_be_silent_before_it_is_used() -> None:
    answers: list[bytes | None] = [None, b"new\r\n"]
    async with line(lambda _: answers.pop(0), Manners(quiet_s=0.03)) as (exchange, peer):
        with pytest.raises(LinkTimeout):
            await ask(exchange, b"one", timeout_s=0.01)
        second = asyncio.create_task(ask(exchange, b"two"))
        for _ in range(10):
            peer.say(b"chatter\r\n")
            await asyncio.sleep(0.01)
            assert peer.received == b"one\r\n"
        assert await second == b"new"


async def test_a_line_that_never_rests_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.exchange.RESYNCHRONISE_S", 0.05)
    async with line(mute, Manners(quiet_s=0.03)) as (exchange, peer):
        with pytest.raises(LinkTimeout):
            await ask(exchange, b"one", timeout_s=0.01)
        opened: list[bool] = []
        real = exchange.stream.open

        async def counted() -> None:
            opened.append(True)
            await real()

        monkeypatch.setattr(exchange.stream, "open", counted)
        second = asyncio.create_task(
            exchange.request(b"two\r\n", accept=lambda text: text == b"new", timeout_s=5, unit="u")
        )
        while not opened:
            peer.say(b"chatter\r\n")
            await asyncio.sleep(0.005)
        await peer.heard(10)
        peer.say(b"new\r\n")
        assert await second == b"new"


def framed(peer: PtyPeer, manners: Manners = QUICK) -> Exchange[bytes]:
    return Exchange(SerialPort(peer.path, SerialSettings()), FramedDecoder(), manners)


def oem(payload: bytes) -> bytes:
    covered = b"\x02" + payload + b"\x03"
    return covered + xor8(covered)


async def test_a_damaged_answer_is_the_peers_fault_and_not_data() -> None:
    answers = iter([oem(b"0@")[:-1] + b"\x00", oem(b"0`")])
    with PtyPeer(lambda _: next(answers)) as peer:
        exchange = framed(peer)
        with pytest.raises(BadFrame, match=r"damaged: its check is 00 where 71 was due") as caught:
            await exchange.request(oem(b"11Q"), accept=any_line, timeout_s=0.05, unit="1")
        assert caught.value.sent
        assert exchange.malformed == 1
        assert await exchange.request(oem(b"12Q"), accept=any_line, timeout_s=5, unit="1") == b"0`"
        await exchange.close()


async def test_noise_before_a_good_answer_costs_nothing() -> None:
    noise = b"\xff\x02\x03\x99" + oem(b"0@")[:-1] + b"\x00"
    with PtyPeer(lambda _: noise + oem(b"0`")) as peer:
        exchange = framed(peer)
        assert await exchange.request(oem(b"11Q"), accept=any_line, timeout_s=5, unit="1") == b"0`"
        assert exchange.malformed
        await exchange.close()


async def test_what_accept_raises_reaches_the_caller_and_leaves_the_line_usable() -> None:
    def wrong_address(_: bytes) -> bool:
        raise BadFrame("address 31 answered for 30")

    async with line(echo) as (exchange, _):
        with pytest.raises(BadFrame, match="address 31"):
            await exchange.request(b"one\r\n", accept=wrong_address, timeout_s=5, unit="u")
        assert await ask(exchange, b"two") == b"two"


async def test_a_port_that_is_not_there_fails_at_once_and_then_for_a_while(tmp_path: Path) -> None:
    tried: list[None] = []
    exchange = Exchange(SerialPort(str(tmp_path / "red"), SerialSettings()), LineDecoder(), QUICK)
    real = exchange.stream.open

    async def counted() -> None:
        tried.append(None)
        await real()

    exchange.stream.open = counted  # type: ignore[method-assign]  # counts the attempts
    for _ in range(5):
        with pytest.raises(LinkDown, match="There is no port") as caught:
            await ask(exchange, b"one")
        assert not caught.value.sent
    assert len(tried) == 1


async def test_a_hang_up_fails_the_request_in_flight_and_the_next_one_reconnects(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "red"
    with PtyPeer(echo) as peer:
        exchange = Exchange(SerialPort(peer.link(path), SerialSettings()), LineDecoder(), QUICK)
        await ask(exchange, b"one")
        peer.answer = mute
        task = asyncio.create_task(ask(exchange, b"two"))
        await peer.heard(10)
        peer.hang_up()
        with pytest.raises(LinkDown, match="hung up") as caught:
            await task
        assert caught.value.sent
    with PtyPeer(echo) as peer:
        peer.link(path)
        assert await ask(exchange, b"three") == b"three"
        assert await ask(exchange, b"four") == b"four"
        await exchange.close()
    messages = [record.message for record in caplog.records]
    assert [("hung up" in text, text.endswith("is back")) for text in messages] == [
        (True, False),
        (False, True),
    ]


async def test_a_request_the_peer_never_took_was_not_sent_and_does_not_come_later() -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"one")
        peer.stall()
        before = len(peer.received)
        fill(exchange.stream)
        with pytest.raises(LinkTimeout) as caught:
            await ask(exchange, b"ghost", timeout_s=0.02)
        assert not caught.value.sent
        peer.answer = mute
        peer.unstall()
        await peer.heard(before + 1)
        peer.answer = lambda data: b"next\r\n" if data.endswith(b"next\r\n") else None
        assert await ask(exchange, b"next") == b"next"
        assert b"ghost" not in peer.received


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


async def test_a_stop_reaches_a_peer_that_had_stalled_before_anything_else() -> None:
    async with line(echo) as (exchange, peer):
        await ask(exchange, b"one")
        peer.answer = mute
        peer.stall()
        fill(exchange.stream)
        waiting = exchange.stream.queued
        task = asyncio.create_task(ask(exchange, b"move"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert exchange.stream.queued == waiting + 6
        assert exchange.urgent(b"STOP\r\n")
        with pytest.raises(LinkDown, match="stop") as caught:
            await task
        assert not caught.value.sent
        peer.unstall()
        await peer.heard_end(b"STOP\r\n")
        assert b"move" not in peer.received


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


async def test_the_gap_before_a_request_counts_from_the_last_byte() -> None:
    seen: list[float] = []
    clock: Callable[[], float] = asyncio.get_running_loop().time

    def answer(data: bytes) -> bytes:
        seen.append(clock())
        return data

    async with line(answer, Manners(gap_s=0.03)) as (exchange, _):
        for n in range(3):
            await ask(exchange, b"%d" % n)
    assert all(later - earlier >= 0.029 for earlier, later in pairwise(seen))


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
        assert await ask_unit(b"b 1") == b"b 1"
        assert b"a new" not in peer.received
        peer.answer = lambda data: data
        peer.say(b"a old\r\n")
        assert await again == b"a new"
