"""A whole cell of bots on one event loop: controller, desk, intake, journal; no wire, no broker."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edge.link.messages import Alarm, Command, Document, Reply, RunState, Verdict
from edge.plan.cellmodel import CellModel
from edge.plan.inventory import Bookkeeper, Inventory
from edge.run.actor import Actor
from edge.run.alarms import Alarms
from edge.run.commands import CommandDesk
from edge.run.controller import Controller
from edge.run.intake import Intake
from edge.run.listener import Listener
from edge.run.machine import Event, PackML, State
from edge.run.progress import ActiveRun
from edge.store.database import Database
from edge.store.journal import IntentRecord, Journal
from edge.store.outbox import Outbox
from protocols.links import Links
from tests.edge.instruments import Bot, cell_of, until

_ids = itertools.count()
"""Of plans and commands, over all sessions: a repeated id would be an old one."""


@dataclass
class Ears(Listener):
    """Keeps what the controller tells, and documents where `restore` looks for them."""

    outbox: Outbox
    runs: list[tuple[str, RunState]] = field(default_factory=list)
    said: list[Document] = field(default_factory=list)

    def run_changed(self, run: ActiveRun, urgent: bool) -> None:
        if urgent and (not self.runs or self.runs[-1] != (run.plan_id, run.state)):
            self.runs.append((run.plan_id, run.state))

    def documents(self, run: ActiveRun, documents: list[Document]) -> None:
        for document in documents:
            self.said.append(document)
            self.outbox.keep_document(run.plan_id, document.seq, msgspec.json.encode(document))


class Lab:
    """One session of the cell's daemon, without the outside."""

    def __init__(self, tmp_path: Path, **cell: Any) -> None:
        self.cell = cell_of(tmp_path, **cell)
        self.model = CellModel(self.cell)
        self.database = Database(self.cell.state_dir)
        self.database.open()
        self.journal = Journal(self.database)
        self.outbox = Outbox(self.database)
        self.keeper = Bookkeeper(self.model, self.journal.inventory() or Inventory.initial(self.model))
        self.alarms: list[Alarm] = []
        self.controller = Controller(
            self.cell, self.model, self.journal, self.keeper, Alarms(self.alarms.append)
        )
        self.ears = Ears(self.outbox)
        self.controller.listener = self.ears
        self.intake = Intake(self.controller, self.model, self.outbox)
        self.controller.admit = self.intake.admit
        self.replayed: list[tuple[str, int]] = []
        self.desk = CommandDesk(self.controller, self._replay)
        self.controller.remote_locked = bool(self.journal.fact("remote_locked", bool))
        self.bots: dict[str, Bot] = {}
        for name, config in self.cell.devices.items():
            self.bots[name] = Bot(name, config.options, Links())  # type: ignore[arg-type]  # they are bots'
            self.controller.actors[name] = Actor(self.bots[name], 60.0, _ignore, _ignore)
        self.drive: asyncio.Task[None]

    async def _replay(self, plan_id: str, from_seq: int) -> None:
        self.replayed.append((plan_id, from_seq))

    # ---- what a planner and an operator do -------------------------------------------------------

    async def submit(self, *steps: dict[str, Any], **head: Any) -> str:
        """A plan that has to be accepted; its id."""
        plan_id: str = head.pop("plan_id", f"plan-{next(_ids)}")
        verdict = await self.verdict(plan_of(plan_id, *steps, **head))
        assert verdict.verdict == "accepted", verdict.reasons
        return plan_id

    async def verdict(self, plan: dict[str, Any] | bytes) -> Verdict:
        return await self.intake.submit(plan if isinstance(plan, bytes) else json.dumps(plan).encode())

    def take(self, name: str, *, local: bool = True, retained: bool = False, **fields: Any) -> list[Reply]:
        """Give a command; the list fills with its answers."""
        answers: list[Reply] = []
        command = Command(
            command=name,
            id=fields.pop("id", f"c-{next(_ids)}"),
            args=fields.pop("args", {}),
            by=fields.pop("by", "ann"),
            **fields,
        )
        self.desk.take(command, answers.append, local=local, retained=retained)
        return answers

    async def command(self, name: str, **fields: Any) -> Reply:
        """Give a command and wait for its last answer."""
        return await self.answered(self.take(name, **fields))

    async def answered(self, answers: list[Reply]) -> Reply:
        """The last answer."""
        await until(lambda: answers and answers[-1].result != "accepted")
        return answers[-1]

    async def resolve(self, plan_id: str, step: str, answer: str) -> None:
        reply = await self.command("resolve", args={"plan_id": plan_id, "step": step, "as": answer})
        assert reply.result == "done", reply.reasons

    # ---- what there is to see --------------------------------------------------------------------

    def run(self, plan_id: str) -> ActiveRun:
        active = self.controller.active
        assert active is not None
        assert active.plan_id == plan_id
        return active

    def stored(self, plan_id: str) -> tuple[str, str]:
        run = self.journal.run(plan_id)
        assert run is not None
        return run.state, run.reason

    async def state(self, *wanted: State) -> State:
        await until(lambda: self.controller.state in wanted)
        return self.controller.state

    async def ended(self, plan_id: str) -> str:
        """The final state of a run, once it is in the file."""
        finals = ("Complete", "Stopped", "Aborted")
        await until(lambda: (plan_id, self._last(plan_id)) in [(plan_id, final) for final in finals])
        await self.journal.durable()
        return self.stored(plan_id)[0]

    def _last(self, plan_id: str) -> str:
        return next((state for run, state in reversed(self.ears.runs) if run == plan_id), "")

    def phases(self) -> list[tuple[str, str]]:
        """(execution, outcome) of everything that has ended."""
        data = [document.doc["data"] for document in self.ears.said if document.name == "event"]
        return [(each["execution"], each["outcome"]) for each in data if "outcome" in each]

    def intended(self, plan_id: str) -> list[dict[str, Any]]:
        """Arguments of every intent in the journal."""
        records = self.journal.records(plan_id)
        return [record.intent.args for record in records if isinstance(record, IntentRecord)]

    def did(self, bot: str) -> list[str]:
        """What a bot really did, without questions."""
        quiet = {"open", "identify", "read", "prepare", "halt", "halted", "close"}
        return [entry for entry in self.bots[bot].log if entry not in quiet]

    def moved(self, bot: str) -> list[str]:
        """What a bot did, without what it was asked afterwards."""
        return [entry for entry in self.did(bot) if not entry.startswith("settle")]

    def waiting(self) -> tuple[str, str] | None:
        run = self.controller.active
        return (run.waiting.step, run.waiting.kind) if run is not None and run.waiting else None

    # ---- its life --------------------------------------------------------------------------------

    def recover(self) -> None:
        """As the daemon does at its start, for the runs of an earlier session."""
        for stored in self.journal.unfinished():
            run = self.intake.restore(stored)
            if stored.state == "Queued":
                self.controller.enqueue(run)
            else:
                self.controller.adopt(run)
        last = self.journal.fact("state", str)
        if last in (State.ABORTING.value, State.ABORTED.value):
            self.controller.machine = PackML(State.ABORTED)
        elif self.controller.active is None and last != State.STOPPED.value:
            self.controller.handle(Event.RESET)


