"""Durable means durable: processes that die without a word, disks that fail, two daemons at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge.store.database import Database, StoreError
from tests.edge.instruments import until

PUT = "INSERT INTO facts VALUES (?, ?)"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    store = Database(tmp_path / "state")
    store.open()
    yield store
    await store.close()


def keys(store: Database) -> list[str]:
    return [key for (key,) in store.rows("SELECT key FROM facts ORDER BY rowid")]


async def test_what_is_put_is_there_in_order(database: Database) -> None:
    for n in range(300):
        database.put(PUT, f"k{n}", b"v")
    await database.durable()
    assert keys(database) == [f"k{n}" for n in range(300)]


async def test_what_nobody_waits_for_is_committed_soon_as_well(database: Database) -> None:
    database.put(PUT, "lazy", b"v")
    await until(lambda: keys(database))


async def test_everyone_who_waits_is_woken(database: Database) -> None:
    database.put(PUT, "a", b"v")
    await asyncio.gather(*(database.durable() for _ in range(50)))
    assert keys(database) == ["a"]


async def test_a_waiter_that_is_cancelled_disturbs_nobody(database: Database) -> None:
    database.put(PUT, "a", b"v")
    impatient = asyncio.ensure_future(database.durable())
    patient = asyncio.ensure_future(database.durable())
    await asyncio.sleep(0)
    impatient.cancel()
    await patient
    assert keys(database) == ["a"]


CHILD = """
import asyncio, os, sys
from pathlib import Path
from edge.store.database import Database

async def main():
    store = Database(Path(sys.argv[1]))
    store.open()
    for n in range(50):
        store.put("INSERT INTO facts VALUES (?, ?)", f"k{n}", b"v")
    await store.durable()
    os._exit(9)

asyncio.run(main())
"""


def run_child(state_dir: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(state_dir)], capture_output=True, text=True, check=False, timeout=30
    )


async def test_durable_survives_a_process_that_ends_without_a_word(tmp_path: Path) -> None:
    child = run_child(tmp_path)
    assert child.returncode == 9
    store = Database(tmp_path)
    store.open()
    assert len(keys(store)) == 50
    await store.close()


PAIRS = """
import asyncio, sys
from pathlib import Path
from edge.store.database import Database

async def main():
    store = Database(Path(sys.argv[1]))
    store.open()
    print("ready", flush=True)
    for n in range(20_000):
        with store.together():
            store.put("INSERT INTO facts VALUES (?, ?)", f"a{n}", b"v")
            with store.together():
                store.put("INSERT INTO facts VALUES (?, ?)", f"b{n}", b"v")
        store._wake.set()
        await asyncio.sleep(0.0002)

asyncio.run(main())
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03])
async def test_what_belongs_together_is_there_as_a_whole_after_a_kill(tmp_path: Path, delay_s: float) -> None:
    with subprocess.Popen(  # noqa: ASYNC220  # nothing else is on this loop
        [sys.executable, "-c", PAIRS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as onlooker:
                await until(lambda: onlooker.execute("SELECT count(*) FROM facts").fetchone()[0])
            await asyncio.sleep(delay_s)
        finally:
            child.send_signal(signal.SIGKILL)
    store = Database(tmp_path)
    store.open()
    found = keys(store)
    firsts = [key[1:] for key in found if key.startswith("a")]
    assert firsts
    assert firsts == [key[1:] for key in found if key.startswith("b")] == [str(n) for n in range(len(firsts))]
    await store.close()


async def test_together_is_one_group_and_may_be_nested(database: Database) -> None:
    with database.together():
        database.put(PUT, "a", b"v")
        with database.together():
            database.put(PUT, "b", b"v")
        await database.durable()
        assert keys(database) == []
    await database.durable()
    assert keys(database) == ["a", "b"]


async def test_an_exception_inside_together_passes_on(database: Database) -> None:
    def broken() -> None:
        with database.together():
            database.put(PUT, "a", b"v")
            raise KeyError("x")

    with pytest.raises(KeyError):
        broken()
    await database.durable()
    assert keys(database) == ["a"]
    database.put(PUT, "b", b"v")
    await database.durable()
    assert keys(database) == ["a", "b"]


async def test_a_second_daemon_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    first, second = Database(tmp_path), Database(tmp_path)
    first.open()
    with pytest.raises(StoreError, match="another labedge daemon already uses"):
        second.open()
    await first.close()
    second.open()
    await second.close()


async def test_a_daemon_in_another_process_is_refused_too(tmp_path: Path) -> None:
    store = Database(tmp_path)
    store.open()
    child = run_child(tmp_path)
    assert child.returncode == 1
    assert "another labedge daemon" in child.stderr
    await store.close()


async def test_a_refused_file_leaves_the_lock_free(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"this is a text and no database, however long it may be\n" * 100)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot be read.*move it away only if no run was unfinished"):
            Database(tmp_path).open()
    (tmp_path / "journal.db").unlink()
    store = Database(tmp_path)
    store.open()
    await store.close()


async def test_a_damaged_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    store = Database(tmp_path)
    store.open()
    for n in range(2000):
        store.put(PUT, f"key {n}", os.urandom(100))
    await store.durable()
    await store.close()
    path = tmp_path / "journal.db"
    damaged = bytearray(path.read_bytes())
    for page in range(2, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 200] = b"\x55" * 200
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"journal.db (is damaged|cannot be read)"):
        Database(tmp_path).open()


async def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("PRAGMA user_version=99")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"another version of labedge \(99\)"):
            Database(tmp_path).open()


