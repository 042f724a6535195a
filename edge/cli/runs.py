"""`labedge runs`: what has run, from the daemon or from the journal of a cell that has none."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from edge.cli.overview import steps_text
from edge.errors import LabedgeError
from edge.link.localclient import CELL_VARIABLE, NoDaemon, ask, find, is_file, state_dir_of
from edge.plan.model import Unreadable, parse
from edge.store.journal import OutcomeRecord, StepRecord

Run = dict[str, Any]


@click.command(epilog="Example: labedge runs --cell cell.yaml")
@click.argument("plan_id", metavar="[RUN]", required=False)
@click.option("--cell", metavar="CELL", help="A cell file, or the id of a cell whose daemon runs here.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def runs(plan_id: str | None, cell: str | None, as_json: bool) -> None:
    """List the runs of a cell, the newest first; or show the steps of one, RUN being its plan id."""
    folder, found = asyncio.run(_find(cell))
    if plan_id is None:
        _say(as_json, {"runs": found}, [_line(run) for run in found] or ["Nothing has run yet."])
        return
    run = next((run for run in found if run["plan_id"] == plan_id), None)
    if run is None:
        click.echo(f"There is no run {plan_id}; `labedge runs` lists them.", err=True)
        sys.exit(1)
    steps = Archive(folder).steps(plan_id)
    width = max((len(step["step"]) for step in steps), default=0)
    lines = [f"  {step['step']:{width}}  {step['state']:9}  {step['reason']}".rstrip() for step in steps]
    _say(as_json, run | {"steps": steps}, [_line(run), f"  {steps_text(_counts(steps))}", *lines])


async def _find(cell: str | None) -> tuple[Path, list[Run]]:
    """State directory and runs; without a daemon they are read from the journal."""
    try:
        path = await find(cell)
        return path.parent, list(msgspec.json.decode(await ask(path, "runs"))["runs"])
    except NoDaemon:
        file = cell or os.environ.get(CELL_VARIABLE)
        if file is None or not is_file(file):
            raise
    folder = state_dir_of(Path(file))
    return folder, Archive(folder).runs()


class Archive:
    """The journal of a cell, read and never written, beside a daemon or without one."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "journal.db"
        if not self.path.is_file():
            raise LabedgeError(f"There is no journal in {state_dir}: nothing has run there yet.")

    def runs(self) -> list[Run]:
        """The newest first."""
        names = ("plan_id", "run_uid", "state", "reason", "changed_at")
        rows = self._rows(f"SELECT {', '.join(names)} FROM runs ORDER BY arrival DESC LIMIT 1000")
        return [dict(zip(names, row, strict=True)) | {"changed_at": _stamp(row[-1])} for row in rows]

    def steps(self, plan_id: str) -> list[Run]:
        """Every step of a run with its state, its attempts and what came out."""
        [(payload,)] = self._rows("SELECT payload FROM runs WHERE plan_id = ?", plan_id)
        try:
            plan, _ = parse(payload)
        except Unreadable as error:
            raise LabedgeError(f"The plan {plan_id} in {self.path} cannot be read: {error}.") from error
        steps: dict[str, Run] = {
            step.id: {"step": step.id, "state": "waiting", "attempts": 0, "reason": "", "result": {}}
            for step in plan.steps
        }
        for kind, body in self._rows("SELECT kind, body FROM journal WHERE run = ? ORDER BY n", plan_id):
            if kind == "step":
                record = msgspec.json.decode(body, type=StepRecord)
                found = {"state": record.state, "reason": record.reason, "result": record.result}
                steps[record.execution].update(found)
            elif kind == "outcome":
                steps[msgspec.json.decode(body, type=OutcomeRecord).execution]["attempts"] += 1
        return list(steps.values())

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                return connection.execute(sql, values).fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise LabedgeError(f"The journal {self.path} cannot be read: {error}.") from error


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _counts(steps: list[Run]) -> dict[str, int]:
    states = [step["state"] for step in steps]
    kinds = ("finished", "failed", "skipped", "in_doubt")
    return {kind: states.count(kind) for kind in kinds} | {"total": len(states)}


def _line(run: Run) -> str:
    reason = f": {run['reason']}" if run["reason"] else ""
    return f"{run['changed_at'][:19].replace('T', ' ')}  {run['plan_id']}  {run['state']}{reason}"


def _say(as_json: bool, data: Run, lines: list[str]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(data)) if as_json else "\n".join(lines))
