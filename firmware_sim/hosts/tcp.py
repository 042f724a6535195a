"""A line behind a TCP port: a serial device server, a Modbus TCP port, a dashboard."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial

from firmware_sim.clock import Clock
from firmware_sim.errors import BenchError
from firmware_sim.faults import Outgoing
from firmware_sim.hosts.line import Conversation, Drop
from firmware_sim.hosts.timers import Timers

_MOST_UNSENT = 65536


class TcpLine:
    """Listens at `host:port`; every connection has its own conversation and hears what is said unasked."""

    def __init__(
        self, address: str, talk: Callable[[], Conversation], drops: Sequence[Drop], clock: Clock
    ) -> None:
        self._host, self._port = split_address(address)
        self._talk = talk
        self._drops = drops
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._later = Timers()
        self._listening: asyncio.Future[None] | None = None

    @property
    def address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"tcp://{host}:{self._port}"

    async def open(self) -> None:
        await self._listen()
        self._clock.after_tick.append(self._flush)

    async def close(self) -> None:
        if self._flush in self._clock.after_tick:
            self._clock.after_tick.remove(self._flush)
        self._later.cancel()
        if self._listening is not None:
            self._listening.cancel()
        self._hang_up()

    def disconnect(self, for_s: float) -> None:
        """Pull the plug: connections break and new ones are refused, until it is plugged in again."""
        self._hang_up()
        self._later.after(for_s, self._listen_again)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        for connection in self._connections:
            connection.send(outgoing)

    def _listen_again(self) -> None:
        self._listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, self._host, self._port)
        except OSError as error:
            # asyncio wraps the system's reason in words of its own.
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise BenchError(f"{self._host}:{self._port} cannot be listened at: {reason}.") from error
        self._port = self._server.sockets[0].getsockname()[1]

    def _accept(self) -> _Connection:
        return _Connection(self._talk(), self._connections)

    def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()

    def _flush(self) -> None:
        now = self._clock.now()
        for drop in self._drops:
            self.send(drop.unasked(now))


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, talk: Conversation, others: set[_Connection]) -> None:
        self._talk = talk
        self._others = others
        self._transport: asyncio.Transport | None = None
        self._later = Timers()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._others.add(self)
        self._write(self._talk.greeting)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._later.cancel()
        self._others.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self.send(self._talk.hear(data))
        if self._talk.closed and self._transport is not None:
            self._transport.close()

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        for wait_s, data in outgoing:
            if wait_s > 0:
                self._later.after(wait_s, partial(self._write, data))
            else:
                self._write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        # A client that does not read loses data here rather than filling the bench's memory.
        if self._transport is not None and self._transport.get_write_buffer_size() < _MOST_UNSENT:
            self._transport.write(data)


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:502` or `[::1]:502` as host and port; `BenchError` if it is neither."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise BenchError(f"{address!r} is no host:port, as in 127.0.0.1:15020.")
    return host.removeprefix("[").removesuffix("]"), int(port)