@pytest.mark.parametrize("kind", ["file", "journal is a folder"])
async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "state").write_text("in the way")
    else:
        (tmp_path / "state" / "journal.db").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot (use the state directory|be read)"):
        Database(tmp_path / "state").open()


async def test_the_state_is_nobody_elses_to_read(database: Database) -> None:
    assert stat.S_IMODE(database.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(database.path.parent.stat().st_mode) == 0o700


class Disk:
    """Stands between a database and its writer's connection; `full` makes commits fail."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.full = False
        self.refused = 0

    def execute(self, sql: str, values: Any = ()) -> Any:
        if self.full and sql == "COMMIT":
            self.refused += 1
            raise sqlite3.OperationalError("database or disk is full")
        return self.connection.execute(sql, values)

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
async def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Database, Disk]]:
    """A database whose writer goes through a `Disk`."""
    store = Database(tmp_path)
    disks: list[Disk] = []
    connect = store._connect

    def watched() -> Any:
        connection = connect()
        if not hasattr(store, "_reader"):
            return connection
        disks.append(Disk(connection))
        return disks[0]

    monkeypatch.setattr(store, "_connect", watched)
    store.open()
    store.put(PUT, "before", b"v")
    await store.durable()
    yield store, disks[0]
    disks[0].full = False
    await store.close()


async def test_a_full_disk_is_told_to_everyone_who_waits(disk: tuple[Database, Disk]) -> None:
    store, hardware = disk
    hardware.full = True
    store.put(PUT, "a", b"v")
    ended = await asyncio.gather(*(store.durable() for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in ended] == [StoreError] * 5
    assert "cannot be written (database or disk is full); make room" in str(ended[0])
    with pytest.raises(StoreError):
        await store.durable()
    assert keys(store) == ["before"]


async def test_nobody_is_told_durable_while_something_before_is_not(disk: tuple[Database, Disk]) -> None:
    store, hardware = disk
    hardware.full = True
    store.put(PUT, "a", b"v")
    store._wake.set()
    await until(lambda: hardware.refused)
    with pytest.raises(StoreError):
        await store.durable()


async def test_after_a_full_disk_nothing_is_missing(disk: tuple[Database, Disk]) -> None:
    store, hardware = disk
    hardware.full = True
    store.put(PUT, "a", b"v")
    with pytest.raises(StoreError):
        await store.durable()
    store.put(PUT, "b", b"v")
    hardware.full = False
    await store.durable()
    assert keys(store) == ["before", "a", "b"]


async def test_closing_ends_even_when_the_disk_does_not_come_back(disk: tuple[Database, Disk]) -> None:
    store, hardware = disk
    hardware.full = True
    store.put(PUT, "a", b"v")
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < 4
    with pytest.raises(StoreError, match="is closed"):
        await store.durable()
    again = Database(store.path.parent)
    again.open()
    assert keys(again) == ["before"]
    await again.close()


@pytest.mark.parametrize("value", ["\ud800", 2**70])
async def test_a_value_that_cannot_be_stored_ends_the_wait(tmp_path: Path, value: Any) -> None:
    store = Database(tmp_path)
    store.open()
    store.put(PUT, value if isinstance(value, str) else "t", b"")
    store.put("INSERT INTO journal VALUES (?, 0, '', '', '')", value if isinstance(value, int) else 1)
    with pytest.raises(StoreError, match="cannot be written"):
        async with asyncio.timeout(5):
            await store.durable()
    await store.close()


async def test_a_question_that_cannot_be_asked_is_a_sentence(database: Database) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        database.rows("SELECT * FROM facts WHERE rowid = ?", 2**70)
    with pytest.raises(StoreError, match="no such table"):
        database.rows("SELECT * FROM elsewhere")
