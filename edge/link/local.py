"""The control socket of a running daemon: JSON lines over a Unix socket that only its owner can open.

A line is a `Command` (`cell` may be empty) and is answered by `Reply` lines until one is done, failed or
refused; or it is `{"query": "status"}` (also `runs`, `capabilities`) and is answered by one line of JSON.

The socket is `control.sock` in the cell's state directory. A symlink to it in the user's runtime directory,
named after cell and process, lets commands find it without knowing the cell file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from edge.errors import LabedgeError
from edge.link.messages import Command, Reason, Reply
from edge.plan.model import ID

SOCKET_NAME = "control.sock"
MAX_LINE = 64 * 1024
MAX_UNREAD = 4 * 1024 * 1024
"""Bytes that a client may leave unread before it is cut off."""

Query = Callable[[str], bytes]
_encode = msgspec.json.Encoder().encode


class Desk(Protocol):
    """Whoever takes commands; `answer` is called once or twice, perhaps long after."""

    def take(self, command: Command, answer: Callable[[Reply], None], *, local: bool) -> None:
        """Begin the command; returns at once."""


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    query: str


async def serve(state_dir: Path, cell: str, desk: Desk, query: Query) -> None:
    """Answer on the control socket until cancelled; then remove it.

    The caller holds the state directory's lock, so whatever socket lies there is a dead one.
    Raises LabedgeError when the socket or the runtime directory cannot be made.
    """
    path = state_dir / SOCKET_NAME
    clients: set[_Client] = set()
    with _listening(path) as listener, _announced(path, cell):
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Client(desk, query, clients), sock=listener)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for client in list(clients):
                client.end()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        with reachable(path) as address:
            listener.bind(address)
        path.chmod(0o600)  # before `listen`: until then nobody can connect
        listener.listen(64)
        yield listener
    except OSError as error:
        raise LabedgeError(f"The control socket {path} cannot be made: {error.strerror}.") from error
    finally:
        listener.close()
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _announced(path: Path, cell: str) -> Iterator[None]:
    link = runtime_dir() / f"{cell}.{os.getpid()}.sock"
    link.unlink(missing_ok=True)
    link.symlink_to(path.resolve())
    try:
        yield
    finally:
        link.unlink(missing_ok=True)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for a socket that fits into the 108 bytes of `sockaddr_un`, however deep its folder is."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LabedgeError(f"{path.parent} cannot be opened: {error.strerror}.") from error
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def runtime_dir() -> Path:
    """Where running daemons are listed: a folder that belongs to this user alone.

    Raises LabedgeError if it belongs to somebody else, who could hand us his own socket.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "labedge" if given else Path(tempfile.gettempdir()) / f"labedge-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise LabedgeError(f"The runtime folder {folder} cannot be made: {error.strerror}.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LabedgeError(
            f"{folder} is not a folder of this user alone; remove it, or set XDG_RUNTIME_DIR to another."
        )
    return folder


class _Client(asyncio.Protocol):
    """One connection. Lines are handled in the callback that reads them, so that nothing delays an abort."""

    def __init__(self, desk: Desk, query: Query, clients: set[_Client]) -> None:
        self._desk = desk
        self._query = query
        self._clients = clients
        self._transport: asyncio.Transport | None = None
        self._kept = b""
        self._owed = 0
        """Commands whose final reply is still to come."""
        self._no_more = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._clients.discard(self)

    def eof_received(self) -> bool:
        """A client that has said all it wants still gets its answers."""
        self._no_more = True
        return self._owed > 0

    def data_received(self, data: bytes) -> None:
        *lines, self._kept = (self._kept + data).split(b"\n")
        for line in lines:
            if len(line) > MAX_LINE:
                self._too_long()
                return
            if line.strip():
                self._take(line)
        if len(self._kept) > MAX_LINE:
            self._too_long()

    def end(self) -> None:
        """The daemon ends: flush what is written and close."""
        if self._transport is not None:
            self._transport.close()

    def _too_long(self) -> None:
        self._kept = b""
        self._refuse("", f"the line is longer than {MAX_LINE} bytes")
        self.end()

    def _take(self, line: bytes) -> None:
        try:
            order = _read(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._refuse("", f"the line is neither a command nor a query: {error}")
            return
        if isinstance(order, _Question):
            self._answer(order.query)
        elif order.command != "abort" and not ID.match(order.id):
            self._refuse(order.id, "id must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
        else:
            self._owed += 1
            self._desk.take(order, self._reply, local=True)

    def _answer(self, query: str) -> None:
        try:
            line = self._query(query)
        except LabedgeError as error:
            self._refuse("", str(error))
            return
        self._write(line)

    def _reply(self, reply: Reply) -> None:
        if reply.result != "accepted":
            self._owed -= 1
        self._write(_encode(reply))
        if self._no_more and self._owed == 0:
            self.end()

    def _refuse(self, reply_id: str, why: str) -> None:
        self._write(_encode(Reply(reply_id, "refused", [Reason("", why)])))

    def _write(self, line: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(line + b"\n")
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            self._transport.abort()


def _read(line: bytes) -> Command | _Question:
    raw = msgspec.json.decode(line)
    if isinstance(raw, dict) and "query" in raw:
        return msgspec.convert(raw, _Question)
    return msgspec.convert(raw, Command)
