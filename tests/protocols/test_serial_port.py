"""Serial ports on real PTYs: opening, losing, stalling, stopping."""

from __future__ import annotations

import asyncio
import errno
import os
import termios
from pathlib import Path

import pytest

from protocols.errors import BadRequest, LinkDown
from protocols.serial_port import SerialPort, SerialSettings
from protocols.tcp import TcpStream
from tests.protocols.peers import PtyPeer, TcpPeer, fill
from tests.protocols.rigs import Ear


def port(path: str) -> SerialPort:
    return SerialPort(path, SerialSettings(baudrate=38400))


async def test_bytes_go_both_ways_unchanged_on_a_pty() -> None:
    every = bytes(range(256))
    with PtyPeer() as peer:
        stream = port(peer.path)
        ear = Ear(stream)
        await stream.open()
        stream.write(every)
        await peer.heard(256)
        assert peer.received == every
        peer.say(every)
        while len(ear.bytes) < 256:
            await ear.heard()
        assert ear.bytes == every
        await stream.close()
        assert not stream.is_open


async def test_settings_reach_the_line() -> None:
    with PtyPeer() as peer:
        stream = port(peer.path)
        await stream.open()
        attributes = termios.tcgetattr(peer.slave)
        assert attributes[4] == attributes[5] == termios.B38400
        assert attributes[6][termios.VMIN] == 1
        assert not attributes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        await stream.close()


async def test_old_bytes_are_thrown_away_when_a_port_is_opened() -> None:
    with PtyPeer() as peer:
        stream = port(peer.path)
        ear = Ear(stream)
        peer.say(b"from before")
        await stream.open()
        peer.say(b"new")
        await ear.heard()
        assert ear.bytes == b"new"
        await stream.close()


async def test_a_port_is_ours_alone() -> None:
    with PtyPeer() as peer:
        first, second = port(peer.path), port(peer.path)
        await first.open()
        with pytest.raises(LinkDown, match="in use by another program") as caught:
            await second.open()
        assert not caught.value.sent
        await first.close()
        await second.open()
        await second.close()


async def test_a_port_that_does_not_exist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LinkDown, match=r"There is no port .*labedge scan"):
        await port(str(tmp_path / "red")).open()
    with pytest.raises(LinkDown, match="There is no port hwgrep://"):
        await port("hwgrep://no-such-adapter-anywhere").open()


async def test_a_file_is_not_a_port(tmp_path: Path) -> None:
    (tmp_path / "red").write_text("")
    with pytest.raises(LinkDown, match="cannot be opened as a serial port"):
        await port(str(tmp_path / "red")).open()


