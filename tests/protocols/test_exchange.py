"""One question, its own answer: late, damaged, cancelled, lost and interrupted, over real PTYs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from protocols.errors import BadFrame, LinkDown, LinkTimeout
from protocols.exchange import Exchange
from protocols.framed import FramedDecoder, xor8
from protocols.lines import LineDecoder
from protocols.manners import Manners
from protocols.serial_port import SerialPort, SerialSettings
from protocols.tcp import TcpStream
from tests.protocols.peers import PtyPeer, TcpPeer, fill, mute
from tests.protocols.rigs import QUICK, any_line, ask, echo, line


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
        await fill(exchange.stream)
        with pytest.raises(LinkTimeout) as caught:
            await ask(exchange, b"ghost", timeout_s=0.02)
        assert not caught.value.sent
        peer.answer = mute
        peer.unstall()
        await peer.heard(before + 1)
        peer.answer = lambda data: b"next\r\n" if data.endswith(b"next\r\n") else None
        assert await ask(exchange, b"next") == b"next"
        assert b"ghost" not in peer.received


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


async def test_a_line_lost_while_it_was_waited_for_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "red"
    with PtyPeer() as first, PtyPeer(echo) as second:
        exchange = Exchange(
            SerialPort(first.link(path), SerialSettings()), LineDecoder(), Manners(quiet_s=0.05)
        )
        with pytest.raises(LinkTimeout):
            await ask(exchange, b"one", timeout_s=0.01)
        task = asyncio.create_task(ask(exchange, b"two"))
        await asyncio.sleep(0.005)
        second.link(path)
        first.hang_up()
        assert await task == b"two"
        await exchange.close()


async def test_a_port_that_drops_every_time_is_not_opened_in_a_loop() -> None:
    async with TcpPeer() as peer:
        exchange = Exchange(TcpStream("127.0.0.1", peer.port), LineDecoder(), QUICK)
        for _ in range(3):
            task = asyncio.create_task(ask(exchange, b"x"))
            with pytest.raises(LinkDown):
                await dropped(task, peer)
        assert peer.accepted == 1
        await exchange.close()


async def dropped(task: asyncio.Task[bytes], peer: TcpPeer) -> bytes:
    while not task.done():
        peer.drop()
        await asyncio.sleep(0.001)
    return await task


async def test_a_late_answer_that_a_check_stumbles_over_still_was_the_answer() -> None:
    def strict(text: bytes) -> bool:
        return int(text) == 1

    async with line(mute, Manners(quiet_s=0.005, late_s=30.0)) as (exchange, peer):
        with pytest.raises(LinkTimeout):
            await exchange.request(b"one\r\n", accept=strict, timeout_s=0.01, unit="u")
        task = asyncio.create_task(ask(exchange, b"two"))
        await asyncio.sleep(0)
        peer.answer = lambda _: b"new\r\n"
        peer.say(b"rubbish\r\n")
        assert await task == b"new"
