"""Plans come in here: parsed, deduplicated, checked, made durable, queued. One at a time, in order."""

from __future__ import annotations

import asyncio
import hashlib
import uuid

import msgspec

from edge.link.documents import RunDocuments
from edge.link.messages import Document, Reason, Verdict, utc_now
from edge.plan.cellmodel import CellModel
from edge.plan.check import CompiledPlan, check
from edge.plan.inventory import Inventory
from edge.plan.model import Reason as PlanReason
from edge.plan.model import Unreadable, parse
from edge.run.controller import Controller
from edge.run.progress import ActiveRun
from edge.store.database import StoreError
from edge.store.journal import StoredRun
from edge.store.outbox import Outbox

QUEUE_LIMIT = 1_000
LARGE_BYTES = 10_000
"""Plans above this size are parsed and checked off the event loop."""


class Intake:
    """Turns payloads into queued runs."""

    def __init__(self, controller: Controller, model: CellModel, outbox: Outbox) -> None:
        self.controller = controller
        self.model = model
        self.journal = controller.journal
        self.outbox = outbox
        self._one_at_a_time = asyncio.Lock()

    async def submit(self, payload: bytes) -> Verdict:
        """The verdict on a plan; an accepted plan is durable and queued before this returns.

        Raises StoreError if it could not be made durable; then it is not accepted and may come again.
        """
        async with self._one_at_a_time:
            digest = hashlib.sha256(payload).hexdigest()
            try:
                compiled, reasons = await self._examine(payload)
            except Unreadable as error:
                return Verdict(f"sha256-{digest}", "rejected", _told(error.reasons))
            plan_id = compiled.plan.plan_id
            known = self.journal.run(plan_id)
            if known is not None:
                return _known(known, digest)
            if not reasons:
                reasons = self._cannot_take()
            if reasons:
                return Verdict(plan_id, "rejected", _told(reasons))
            stored = self.journal.accept(plan_id, uuid.uuid4().hex, digest, payload, compiled.plan.priority)
            try:
                await self.journal.durable()
            except StoreError:
                self.journal.forget(plan_id)
                raise
            self.controller.enqueue(ActiveRun.new(stored, compiled, RunDocuments(stored.run_uid)))
            return Verdict(plan_id, "accepted")

    async def admit(self, run: ActiveRun) -> str:
        """Check a queued run against the world as it is now, directly before it starts."""
        try:
            _, reasons = await self._examine(run.stored.payload)
        except Unreadable as error:
            reasons = error.reasons
        return "; ".join(f"{reason.path}: {reason.message}" for reason in reasons[:5])

    def restore(self, stored: StoredRun) -> ActiveRun:
        """A run from the file, with its progress and its documents."""
        plan, _ = parse(stored.payload)
        compiled, _ = check(plan, self.model, Inventory.initial(self.model), utc_now())
        kept: list[Document] = []
        while page := self.outbox.documents(stored.plan_id, len(kept)):
            kept += [msgspec.json.decode(payload, type=Document) for _, payload in page]
        run = ActiveRun.new(stored, compiled, RunDocuments(stored.run_uid, kept))
        run.restore(self.journal.records(stored.plan_id))
        return run

    async def _examine(self, payload: bytes) -> tuple[CompiledPlan, list[PlanReason]]:
        inventory = self.controller.keeper.inventory
        if len(payload) < LARGE_BYTES:
            return _examine(payload, self.model, inventory)
        return await asyncio.to_thread(_examine, payload, self.model, inventory.copy())

    def _cannot_take(self) -> list[PlanReason]:
        if not self.controller.accepting:
            return [PlanReason("", "the cell is being shut down")]
        if len(self.controller.queue) >= QUEUE_LIMIT:
            return [PlanReason("", f"the queue is full: {QUEUE_LIMIT} plans wait already")]
        return []


def _examine(payload: bytes, model: CellModel, inventory: Inventory) -> tuple[CompiledPlan, list[PlanReason]]:
    if payload.startswith(b"eyJ"):
        raise Unreadable([PlanReason("", "signed plans are not built yet in this version; send plain JSON")])
    plan, wrong = parse(payload)
    compiled, reasons = check(plan, model, inventory, utc_now())
    return compiled, wrong + reasons


def _known(run: StoredRun, digest: str) -> Verdict:
    if run.sha256 == digest:
        return Verdict(run.plan_id, "duplicate")
    reason = Reason(
        "plan_id", f"plan_id `{run.plan_id}` was already used for another plan; give this one its own"
    )
    return Verdict(run.plan_id, "rejected", [reason])


def _told(reasons: list[PlanReason]) -> list[Reason]:
    return [Reason(reason.path, reason.message) for reason in reasons]
