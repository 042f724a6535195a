"""Carries out one run, step after step.

The runner decides what a step's outcome means for the run; it knows no states of the cell. What it needs
from the cell (wait until it may go on, hold, stop, abort) comes in as `Cell`.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any, Protocol

import msgspec

from drivers.api import Effect, Outcome
from drivers.errors import DriverError
from edge.link.documents import Phase
from edge.link.messages import Document, StepState, WaitingFor
from edge.plan.check import CompiledStep, resolve
from edge.plan.inventory import Bookkeeper
from edge.run.actor import Actor, NotConnected
from edge.run.attempt import AttemptContext, ask_device, attempt, default_timeout_s
from edge.run.progress import TERMINAL, ActiveRun, StepProgress
from edge.store.journal import Journal, OutcomeRecord, StepRecord

DEVICE_WAIT_S = 20.0
"""How long a step waits for a device that is away before it counts as not executed."""
MEASURE_WAIT_S = 1.0
"""How long an abort waits for a device that is away before it asks how far an attempt got."""
SAFE_REPEATS = 3
"""How often an operation that is harmless to repeat is sent again when its answer is lost."""


class Cell(Protocol):
    """What a run asks of its cell."""

    journal: Journal
    keeper: Bookkeeper
    actors: dict[str, Actor]

    async def may_go(self) -> None:
        """Return when the next step may begin; raises StopRun when none may any more."""

    async def pause(self, seconds: float) -> None:
        """Wait, then `may_go`; a hold or stop ends the wait."""

    def hold_run(self, reason: str) -> None:
        """Ask for Holding."""

    def end_run(self, command: str, reason: str) -> None:
        """Ask for Stopping or Aborting."""

    def emit(self, run: ActiveRun, documents: list[Document]) -> None:
        """Keep and send documents."""

    def changed(self) -> None:
        """Something worth a new status."""

    def booked(self) -> None:
        """The inventory has changed."""


class StopRun(Exception):
    """No further step is begun."""


class Runner:
    """One run on one cell."""

    def __init__(self, cell: Cell, run: ActiveRun) -> None:
        self.cell = cell
        self.run = run

    async def carry_out(self) -> None:
        """Every step that has not ended yet; raises StopRun when the cell stops the run."""
        for compiled in self.run.plan.steps:
            step = self.run.steps[compiled.execution]
            if step.state in TERMINAL:
                continue
            await self.cell.may_go()
            if (missing := self._skipped_need(compiled)) is not None:
                self._end(compiled, step, "skipped", f"it needs step `{missing}`, which was skipped")
                continue
            await self._step(compiled, step)

    def _skipped_need(self, compiled: CompiledStep) -> str | None:
        for argument in compiled.args.values():
            for name in argument.expression.names() if argument.expression else ():
                owner = name.partition(".")[0]
                if owner in self.run.steps and self.run.steps[owner].state == "skipped":
                    return owner
        return None

    async def _step(self, compiled: CompiledStep, step: StepProgress) -> None:
        on_error = compiled.step.on_error
        retries = 0
        step.started_at = step.started_at or time.time()
        while True:
            if (asked := self._answered(compiled)) is not None:  # before a restart
                if self._obey(compiled, step, await self._ask_person(compiled, step, asked.kind, asked.text)):
                    return
                step.known = None
            outcome = await self._outcome(compiled, step)
            if outcome.kind == "unknown":
                answer = await self._ask_person(compiled, step, "in_doubt", outcome.reason)
                if self._obey(compiled, step, answer):
                    return
                continue
            if outcome.kind == "finished":
                self._finish(compiled, step, outcome)
                return
            step.reason = outcome.reason
            if retries < on_error.retry and _safe_to_repeat(compiled, outcome):
                retries += 1
                await self.cell.pause(on_error.backoff_s)
                continue
            if on_error.then != "hold":
                self._give_up(compiled, step, outcome)
                return
            if self._obey(compiled, step, await self._held(compiled, step, outcome)):
                return
            retries = 0

    def _answered(self, compiled: CompiledStep) -> WaitingFor | None:
        """What was asked about this step, if a person has answered and nothing has been made of it yet."""
        asked = self.run.waiting
        if asked is None or asked.step != compiled.execution or self.run.resolution is None:
            return None
        return asked

    def _obey(self, compiled: CompiledStep, step: StepProgress, answer: Outcome) -> bool:
        """Make of a step what a person has said of it; False: it is to be done again."""
        if answer.kind == "finished":
            self._finish(compiled, step, answer)
        elif answer.kind == "failed" and compiled.step.on_error.then == "hold":
            self._book_part(compiled, step)
            self._end(compiled, step, "failed", answer.reason)
        elif answer.kind == "failed":
            self._give_up(compiled, step, answer)
        elif step.reached is not None and "volume_ul" in step.reached.result:
            self._book_part(compiled, step)  # what has moved has moved, although it is done again
        return answer.kind in ("finished", "failed")

    async def _outcome(self, compiled: CompiledStep, step: StepProgress) -> Outcome:
        """Settle what is open, or try once (more often if that is harmless)."""
        if step.known is not None:
            outcome, step.known = step.known, None
            return outcome
        if step.open_intent is not None:
            outcome = await self._settle(compiled, step)
            if outcome.kind != "not_executed":
                return outcome
        outcome = await self._try(compiled, step)
        for _ in range(SAFE_REPEATS - 1):
            if outcome.kind != "unknown" or compiled.operation.settles is not Effect.REPEAT:
                return outcome
            step.open_intent = None
            await self.cell.may_go()
            outcome = await self._try(compiled, step)
        if outcome.kind == "unknown" and compiled.operation.settles is Effect.REPEAT:
            step.open_intent = None
            return Outcome("not_executed", reason=outcome.reason)
        return outcome

    async def _try(self, compiled: CompiledStep, step: StepProgress) -> Outcome:
        """One attempt, checked once more against the world as it is now."""
        args, reasons = resolve(compiled, self._lookup)
        if reasons:
            return Outcome("not_executed", reason="; ".join(f"{r.path}: {r.message}" for r in reasons))
        step.args = msgspec.structs.asdict(args)
        problems = self.cell.keeper.problems(compiled.step.device, compiled.operation, step.args)
        if problems:
            return Outcome("not_executed", reason="; ".join(sentence for _, sentence in problems))
        step.attempts += 1
        self._set(compiled, step, "running")
        context = AttemptContext(
            self.cell.journal,
            self.run.plan_id,
            compiled.step.device,
            compiled.operation.name,
            compiled.execution,
            args,
            self.cell.journal.reserve(),
            self.cell.actors[compiled.step.device].identity,
        )
        try:
            outcome = await self._on_device(compiled, context)
        except BaseException:
            step.open_intent = context.intent
            if context.intent is None:
                step.state = "waiting"  # for the device or its turn: nothing has been sent
            raise
        step.open_intent = context.intent if outcome.kind == "unknown" else None
        step.reached = context.reached or Outcome("not_executed")
        if outcome.kind == "unknown" and compiled.operation.settles is not Effect.REPEAT:
            self._set(compiled, step, "in_doubt", outcome.reason)
        return outcome

    async def _on_device(self, compiled: CompiledStep, context: AttemptContext) -> Outcome:
        actor = self.cell.actors[compiled.step.device]
        timeout_s = compiled.step.timeout_s or default_timeout_s(
            compiled.operation, actor.device.options, context.args
        )

        async def once() -> Outcome:
            outcome = await attempt(actor.device, compiled.operation, context, timeout_s)
            actor.quiet = outcome.kind == "unknown" and compiled.operation.settles is not Effect.REPEAT
            return outcome

        try:
            return await actor.perform(once, DEVICE_WAIT_S)
        except NotConnected as error:
            return Outcome("not_executed", reason=str(error))

    async def _settle(self, compiled: CompiledStep, step: StepProgress) -> Outcome:
        """What became of an attempt whose outcome was lost, for instance by a crash."""
        intent = step.open_intent
        assert intent is not None
        if compiled.operation.settles is Effect.REPEAT:
            outcome = Outcome("not_executed", reason="it is safe to do again")
        elif compiled.operation.settles is Effect.ASK:
            outcome = Outcome(
                "unknown", reason=f"nobody but a person can tell what became of {intent.operation}"
            )
        else:
            actor = self.cell.actors[compiled.step.device]
            try:
                question = partial(ask_device, actor.device, intent, "", actor.identity)
                outcome = await actor.perform(question, DEVICE_WAIT_S)
            except NotConnected as error:
                outcome = Outcome("unknown", reason=str(error))
        self.cell.journal.record(self.run.plan_id, OutcomeRecord(intent.job_id, compiled.execution, outcome))
        if outcome.kind != "unknown":
            await self._out_of_doubt(compiled, step)
        return outcome

    async def _out_of_doubt(self, compiled: CompiledStep, step: StepProgress) -> None:
        """Other frames may reach the device again, and first those that make it ready."""
        step.open_intent = None
        actor = self.cell.actors[compiled.step.device]
        actor.quiet = False
        with contextlib.suppress(DriverError):  # the next operation meets the same trouble and tells
            await actor.perform(actor.device.prepare, DEVICE_WAIT_S)

    async def _held(self, compiled: CompiledStep, step: StepProgress, outcome: Outcome) -> Outcome:
        """Hold behind a step that did not finish; the outcome that `unhold` or `resolve` gives it."""
        if _safe_to_repeat(compiled, outcome):
            self._set(compiled, step, "waiting", outcome.reason)
            self.cell.hold_run(f"step {compiled.execution}: {outcome.reason}")
            self.run.waiting = WaitingFor(compiled.execution, "failed", outcome.reason)
            await self.cell.may_go()
            answer, self.run.resolution, self.run.waiting = self.run.resolution, None, None
            return _resolved(answer or "repeat")
        return await self._ask_person(compiled, step, "failed", outcome.reason)

    async def _ask_person(
        self, compiled: CompiledStep, step: StepProgress, kind: Any, reason: str
    ) -> Outcome:
        """Hold until somebody has said what became of the step."""
        state: StepState = "in_doubt" if kind == "in_doubt" else "running"
        self._set(compiled, step, state, reason)
        self.run.waiting = WaitingFor(compiled.execution, kind, reason)
        while self.run.resolution is None:
            self.cell.hold_run(
                f"step {compiled.execution} {'is in doubt' if kind == 'in_doubt' else 'failed'}: {reason}"
            )
            await self.cell.may_go()
            if self.run.resolution is None and step.open_intent is not None:
                outcome = await self._settle(compiled, step)  # the device may be back, and able to tell
                if outcome.kind != "unknown":
                    self.run.waiting, step.reached = None, outcome
                    return outcome
        answer, self.run.resolution, self.run.waiting = self.run.resolution, None, None
        await self._out_of_doubt(compiled, step)
        return _resolved(answer)

    def _finish(self, compiled: CompiledStep, step: StepProgress, outcome: Outcome) -> None:
        """Result, data, liquid and the step's end become durable as one."""
        with self.cell.journal.database.together():
            self._book(compiled, step, outcome.result)
            step.result = outcome.result
            if compiled.step.record and outcome.result:
                documents = self.run.documents.reading(
                    compiled.step.id, compiled.step.device, compiled.execution, outcome.result, time.time()
                )
                self.cell.emit(self.run, documents)
            self._end(compiled, step, "finished", outcome.reason)

    def _give_up(self, compiled: CompiledStep, step: StepProgress, outcome: Outcome) -> None:
        then = compiled.step.on_error.then
        state: StepState = "skipped" if then == "skip" else "failed"
        self._book_part(compiled, step)
        self._end(compiled, step, state, outcome.reason)
        if then in ("stop", "abort"):
            self.cell.end_run(then, f"step {compiled.execution}: {outcome.reason}")

    def _end(self, compiled: CompiledStep, step: StepProgress, state: StepState, reason: str) -> None:
        with self.cell.journal.database.together():
            self._set(compiled, step, state, reason)
            now = time.time()
            phase = Phase(
                execution=compiled.execution,
                device=compiled.step.device,
                operation=compiled.operation.name,
                started_at=step.started_at or now,
                ended_at=now,
                outcome=state,
                attempts=step.attempts,
                reason=reason,
            )
            self.cell.emit(self.run, self.run.documents.phase(phase))

    async def measure_open(self) -> None:
        """After an abort: ask the devices how far the attempts got that it interrupted, for the books."""
        for compiled in self.run.plan.steps:
            step = self.run.steps[compiled.execution]
            intent = step.open_intent
            if intent is None or compiled.operation.settles is not Effect.QUERY:
                continue
            actor = self.cell.actors[compiled.step.device]
            with contextlib.suppress(DriverError):
                step.reached = await actor.perform(
                    partial(ask_device, actor.device, intent, "", actor.identity, 0.0), MEASURE_WAIT_S
                )

    def cancel_open(self) -> None:
        """After an abort or stop: what was under way is in doubt, what had not begun is cancelled.

        What did not finish is booked as far as it got.
        """
        for compiled in self.run.plan.steps:
            step = self.run.steps[compiled.execution]
            if self._failed(compiled):
                self._book_part(compiled, step)
                self._end(compiled, step, "failed", step.reason)
            elif step.state in ("running", "in_doubt"):
                told = step.reached.reason if step.reached else ""
                self._book_part(compiled, step)
                reason = step.reason or told or "the run ended while this step was under way"
                self._end(compiled, step, "in_doubt", reason)
                self.cell.actors[compiled.step.device].quiet = False
            elif step.state == "waiting":
                step.state = "cancelled"

    def _failed(self, compiled: CompiledStep) -> bool:
        """Whether a person was being asked what to do about this step's failure."""
        asked = self.run.waiting
        return asked is not None and asked.step == compiled.execution and asked.kind == "failed"

    def _book_part(self, compiled: CompiledStep, step: StepProgress) -> None:
        """Book an attempt that did not finish: as far as its device says that it got.

        Where nobody can say, as if it had been done: for every well that is the careful assumption. A
        labware that was on its way stands nobody knows where.
        """
        reached = step.reached or Outcome("unknown")
        if reached.kind != "not_executed":
            self._book(compiled, step, reached.result, in_doubt=reached.kind != "finished")
        step.reached = Outcome("not_executed")

    def _book(
        self, compiled: CompiledStep, step: StepProgress, result: dict[str, Any], *, in_doubt: bool = False
    ) -> None:
        if compiled.operation.touches and step.args is not None:
            self.cell.keeper.apply(
                compiled.step.device, compiled.operation, step.args, result, in_doubt=in_doubt
            )
            self.cell.booked()

    def _set(self, compiled: CompiledStep, step: StepProgress, state: StepState, reason: str = "") -> None:
        step.state, step.reason = state, reason
        self.cell.actors[compiled.step.device].quiet = state == "in_doubt"
        if state != "running":
            self.cell.journal.record(
                self.run.plan_id, StepRecord(compiled.execution, state, step.result, reason)
            )
        self.cell.changed()

    def _lookup(self, name: str) -> Any:
        device, _, reading = name.partition(".")
        if device not in self.cell.actors:
            return self.run.lookup(name)
        actor = self.cell.actors[device]
        if actor.reason:  # away, or in trouble: what it said last may be long past
            raise LookupError(f"`{name}` cannot be read now: {actor.reason}")
        if reading not in actor.sample.values:
            raise LookupError(f"`{name}` has not been read yet")
        return actor.sample.values[reading]


def _safe_to_repeat(compiled: CompiledStep, outcome: Outcome) -> bool:
    return outcome.kind == "not_executed" or compiled.operation.settles is Effect.REPEAT


def _resolved(answer: str) -> Outcome:
    match answer:
        case "finished":
            return Outcome("finished", reason="a person said that it was done")
        case "failed":
            return Outcome("failed", reason="a person said that it failed")
    return Outcome("not_executed", reason="a person had it repeated")