@asynccontextmanager
async def session(
    tmp_path: Path, before: Callable[[Lab], Awaitable[None]] | None = None, **cell: Any
) -> AsyncIterator[Lab]:
    """A session from start to a crash: at its end everything stops at once, as a lost process would."""
    tasks_before = asyncio.all_tasks()
    lab = Lab(tmp_path, **cell)
    if before is not None:
        await before(lab)
    lab.recover()
    tasks = [asyncio.create_task(actor.run()) for actor in lab.controller.actors.values()]
    lab.drive = asyncio.create_task(lab.controller.drive())
    try:
        yield lab
        failed = [task for task in (*tasks, lab.drive) if task.done() and not task.cancelled()]
        assert not failed, f"ended by itself: {failed}"
    finally:
        loose = asyncio.all_tasks() - tasks_before
        for task in loose:
            task.cancel()
        _, deaf = await asyncio.wait(loose, timeout=5)
        await lab.database.close()
        assert not deaf, f"it swallows its cancellation: {deaf}"


def _ignore(actor: Actor) -> None:
    return


def plan_of(plan_id: str, *steps: dict[str, Any], **head: Any) -> dict[str, Any]:
    return {
        "schema": "labedge.plan/1",
        "plan_id": plan_id,
        "cell": "bench-1",
        "steps": [{"id": f"s{n}"} | step for n, step in enumerate(steps)],
    } | head


def op(operation: str = "poke", device: str = "arm", **more: Any) -> dict[str, Any]:
    """A step; keys that no step has are its arguments."""
    keys = ("id", "record", "timeout_s", "on_error")
    step: dict[str, Any] = {"device": device, "operation": operation}
    step |= {key: more.pop(key) for key in keys if key in more}
    return step | {"args": more.pop("args", more)}
