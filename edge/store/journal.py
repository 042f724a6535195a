"""What the cell must never forget, in the words of the runner.

Kinds of journal records: `intent` (before the wire), `outcome` (after it), `step` (a step's state),
`resolution` (a person's answer), `run` (a run's state), `command` (who asked for what). All of one run are
read back in order at a restart.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from drivers.api import Identity, Intent, Outcome
from edge.plan.inventory import Inventory
from edge.store.database import Database

FINAL = ("Complete", "Stopped", "Aborted")
KEPT_STATUSES = 200
KEPT_STATUS_S = 7 * 86_400.0
"""A run's retained status is cleared after so many later runs, or after so many seconds."""
RECENT_REPLIES = 1_000
"""Answers kept in memory as well, for repetitions that come before they are committed."""


class StoredRun(msgspec.Struct, frozen=True):
    """A run as the file knows it."""

    plan_id: str
    arrival: int
    run_uid: str
    sha256: str
    payload: bytes
    priority: int
    state: str
    reason: str
    changed_at: float


class IntentRecord(msgspec.Struct, frozen=True):
    """An attempt that is about to reach the wire."""

    n: int
    device: str
    intent: Intent


class OutcomeRecord(msgspec.Struct, frozen=True):
    """How the attempt with intent `n` ended (0: it never got that far)."""

    n: int
    execution: str
    outcome: Outcome


class StepRecord(msgspec.Struct, frozen=True):
    """A step's state from now on."""

    execution: str
    state: str
    result: dict[str, Any] = {}
    reason: str = ""


class RunRecord(msgspec.Struct, frozen=True):
    """A run's state from now on."""

    state: str
    reason: str = ""
    by: str = ""


class ResolutionRecord(msgspec.Struct, frozen=True):
    """What a person said of a step that nobody else could settle."""

    execution: str
    answer: str
    by: str = ""


