"""The other end of a wire: scripted, on the test's own event loop, over a real PTY or a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from protocols.errors import LinkDown
from protocols.stream import OUTPUT_LIMIT, Stream

Answer = Callable[[bytes], bytes | None]


def mute(_: bytes) -> None:
    """A peer that never says anything by itself."""


async def fill(stream: Stream) -> bytes:
    """Write to a stalled peer until nothing moves any more, in the kernel neither; returns what was taken."""
    written = b""
    while True:
        piece = (b"%07d\n" % (len(written) // 8)) * 1000
        try:
            stream.write(piece)
        except LinkDown as problem:
            waiting = stream.queued
            if problem.sent or "takes no bytes" not in str(problem) or not 0 < waiting <= OUTPUT_LIMIT:
                raise
            await asyncio.sleep(0.02)
            if stream.queued == waiting:
                return written
        else:
            written += piece


@contextmanager
def choked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel takes no byte of ours from now on."""

    def full(*_: object) -> int:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr("protocols.descriptor.os.write", full)
        yield


class PtyPeer:
    """A PTY whose master end answers. Use `with`; `path` is what our side opens."""

    def __init__(self, answer: Answer = mute) -> None:
        self.answer = answer
        self.received = bytearray()
        self.chunks: list[bytes] = []
        self._heard = asyncio.Event()

    def __enter__(self) -> Self:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.path = os.ttyname(self.slave)
        self.unstall()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def say(self, data: bytes) -> None:
        os.write(self.master, data)

    def stall(self) -> None:
        """Take no bytes from now on."""
        asyncio.get_running_loop().remove_reader(self.master)

    def unstall(self) -> None:
        asyncio.get_running_loop().add_reader(self.master, self._readable)

    def hang_up(self) -> None:
        if self.master >= 0:
            self.stall()
            os.close(self.slave)
            os.close(self.master)
            self.master = -1

    async def heard(self, count: int) -> None:
        """Wait until `count` bytes have come in all; fails after 5 s."""
        async with asyncio.timeout(5):
            while len(self.received) < count:
                self._heard.clear()
                await self._heard.wait()

    async def heard_end(self, end: bytes) -> None:
        """Wait until what has come ends with `end`; fails after 5 s."""
        async with asyncio.timeout(5):
            while not self.received.endswith(end):
                self._heard.clear()
                await self._heard.wait()

    def _readable(self) -> None:
        data = os.read(self.master, 65536)
        self.received += data
        self.chunks.append(data)
        self._heard.set()
        if (reply := self.answer(data)) is not None:
            self.say(reply)

    def link(self, where: Path) -> str:
        """Make `where` a symlink to this PTY, replacing an older one; returns the path."""
        where.unlink(missing_ok=True)
        where.symlink_to(self.path)
        return str(where)


class TcpPeer:
    """A server on 127.0.0.1 that answers. Use `async with`; `port` stays the same over `stop` and `start`."""

    def __init__(self, answer: Answer = mute) -> None:
        self.answer = answer
        self.received = bytearray()
        self.connections: list[asyncio.StreamWriter] = []
        self.accepted = 0
        self.port = 0
        self.reading = asyncio.Event()
        self.reading.set()
        self._heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        # Small, so that a stalled peer is felt soon.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._server = await asyncio.start_server(self._serve, sock=listener)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Cut the connections that exist."""
        for writer in self.connections:
            writer.transport.abort()
        self.connections.clear()

    def reset(self) -> None:
        """Cut the connections that exist the hard way, with RST."""
        for writer in self.connections:
            handle: socket.socket = writer.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()

    def say(self, data: bytes) -> None:
        self.connections[-1].write(data)

    async def heard(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.received) < count:
                self._heard.clear()
                await self._heard.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self.accepted += 1
        try:
            while True:
                await self.reading.wait()
                data = await reader.read(65536)
                if not data:
                    break
                self.received += data
                self._heard.set()
                if (reply := self.answer(data)) is not None:
                    writer.write(reply)
        except ConnectionError:
            pass
        finally:
            writer.close()