async def test_no_permission_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LinkDown, match=r"add the user .* to the group dialout"):
        await port("/dev/ttyUSB0").open()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"baudrate": 0}, "baud rate"),
        ({"bytesize": 9}, "data bits"),
        ({"parity": "X"}, "Parity"),
        ({"stopbits": 3}, "stop bits"),
    ],
)
def test_settings_that_no_line_has_are_refused(wrong: dict[str, int], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        SerialSettings(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_the_length_of_a_character() -> None:
    assert SerialSettings(9600).character_s == pytest.approx(10 / 9600)
    assert SerialSettings(19200, 8, "N", 2).character_s == pytest.approx(11 / 19200)
    assert SerialSettings(9600, 7, "O", 1).character_s == pytest.approx(10 / 9600)
    assert str(SerialSettings(9600, 7, "O", 1)) == "9600 baud 7O1"


async def test_a_hung_up_port_is_reported_once_and_can_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "red"
    with PtyPeer() as peer:
        stream = port(peer.link(path))
        ear = Ear(stream)
        await stream.open()
        peer.hang_up()
        await ear.heard()
    assert len(ear.lost) == 1
    assert "hung up" in ear.lost[0]
    assert not stream.is_open
    with pytest.raises(LinkDown, match="not open"):
        stream.write(b"x")
    with PtyPeer() as peer:
        peer.link(path)
        await stream.open()
        peer.say(b"back")
        await ear.heard()
        assert ear.bytes == b"back"
        await stream.close()
    assert len(ear.lost) == 1


async def test_a_stalled_pty_never_blocks_and_is_bounded() -> None:
    with PtyPeer() as peer:
        stream = port(peer.path)
        await stream.open()
        peer.stall()
        written = await fill(stream)
        peer.unstall()
        await peer.heard(len(written))
        assert peer.received == written
        assert stream.queued == 0
        stream.write(b"more")
        await peer.heard(len(written) + 4)
        await stream.close()


async def test_a_stop_overtakes_everything_that_waits_on_a_pty() -> None:
    with PtyPeer() as peer:
        stream = port(peer.path)
        await stream.open()
        peer.stall()
        in_kernel = len(await fill(stream)) - stream.queued
        assert stream.urgent(b"STOP 1\n")
        assert stream.urgent(b"STOP 2\n")
        assert stream.queued == 0
        peer.unstall()
        await peer.heard_end(b"STOP 1\nSTOP 2\n")
        # The kernel's queue is gone; what the far end's own buffer had taken (4 KiB) nobody can recall.
        assert len(peer.received) < in_kernel / 2
        peer.stall()
        await fill(stream)
        assert stream.urgent(b"STOP 3\n")
        assert stream.queued == 0
        await stream.close()


async def test_a_stop_on_a_closed_or_broken_port_says_so_and_raises_nothing() -> None:
    with PtyPeer() as peer:
        stream = port(peer.path)
        assert not stream.urgent(b"STOP\n")
        await stream.open()
        ear = Ear(stream)
        peer.hang_up()
        assert not stream.urgent(b"STOP\n")
        await ear.heard()
        assert len(ear.lost) == 1


async def opens(stream: SerialPort) -> bool:
    try:
        await stream.open()
    except LinkDown as problem:
        if "in use" not in str(problem):
            raise
        return False
    return True


async def test_a_port_that_opens_too_slowly_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.serial_port.OPEN_TIMEOUT_S", 0.01)
    with PtyPeer() as peer:
        slow, real_open = port(peer.path), SerialPort._open_blocking
        let_go, opened = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hesitate(self: SerialPort) -> object:
            asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result()
            found = real_open(self)
            loop.call_soon_threadsafe(opened.set)
            return found

        monkeypatch.setattr(SerialPort, "_open_blocking", hesitate)
        with pytest.raises(LinkDown, match="did not open within"):
            await slow.open()
        monkeypatch.setattr(SerialPort, "_open_blocking", real_open)
        monkeypatch.setattr("protocols.serial_port.OPEN_TIMEOUT_S", 5.0)
        let_go.set()
        await opened.wait()
        async with asyncio.timeout(5):
            while not await opens(slow):
                pass
        await slow.close()


async def test_who_gives_up_while_a_port_opens_or_closes_leaves_it_free() -> None:
    with PtyPeer() as peer:
        stream = port(peer.path)
        opening = asyncio.create_task(stream.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with asyncio.timeout(5):
            while not await opens(stream):
                pass
        await stream.close()
    async with TcpPeer() as stalled:
        stalled.reading.clear()
        connection = TcpStream("127.0.0.1", stalled.port)
        await connection.open()
        await fill(connection)
        closing = asyncio.create_task(connection.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not connection.is_open
        assert connection._socket is None


async def test_a_line_that_is_still_sending_is_closed_after_it_has_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flushed: list[int] = []
    with PtyPeer() as peer:
        stream = port(peer.path)
        await stream.open()
        left = [100, 0]
        monkeypatch.setattr("protocols.serial_port._unsent", lambda _: left.pop(0))
        monkeypatch.setattr("protocols.serial_port.termios.tcflush", lambda _, queue: flushed.append(queue))
        await stream.close()
        assert left == []
        assert flushed == []
        await stream.open()
        flushed.clear()
        left[:] = [1, 1]
        await stream.close()
        assert flushed == [termios.TCOFLUSH]


async def test_a_port_with_nothing_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with PtyPeer() as peer:
        stream = port(peer.path)
        monkeypatch.setattr("protocols.serial_port._finish_raw_mode", fails)
        with pytest.raises(LinkDown, match="nothing is behind it"):
            await stream.open()
        monkeypatch.undo()
        await stream.open()
        await stream.close()
