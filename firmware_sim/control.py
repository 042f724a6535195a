"""The bench's control socket: one JSON object in, one out, over a Unix socket beside the links.

`{"do": "world"}` is answered by `{"world": {…}}`, `{"do": "fault", "fault": {…}}` by `{"done": true}`, and
everything that is wrong by `{"error": "a sentence"}`. So that commands find a running bench, each bench has
an entry in the user's registry directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from firmware_sim.errors import BenchError

_TIMEOUT_S = 5.0
_LONGEST = 1 << 20

Handler = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


class ControlDoor:
    """Listens at `path` and in the registry."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self.path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._entry: Path | None = None

    async def open(self) -> None:
        """`BenchError` if another bench is running with the same links."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchError(f"links: {self.path.parent} cannot be made: {error.strerror}.") from error
        if answers(self.path):
            raise BenchError(f"Another bench is running with the links {self.path.parent}; stop it first.")
        self.path.unlink(missing_ok=True)
        with _short(self.path) as address:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(address)
        self.path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LONGEST)
        self._register()

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.path.unlink(missing_ok=True)
        if self._entry is not None:
            self._entry.unlink(missing_ok=True)

    def _register(self) -> None:
        self._entry = registry() / str(os.getpid())
        self._entry.unlink(missing_ok=True)
        self._entry.symlink_to(self.path.resolve())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            async with asyncio.timeout(_TIMEOUT_S):
                answer = await self._answer(await reader.readline())
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise BenchError("A command must be a JSON object.")
            return await self._handler(command)
        except (BenchError, ValueError) as error:
            return {"error": str(error)}


def ask(path: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """One command to the bench behind this socket; `BenchError` if it refuses or nobody is there."""
    try:
        with _connected(path) as stream:
            stream.sendall(json.dumps(command).encode() + b"\n")
            with stream.makefile("rb") as answers_:
                answer = json.loads(answers_.readline())
    except (OSError, ValueError) as error:
        raise BenchError(f"No bench answers at {path}; start it with `firmware-sim BENCH.yaml`.") from error
    if "error" in answer:
        raise BenchError(answer["error"])
    return dict(answer)


def answers(path: Path) -> bool:
    """Whether somebody listens at this socket."""
    try:
        with _connected(path):
            return True
    except OSError:
        return False


def registry() -> Path:
    """The directory of running benches, of this user alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = (
        Path(runtime) / "firmware-sim"
        if runtime
        else Path(tempfile.gettempdir()) / f"firmware-sim-{os.getuid()}"
    )
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise BenchError(
            f"{base} cannot be made: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours."
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BenchError(
            f"{base} must be a directory that only you can use; remove it or set XDG_RUNTIME_DIR."
        )
    return base


def running() -> list[Path]:
    """Sockets of the running benches of this user; entries of dead ones are removed."""
    found = []
    for entry in sorted(registry().iterdir()):
        if entry.is_symlink() and answers(entry.resolve()):
            found.append(entry.resolve())
        else:
            entry.unlink(missing_ok=True)
    return found


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with _short(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(_TIMEOUT_S)
        stream.connect(address)
        yield stream


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for the socket that fits into the 108 bytes a Unix address may have, however deep it lies."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