Record = IntentRecord | OutcomeRecord | StepRecord | RunRecord | ResolutionRecord
_KINDS: dict[str, type[Record]] = {
    "intent": IntentRecord,
    "outcome": OutcomeRecord,
    "step": StepRecord,
    "run": RunRecord,
    "resolution": ResolutionRecord,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_encode = msgspec.json.Encoder().encode


class Journal:
    """Typed records on top of the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.durable = database.durable
        ((last,),) = database.rows("SELECT coalesce(max(n), 0) FROM journal")
        self._n: int = last
        ((arrival,),) = database.rows("SELECT coalesce(max(arrival), 0) FROM runs")
        self._arrival: int = arrival
        self._recent: dict[str, bytes] = {}

    def reserve(self) -> int:
        """A record number for an attempt, before its intent is known; also its job id."""
        self._n += 1
        return self._n

    def record(self, plan_id: str, record: Record, n: int | None = None) -> None:
        """Append, or fill a reserved number; not durable before `durable` returns."""
        self.database.put(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?)",
            self.reserve() if n is None else n,
            time.time(),
            _NAMES[type(record)],
            plan_id,
            _encode(record),
        )

    def audit(self, body: dict[str, Any]) -> None:
        """Who asked for what."""
        self.database.put(
            "INSERT INTO journal VALUES (?, ?, 'command', '', ?)", self.reserve(), time.time(), _encode(body)
        )

    def records(self, plan_id: str) -> list[Record]:
        """All records of a run, in order."""
        rows = self.database.rows("SELECT kind, body FROM journal WHERE run = ? ORDER BY n", plan_id)
        return [msgspec.json.decode(body, type=_KINDS[kind]) for kind, body in rows if kind in _KINDS]

    def accept(self, plan_id: str, run_uid: str, sha256: str, payload: bytes, priority: int) -> StoredRun:
        """Enter an accepted plan as a queued run."""
        self._arrival += 1
        run = StoredRun(plan_id, self._arrival, run_uid, sha256, payload, priority, "Queued", "", time.time())
        self.database.put(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *msgspec.structs.astuple(run)
        )
        return run

    def forget(self, plan_id: str) -> None:
        """Take back an acceptance that could not be made durable and that nobody was told of."""
        self.database.put("DELETE FROM runs WHERE plan_id = ?", plan_id)

    def set_run(self, plan_id: str, state: str, reason: str = "", by: str = "") -> None:
        """A run changes its state."""
        self.record(plan_id, RunRecord(state, reason, by))
        self.database.put(
            "UPDATE runs SET state = ?, reason = ?, changed_at = ? WHERE plan_id = ?",
            state,
            reason,
            time.time(),
            plan_id,
        )

    def run(self, plan_id: str) -> StoredRun | None:
        """A run by its plan id, whatever its state."""
        rows = self.database.rows("SELECT * FROM runs WHERE plan_id = ?", plan_id)
        return StoredRun(*rows[0]) if rows else None

    def runs(self, limit: int = 1000) -> list[StoredRun]:
        """The newest runs first, without their payloads, which may be large."""
        rows = self.database.rows(
            "SELECT plan_id, arrival, run_uid, sha256, x'', priority, state, reason, changed_at"
            " FROM runs ORDER BY arrival DESC LIMIT ?",
            limit,
        )
        return [StoredRun(*row) for row in rows]

    def unfinished(self) -> list[StoredRun]:
        """Runs that are queued or were active, in order of arrival."""
        rows = self.database.rows(
            "SELECT * FROM runs WHERE state NOT IN ('Complete', 'Stopped', 'Aborted') ORDER BY arrival"
        )
        return [StoredRun(*row) for row in rows]

    def long_past(self) -> list[str]:
        """Plan ids whose retained status is due to be cleared and has not been yet."""
        cleared = self.fact("statuses_cleared", int) or 0
        rows = self.database.rows(
            "SELECT plan_id, arrival FROM runs WHERE arrival > ? AND (arrival <= ? OR changed_at < ?)"
            " AND state IN ('Complete', 'Stopped', 'Aborted') ORDER BY arrival LIMIT 1000",
            cleared,
            self._arrival - KEPT_STATUSES,
            time.time() - KEPT_STATUS_S,
        )
        if rows:
            self.set_fact("statuses_cleared", rows[-1][1])
        return [plan_id for plan_id, _ in rows]

    def save_identities(self, identities: dict[str, Identity | None]) -> None:
        """Which instruments the run that is under way began with."""
        self.set_fact("identities", identities)

    def identities(self) -> dict[str, Identity | None]:
        """Which instruments the last run began with."""
        found: dict[str, Identity | None] | None = self.fact("identities", dict[str, Identity | None])
        return found or {}

    def save_inventory(self, inventory: Inventory) -> None:
        """What stands where, from now on."""
        self.set_fact("inventory", inventory)

    def inventory(self) -> Inventory | None:
        """What stood where at the last booking; None on the first start."""
        found: Inventory | None = self.fact("inventory", Inventory)
        return found

    def set_fact(self, key: str, value: Any) -> None:
        """Keep a small value under a name."""
        self.database.put("INSERT OR REPLACE INTO facts VALUES (?, ?)", key, _encode(value))

    def fact(self, key: str, kind: Any) -> Any:
        """A value kept under a name, or None."""
        rows = self.database.rows("SELECT value FROM facts WHERE key = ?", key)
        return msgspec.json.decode(rows[0][0], type=kind) if rows else None

    def remember_reply(self, command_id: str, reply: Any) -> None:
        """The first final answer to a command: a repeated id gets it again."""
        payload = _encode(reply)
        self._recent[command_id] = payload
        if len(self._recent) > RECENT_REPLIES:
            del self._recent[next(iter(self._recent))]
        self.database.put("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", command_id, payload, time.time())

    def reply(self, command_id: str) -> bytes | None:
        """The remembered answer's JSON."""
        if command_id in self._recent:
            return self._recent[command_id]
        rows = self.database.rows("SELECT payload FROM replies WHERE id = ?", command_id)
        return rows[0][0] if rows else None
