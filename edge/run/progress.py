"""How far a run has come: state of every step, rebuilt from the journal after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from drivers.api import Intent, Outcome
from edge.link.documents import RunDocuments
from edge.link.messages import RunState, StepCounts, StepState, WaitingFor
from edge.plan.check import CompiledPlan
from edge.store.journal import (
    IntentRecord,
    OutcomeRecord,
    Record,
    ResolutionRecord,
    StepRecord,
    StoredRun,
)

ACTIVE_STATES: dict[str, RunState] = {
    "Starting": "Starting",
    "Execute": "Execute",
    "Completing": "Completing",
    "Holding": "Holding",
    "Held": "Held",
    "Unholding": "Unholding",
    "Suspending": "Suspending",
    "Suspended": "Suspended",
    "Unsuspending": "Unsuspending",
    "Stopping": "Stopping",
    "Aborting": "Aborting",
}
"""Cell states that the active run shares with its cell."""

TERMINAL = frozenset({"finished", "failed", "skipped", "cancelled"})


@dataclass
class StepProgress:
    """One step of a run."""

    state: StepState = "waiting"
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    args: dict[str, Any] | None = None
    """Arguments of the last attempt, as they were when it began."""
    attempts: int = 0
    started_at: float = 0.0
    reached: Outcome | None = None
    """What the device said, after an abort, of how far an interrupted attempt got."""
    open_intent: Intent | None = None
    """An attempt whose outcome nobody knows: it is settled before anything else reaches the device."""
    known: Outcome | None = None
    """How the last attempt ended, if a restart came before the run had made anything of it."""


@dataclass
class ActiveRun:
    """A run on its way."""

    stored: StoredRun
    plan: CompiledPlan
    documents: RunDocuments
    steps: dict[str, StepProgress]
    estimates: dict[str, float | None]
    """Seconds by the driver's estimate; None where the arguments are only known at run time."""
    state: RunState = "Queued"
    reason: str = ""
    waiting: WaitingFor | None = None
    resolution: str | None = None
    """A person's answer to `waiting`: finished, repeat or failed."""

    @classmethod
    def new(cls, stored: StoredRun, plan: CompiledPlan, documents: RunDocuments) -> ActiveRun:
        steps = {step.execution: StepProgress() for step in plan.steps}
        estimates = dict(zip(steps, plan.estimates, strict=True))
        state: RunState = stored.state  # type: ignore[assignment]  # written by us as a RunState
        return cls(stored, plan, documents, steps, estimates, state, stored.reason)

    @property
    def plan_id(self) -> str:
        return self.stored.plan_id

    def misfit(self) -> str:
        """Why the cell cannot do all of the plan: an empty text, or its first step that is not known."""
        for step in self.plan.plan.steps:
            if step.id not in self.steps:
                return f"step {step.id} ({step.device}.{step.operation}) cannot be done as it was accepted"
        return ""

    def restore(self, records: list[Record]) -> None:
        """Replay the journal: finished steps stay finished, an intent without an outcome is in doubt.

        What an attempt came to is kept until the run has made something of it: neither a movement that was
        made nor one that went wrong is repeated without being asked for, and a person's answer still counts.
        """
        for record in records:
            match record:
                case IntentRecord(intent=intent) if intent.execution in self.steps:
                    step = self.steps[intent.execution]
                    step.open_intent, step.args, step.state = intent, intent.args, "in_doubt"
                    step.attempts += 1
                    self._begun_again(intent.execution)
                case OutcomeRecord(execution=execution, outcome=outcome) if execution in self.steps:
                    step = self.steps[execution]
                    if outcome.kind != "unknown":
                        step.open_intent, step.state = None, "waiting"
                        step.known = outcome if outcome.kind != "not_executed" else None
                case ResolutionRecord(execution=execution, answer=answer) if execution in self.steps:
                    step = self.steps[execution]
                    kind: Literal["in_doubt", "failed"] = "in_doubt" if step.open_intent else "failed"
                    self.waiting, self.resolution = WaitingFor(execution, kind, step.reason), answer
                case StepRecord(execution=execution) if execution in self.steps:
                    step = self.steps[execution]
                    step.state = record.state  # type: ignore[assignment]  # written by us as a StepState
                    step.result, step.reason = record.result, record.reason
                    if record.state in TERMINAL:
                        step.open_intent = None
                        self._begun_again(execution)
                case _:
                    pass

    def _begun_again(self, execution: str) -> None:
        """A new attempt, or the end of the step: what was known and answered before is past."""
        self.steps[execution].known = None
        if self.waiting is not None and self.waiting.step == execution:
            self.waiting = self.resolution = None

    def counts(self) -> StepCounts:
        states = [step.state for step in self.steps.values()]
        return StepCounts(
            total=len(states),
            finished=states.count("finished"),
            failed=states.count("failed"),
            skipped=states.count("skipped"),
            in_doubt=states.count("in_doubt"),
        )

    def current(self) -> list[str]:
        return [name for name, step in self.steps.items() if step.state in ("running", "in_doubt")]

    def left_s(self) -> float | None:
        """Estimated time of what has not ended; None while some of it cannot be estimated."""
        left = [
            self.estimates[name] for name, step in self.steps.items() if step.state in ("waiting", "running")
        ]
        known = [seconds for seconds in left if seconds is not None]
        return round(sum(known), 1) if len(known) == len(left) else None

    def lookup(self, name: str) -> Any:
        """Value of a parameter or of an earlier step's result; raises LookupError with a sentence."""
        if name in self.plan.plan.parameters:
            return self.plan.plan.parameters[name]
        owner, _, field_name = name.partition(".")
        step = self.steps.get(owner)
        if step is None:
            raise LookupError(f"there is no `{name}`")
        if step.state != "finished":
            raise LookupError(f"`{name}` has no value: step `{owner}` is {step.state}")
        if field_name not in step.result:
            raise LookupError(f"step `{owner}` gave no `{field_name}`")
        return step.result[field_name]
