"""TCP connections: opening, losing, stalling, stopping."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from protocols.errors import LinkDown
from protocols.links import open_stream
from protocols.stream import OUTPUT_LIMIT
from protocols.tcp import TcpStream
from tests.protocols.peers import TcpPeer, choked, fill
from tests.protocols.rigs import Ear


async def test_a_stop_overtakes_what_waits_in_user_space_on_tcp() -> None:
    async with TcpPeer() as peer:
        peer.reading.clear()
        stream = TcpStream("127.0.0.1", peer.port)
        await stream.open()
        written = await fill(stream)
        waiting = stream.queued
        stream.urgent(b"STOP 1\n")
        stream.urgent(b"STOP 2\n")
        peer.reading.set()
        await peer.heard(len(written) - waiting + 14)
        assert peer.received == written[:-waiting] + b"STOP 1\nSTOP 2\n"
        stream.write(b"GO\n")
        assert stream.urgent(b"STOP 3\n")
        await peer.heard(len(written) - waiting + 24)
        assert peer.received.endswith(b"STOP 2\nGO\nSTOP 3\n")
        await stream.close()


async def test_stops_line_up_when_the_kernel_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TcpPeer() as peer:
        stream = TcpStream("127.0.0.1", peer.port)
        await stream.open()
        with choked(monkeypatch):
            stream.write(b"MOVE\n")
            assert stream.queued == 5
            assert not stream.urgent(b"STOP 1\n")
            assert not stream.urgent(b"STOP 2\n")
            assert stream.queued == 14
        await peer.heard(14)
        assert peer.received == b"STOP 1\nSTOP 2\n"
        await stream.close()


async def test_a_stopped_peer_that_never_reads_bounds_stops_too() -> None:
    async with TcpPeer() as peer:
        peer.reading.clear()
        stream = TcpStream("127.0.0.1", peer.port)
        await stream.open()
        await fill(stream)
        for _ in range(50):
            stream.urgent(b"S" * 1024)
        assert stream.queued <= OUTPUT_LIMIT
        await stream.close()


async def test_closing_lets_the_last_bytes_leave() -> None:
    async with TcpPeer() as peer:
        peer.reading.clear()
        stream = TcpStream("127.0.0.1", peer.port)
        await stream.open()
        written = await fill(stream)
        asyncio.get_running_loop().call_soon(peer.reading.set)
        await stream.close()
        await peer.heard(len(written))
        assert peer.received == written


async def test_tcp_is_set_up_for_short_messages_and_dead_peers() -> None:
    async with TcpPeer() as peer:
        stream = open_stream(f"tcp://{peer.address}")
        await stream.open()
        assert isinstance(stream, TcpStream)
        assert stream._socket is not None
        assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await stream.close()


async def test_tcp_by_host_name_and_again_after_a_cut() -> None:
    async with TcpPeer(lambda data: data) as peer:
        stream = TcpStream("localhost", peer.port)
        ear = Ear(stream)
        for _ in range(2):
            await stream.open()
            await stream.open()
            stream.write(b"ping")
            await ear.heard()
            peer.drop()
            await ear.heard()
            assert not stream.is_open
        assert ear.bytes == b"pingping"
        assert len(ear.lost) == 2


async def test_nobody_listens() -> None:
    async with TcpPeer() as peer:
        closed = peer.port
    with pytest.raises(LinkDown, match=r"Nothing listens at 127\.0\.0\.1") as caught:
        await TcpStream("127.0.0.1", closed).open()
    assert not caught.value.sent


async def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(LinkDown, match=r"host name .* is not known"):
        await TcpStream("no-such-host.invalid", 502).open()


async def test_no_answer_to_a_connection_attempt_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.tcp.CONNECT_TIMEOUT_S", 0.01)

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
    with pytest.raises(LinkDown, match="did not answer within"):
        await TcpStream("127.0.0.1", 9).open()


async def test_a_reset_connection_is_lost_with_the_kernels_reason() -> None:
    async with TcpPeer(lambda data: data) as peer:
        stream = TcpStream("127.0.0.1", peer.port)
        ear = Ear(stream)
        await stream.open()
        stream.write(b"ping")
        await ear.heard()
        peer.reset()
        await ear.heard()
        assert len(ear.lost) == 1
        assert "reset by peer" in ear.lost[0]


async def test_writing_to_a_connection_that_is_just_gone_was_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TcpPeer(lambda data: data) as peer:
        stream = TcpStream("127.0.0.1", peer.port)
        ear = Ear(stream)
        await stream.open()

        def broken(*_: object) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr("protocols.descriptor.os.write", broken)
        assert not stream.urgent(b"STOP")
        assert stream.is_open
        with pytest.raises(LinkDown, match="Broken pipe") as caught:
            stream.write(b"x")
        assert not caught.value.sent
        assert len(ear.lost) == 1
        assert not stream.is_open


async def test_a_connection_that_breaks_while_bytes_wait_is_lost_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TcpPeer() as peer:
        peer.reading.clear()
        stream = TcpStream("127.0.0.1", peer.port)
        ear = Ear(stream)
        await stream.open()
        await fill(stream)

        def broken(*_: object) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr("protocols.descriptor.os.write", broken)
        peer.reading.set()
        await ear.heard()
        assert len(ear.lost) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EHOSTUNREACH, "cannot be reached from this machine"),
        (errno.ENETUNREACH, "cannot be reached from this machine"),
        (errno.EADDRNOTAVAIL, "No connection to 127"),
    ],
)
async def test_a_host_out_of_reach(code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", fails)
    with pytest.raises(LinkDown, match=words):
        await TcpStream("127.0.0.1", 9).open()
