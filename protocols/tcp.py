"""Bytes over a TCP connection, as serial device servers, Modbus TCP and line protocols use it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket

from protocols.descriptor import DescriptorStream
from protocols.errors import LinkDown

CONNECT_TIMEOUT_S = 5.0
UNACKNOWLEDGED_MS = 10_000


class TcpStream(DescriptorStream):
    """A client connection to `host:port` with TCP_NODELAY and keep-alive.

    A peer that vanishes without a word is noticed after about 11 s of silence (keep-alive) or 10 s of
    unacknowledged bytes. A stop can overtake what waits in user space, not what the kernel has taken.
    """

    def __init__(self, host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        super().__init__(f"{shown}:{port}")
        self._host = host
        self._tcp_port = port
        self._socket: socket.socket | None = None

    async def open(self) -> None:
        """Connect within 5 s; raises `LinkDown` with what to do about it."""
        if self.is_open:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connected = await self._connect()
        except TimeoutError:
            raise LinkDown(
                f"{self.name} did not answer within {CONNECT_TIMEOUT_S:g} s: is the device on, "
                "its cable in, and the address right?",
                sent=False,
            ) from None
        except OSError as problem:
            raise LinkDown(_why_not(self.name, problem), sent=False) from problem
        self._socket = connected
        self._attach(connected.fileno())

    async def _connect(self) -> socket.socket:
        problem: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        for family, address in await self._addresses():
            try:
                return await _connect_to(family, address)
            except OSError as refused:
                problem = refused
        raise problem

    async def _addresses(self) -> list[tuple[int, tuple[str, int]]]:
        try:
            version = ipaddress.ip_address(self._host).version
        except ValueError:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._host, self._tcp_port, type=socket.SOCK_STREAM
            )
            return [(family, (str(address[0]), self._tcp_port)) for family, _, _, _, address in found]
        return [(socket.AF_INET if version == 4 else socket.AF_INET6, (self._host, self._tcp_port))]

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _connect_to(family: int, address: tuple[str, int]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _why_not(name: str, problem: OSError) -> str:
    if isinstance(problem, socket.gaierror):
        return f"The host name of {name} is not known: check `port` in the cell file and the name server."
    if problem.errno == errno.ECONNREFUSED:
        return f"Nothing listens at {name}: is the device on, and is the port number right?"
    if problem.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"{name} cannot be reached from this machine: check cable, network and address."
    return f"No connection to {name}: {problem.strerror or problem}."
