"""The control socket: real Unix sockets, a desk that only takes notes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from edge.errors import LabedgeError
from edge.link import local
from edge.link.local import MAX_LINE, SOCKET_NAME, runtime_dir, serve
from edge.link.localclient import NoDaemon, answers, ask, find, order, state_dir_of
from edge.link.messages import Command, Reply

Reading = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Notes:
    """A desk that accepts everything and is done when told so."""

    def __init__(self) -> None:
        self.taken: list[Command] = []
        self.open: dict[str, Callable[[Reply], None]] = {}
        self.news = asyncio.Event()
        self.hold_back = False

    def take(self, command: Command, answer: Callable[[Reply], None], *, local: bool) -> None:
        assert local
        self.taken.append(command)
        self.news.set()
        answer(Reply(command.id, "accepted"))
        if self.hold_back:
            self.open[command.id] = answer
        else:
            answer(Reply(command.id, "done"))


def _query(name: str) -> bytes:
    if name == "large":
        return b"1" * (1024 * 1024)
    if name != "status":
        raise LabedgeError(f"there is no query `{name}`")
    return b'{"cell":{"state":"Idle"}}'


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("LABEDGE_CELL", raising=False)


@contextlib.asynccontextmanager
async def served(state_dir: Path, desk: Notes, cell: str = "bench-1") -> AsyncIterator[Path]:
    task = asyncio.create_task(serve(state_dir, cell, desk, _query))
    path = state_dir / SOCKET_NAME
    while not await answers(path):
        assert not task.done(), task.exception()
        await asyncio.sleep(0)
    try:
        yield path
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _open(path: Path) -> Reading:
    with local.reachable(path) as address:
        return await asyncio.open_unix_connection(address)


async def _reply(reader: asyncio.StreamReader) -> Reply:
    async with asyncio.timeout(5):
        return msgspec.json.decode(await reader.readline(), type=Reply)


async def test_a_command_is_answered_until_it_is_done(tmp_path: Path) -> None:
    desk = Notes()
    async with served(tmp_path / "state", desk) as path:
        assert await order(path, Command("hold", "c1", by="somebody"), 5) == Reply("c1", "done")
    assert desk.taken == [Command("hold", "c1", by="somebody")]


async def test_a_query_is_answered_by_one_line(tmp_path: Path) -> None:
    async with served(tmp_path / "state", Notes()) as path:
        assert await ask(path, "status") == b'{"cell":{"state":"Idle"}}\n'
        with pytest.raises(LabedgeError, match="there is no query `weather`"):
            await ask(path, "weather")


async def test_an_abort_overtakes_a_client_that_waits(tmp_path: Path) -> None:
    desk = Notes()
    desk.hold_back = True
    async with served(tmp_path / "state", desk) as path:
        waiting = asyncio.create_task(order(path, Command("hold", "c1"), 5))
        await desk.news.wait()
        reader, writer = await _open(path)
        writer.write(b'{"command":"abort","id":""}\n')
        assert (await _reply(reader)).result == "accepted"
        assert [command.command for command in desk.taken] == ["hold", "abort"]
        desk.open["c1"](Reply("c1", "done"))
        assert (await waiting).result == "done"
        writer.close()


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[1, 2]",
        b'{"query": 7}',
        b'{"command":"hold"}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"command":"hold","id":"a b"}',
    ],
)
async def test_garbage_is_refused_and_the_connection_lives(tmp_path: Path, line: bytes) -> None:
    desk = Notes()
    async with served(tmp_path / "state", desk) as path:
        reader, writer = await _open(path)
        writer.write(line + b"\n")
        refused = await _reply(reader)
        assert refused.result == "refused"
        assert refused.reasons[0].message
        writer.write(b'{"command":"hold","id":"c2"}\n')
        assert (await _reply(reader)).result == "accepted"
        assert [command.id for command in desk.taken] == ["c2"]
        writer.close()


async def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    async with served(tmp_path / "state", Notes()) as path:
        reader, writer = await _open(path)
        writer.write(b"x" * (MAX_LINE + 1))
        assert "longer than" in (await _reply(reader)).reasons[0].message
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_client_that_never_reads_is_cut_off_and_the_others_are_served(tmp_path: Path) -> None:
    desk = Notes()
    async with served(tmp_path / "state", desk) as path:
        reader, writer = await _open(path)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport of a socket can
        for _ in range(20):
            writer.write(b'{"query":"large"}\n')
        assert (await order(path, Command("hold", "c1"), 5)).result == "done"
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(10):
                await reader.readexactly(20 * 1024 * 1024)
        writer.close()


async def test_answers_come_after_the_client_has_said_all(tmp_path: Path) -> None:
    desk = Notes()
    desk.hold_back = True
    async with served(tmp_path / "state", desk) as path:
        reader, writer = await _open(path)
        writer.write(b'{"command":"hold","id":"c1"}\n')
        writer.write_eof()
        assert (await _reply(reader)).result == "accepted"
        desk.open["c1"](Reply("c1", "failed"))
        assert (await _reply(reader)).result == "failed"
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_the_socket_is_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with served(state, Notes()) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(runtime_dir().stat().st_mode) == 0o700
        [link] = runtime_dir().iterdir()
        assert link.name == f"bench-1.{os.getpid()}.sock"
        assert link.resolve() == path
    assert not path.exists()
    assert list(runtime_dir().iterdir()) == []


async def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / SOCKET_NAME).write_text("left over")
    async with served(tmp_path / "state", Notes()) as path:
        assert (await order(path, Command("hold", "c1"), 5)).result == "done"


async def test_a_deep_folder_is_no_obstacle(tmp_path: Path) -> None:
    state = tmp_path / ("deep" * 30) / ("deeper" * 20)
    async with served(state, Notes()) as path:
        assert len(str(path)) > 108
        assert await find("bench-1") == path
        assert (await order(path, Command("hold", "c1"), 5)).result == "done"


async def test_a_runtime_folder_open_to_others_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "run" / "labedge").mkdir(parents=True, mode=0o755)
    with pytest.raises(LabedgeError, match="not a folder of this user alone"):
        await serve(tmp_path / "state", "bench-1", Notes(), _query)
    assert not (tmp_path / "state" / SOCKET_NAME).exists()


async def test_the_only_daemon_is_found_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="No daemon of this user runs here"):
        await find(None)
    async with served(tmp_path / "a", Notes()) as path:
        assert await find(None) == path
        with pytest.raises(NoDaemon, match="there is bench-1"):
            await find("other")


async def test_among_several_daemons_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        served(tmp_path / "a", Notes(), "one") as first,
        served(tmp_path / "b", Notes(), "two") as second,
    ):
        with pytest.raises(NoDaemon, match=r"Several daemons run: one .*, two "):
            await find(None)
        assert await find("one") == first
        monkeypatch.setenv("LABEDGE_CELL", "two")
        assert await find(None) == second
        cell = tmp_path / "cell.yaml"
        cell.write_text("state_dir: ./a\nnonsense: true\n")
        assert await find(str(cell)) == first


async def test_links_of_dead_daemons_are_removed(tmp_path: Path) -> None:
    dead = runtime_dir() / "gone.999999999.sock"
    dead.symlink_to(tmp_path / "nowhere" / SOCKET_NAME)
    with pytest.raises(NoDaemon):
        await find("gone")
    assert not dead.is_symlink()


async def test_a_cell_file_without_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    cell = tmp_path / "cell.yaml"
    cell.write_text("cell: bench-1\n")
    assert state_dir_of(cell) == tmp_path / "state"
    with pytest.raises(NoDaemon, match="labedge run"):
        await find(str(cell))


async def test_a_command_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    desk = Notes()
    desk.hold_back = True
    async with served(tmp_path / "state", desk) as path:
        with pytest.raises(LabedgeError, match="not come to an end within"):
            await order(path, Command("hold", "c1"), 0.05)


async def test_a_daemon_that_ends_is_said_to_have_ended(tmp_path: Path) -> None:
    desk = Notes()
    desk.hold_back = True
    async with served(tmp_path / "state", desk) as path:
        waiting = asyncio.create_task(order(path, Command("hold", "c1"), 5))
        await desk.news.wait()
    with pytest.raises(NoDaemon, match="ended before it had answered"):
        await waiting
