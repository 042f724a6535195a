"""One SQLite file, one writer thread, group commit.

The event loop hands statements over with `put` (never waits) and waits for durability with `durable`.
The writer takes everything that has gathered, commits once, and wakes all who waited: a commit costs one
fdatasync however many records it carries. WAL with `synchronous=FULL` (SQLite documentation, "PRAGMA
synchronous"): after `durable` returns, a power cut loses nothing that was put before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge.errors import LabedgeError

SCHEMA_VERSION = 1
LAZY_COMMIT_S = 0.05
"""How long records that nobody waits for may gather before they are committed."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    n INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, run TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS journal_by_run ON journal (run, n);
CREATE TABLE IF NOT EXISTS runs (
    plan_id TEXT PRIMARY KEY, arrival INTEGER NOT NULL, run_uid TEXT NOT NULL, sha256 TEXT NOT NULL,
    payload BLOB NOT NULL, priority INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
    changed_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    plan_id TEXT NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (plan_id, seq))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (n INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
    correlation BLOB, retain INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS replies (id TEXT PRIMARY KEY, payload BLOB NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class StoreError(LabedgeError):
    """The journal cannot be read or written; nothing may move until it can."""


class Database:
    """The file `journal.db` in the cell's state directory; locked against a second daemon."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "journal.db"
        self._lock_fd = -1
        self._queue: list[tuple[str, Sequence[Any]]] = []
        self._staged: list[tuple[str, Sequence[Any]]] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Create or open the file and start the writer.

        Raises StoreError when it is in use by another daemon, damaged, or cannot be written.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = os.open(
                self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            raise StoreError(
                f"another labedge daemon already uses {self.path.parent}; "
                "stop it or give this cell its own state_dir"
            ) from None
        except OSError as error:
            self._unlock()
            raise StoreError(
                f"cannot use the state directory {self.path.parent}: {error.strerror}"
            ) from error
        try:
            self._reader = self._connect()
            self._check()
            self._reader.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            self._unlock()
            raise StoreError(
                f"the journal {self.path} cannot be read ({error}); "
                "move it away only if no run was unfinished"
            ) from error
        except StoreError:
            self._reader.close()
            self._unlock()
            raise
        self._thread = threading.Thread(target=self._write_forever, name="journal", daemon=True)
        self._thread.start()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _connect(self) -> sqlite3.Connection:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(fd)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _check(self) -> None:
        found = self._reader.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreError(f"the journal {self.path} is damaged ({found}); nothing is resumed by guess")
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise StoreError(f"the journal {self.path} was written by another version of labedge ({version})")
        self._reader.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Everything put inside is committed as one, or not at all, whatever becomes of the process.

        An exception inside passes on, and what was put before it is committed: it has been said already.
        """
        if self._staged is not None:
            yield
            return
        self._staged = []
        try:
            yield
        finally:
            with self._mutex:
                self._queue.extend(self._staged)
            self._staged = None
        self._commit_later()

    def put(self, sql: str, *values: Any) -> None:
        """Queue a statement; it is committed with the next group, in order."""
        if self._staged is not None:
            self._staged.append((sql, values))
            return
        with self._mutex:
            self._queue.append((sql, values))
        self._commit_later()

    def _commit_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(LAZY_COMMIT_S, self._commit_soon)

    def _commit_soon(self) -> None:
        self._timer = None
        self._wake.set()

    async def durable(self) -> None:
        """Return once everything put so far survives a power cut.

        Raises StoreError if it could not be written. It is kept and tried again with what follows it, so
        that the file never has a hole.
        """
        if self._closing:
            raise StoreError(f"the journal {self.path} is closed")
        waiter = self._loop.create_future()
        with self._mutex:
            self._waiters.append(waiter)
        self._wake.set()
        await waiter

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read what is committed. For small results; long ones are paged by the caller. Raises StoreError."""
        try:
            return self._reader.execute(sql, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"the journal {self.path} cannot be read ({error})") from error

    async def close(self) -> None:
        """Commit what is queued, stop the writer, give the file back."""
        if self._closing:
            return
        with contextlib.suppress(StoreError):
            await self.durable()
        self._closing = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, 5)
        self._reader.close()
        self._unlock()

    def _write_forever(self) -> None:
        writer = self._connect()
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._mutex:
                work, self._queue = self._queue, []
                waiters, self._waiters = self._waiters, []
            failure = self._commit(writer, work) if work else None
            if failure is not None:
                with self._mutex:
                    self._queue[:0] = work
            if waiters:
                self._loop.call_soon_threadsafe(_release, waiters, failure)
            if self._closing and (failure is not None or not self._queue):
                writer.close()
                return

    def _commit(self, writer: sqlite3.Connection, work: list[tuple[str, Sequence[Any]]]) -> StoreError | None:
        try:
            writer.execute("BEGIN IMMEDIATE")
            for sql, values in work:
                writer.execute(sql, values)
            writer.execute("COMMIT")
        except (sqlite3.Error, ValueError, OverflowError) as error:
            with contextlib.suppress(sqlite3.Error):
                writer.execute("ROLLBACK")
            return StoreError(
                f"the journal {self.path} cannot be written ({error}); make room or mend the disk"
            )
        return None


def _release(waiters: list[asyncio.Future[None]], failure: StoreError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
