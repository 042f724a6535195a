"""The other end of the control socket: find a running daemon, ask it, give it a command."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from edge.errors import LabedgeError
from edge.link.local import SOCKET_NAME, reachable, runtime_dir
from edge.link.messages import Command, Reply
from edge.yamlfile import read_yaml

CELL_VARIABLE = "LABEDGE_CELL"
CONNECT_S = 5.0
MAX_ANSWER = 64 * 1024 * 1024


class NoDaemon(LabedgeError):
    """There is no daemon to talk to."""


async def find(cell: str | None) -> Path:
    """The control socket of a running daemon.

    `cell` is a cell file, the id of a cell, or None: then $LABEDGE_CELL, else the only one that runs.
    Raises NoDaemon when there is none, or more than one.
    """
    cell = cell or os.environ.get(CELL_VARIABLE) or None
    if cell is not None and is_file(cell):
        path = state_dir_of(Path(cell)) / SOCKET_NAME
        if not await answers(path):
            raise NoDaemon(f"No daemon runs the cell of {cell}; start it with `labedge run {cell}`.")
        return path
    running = await _running()
    found = [path for name, path in running if cell is None or name == cell]
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(f"{name} ({path.parent})" for name, path in running if path in found)
        raise NoDaemon(f"Several daemons run: {which}. Say which one with --cell CELL.yaml.")
    if cell is None:
        raise NoDaemon(
            "No daemon of this user runs here; start one with `labedge run CELL.yaml`, or give --url."
        )
    others = ", ".join(name for name, _ in running)
    hint = f"there is {others}" if others else "none runs"
    raise NoDaemon(f"No daemon of this user runs a cell `{cell}` here; {hint}.")


def is_file(cell: str) -> bool:
    """Whether `--cell` names a cell file; anything else is the id of a cell."""
    return cell.endswith((".yaml", ".yml")) or "/" in cell


def state_dir_of(file: Path) -> Path:
    """The state directory a cell file names, whatever else is wrong with it: an abort must get through."""
    data = read_yaml(file).data
    named = data.get("state_dir") if isinstance(data, dict) else None
    folder = Path(named if isinstance(named, str) and named else "./state").expanduser()
    return Path(os.path.normpath(file.absolute().parent / folder))


async def answers(path: Path) -> bool:
    """Whether somebody listens at this socket."""
    try:
        async with _connected(path):
            return True
    except NoDaemon:
        return False


async def _running() -> list[tuple[str, Path]]:
    """Cell and socket of every running daemon of this user; links of daemons that are gone are removed.

    A link of a daemon that was killed may lead to the socket of the one that followed it.
    """
    found = []
    for link in sorted(runtime_dir().glob("*.*.sock")):
        if not _alive(link.name.split(".")[1]):
            link.unlink(missing_ok=True)
        elif await answers(link):
            found.append((link.name.split(".")[0], link.resolve()))
    return found


def cell_of(path: Path) -> str:
    """Id of the cell whose daemon listens at this socket; empty where the runtime folder does not tell."""
    links = (link for link in runtime_dir().glob("*.*.sock") if link.resolve() == path.resolve())
    return next((link.name.split(".")[0] for link in links), "")


def _alive(pid: str) -> bool:
    """A daemon that lives may be about to listen: its link stays."""
    return pid.isdigit() and Path(f"/proc/{pid}").exists()


async def ask(path: Path, query: str, within_s: float = 10.0) -> bytes:
    """The answer to a query (`status`, `runs`, `capabilities`): JSON."""
    async with _connected(path) as (reader, writer), _in_time(path, within_s):
        writer.write(msgspec.json.encode({"query": query}) + b"\n")
        line = await _line(reader, path)
    with contextlib.suppress(msgspec.DecodeError):
        refused = msgspec.json.decode(line, type=Reply)
        raise LabedgeError("; ".join(reason.message for reason in refused.reasons))
    return line


async def order(path: Path, command: Command, within_s: float) -> Reply:
    """Give a command and wait until it is `done`, `failed` or `refused`. `within_s` is for all of it."""
    async with _connected(path) as (reader, writer), _in_time(path, within_s):
        writer.write(msgspec.json.encode(command) + b"\n")
        while (reply := msgspec.json.decode(await _line(reader, path), type=Reply)).result == "accepted":
            pass
        return reply


@contextlib.asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        with reachable(path) as address:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(address, limit=MAX_ANSWER)
    except (OSError, LabedgeError) as error:  # TimeoutError is an OSError
        raise NoDaemon(f"No daemon answers at {path}; start it with `labedge run CELL.yaml`.") from error
    try:
        yield reader, writer
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def _in_time(path: Path, within_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(within_s):
            yield
    except TimeoutError:
        raise LabedgeError(
            f"The daemon at {path.parent} has not come to an end within {within_s:g} s."
        ) from None


async def _line(reader: asyncio.StreamReader, path: Path) -> bytes:
    try:
        line = await reader.readline()
    except (OSError, ValueError) as error:
        raise NoDaemon(f"The daemon at {path.parent} broke off: {error}.") from error
    if not line.endswith(b"\n"):
        raise NoDaemon(f"The daemon at {path.parent} ended before it had answered.")
    return line
