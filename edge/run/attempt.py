"""One attempt of one step on one device: intent, wire, outcome, and what settles it.

Runs inside the device's actor, so that nothing else can talk to the device between a lost reply and the
question that settles it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from drivers.api import Device, Effect, Identity, Intent, Operation, Outcome
from drivers.errors import DriverError, Fault, Lost, Refused
from edge.run.stopping import confirm
from edge.store.journal import IntentRecord, Journal, OutcomeRecord

RETURN_S = 20.0
"""How long a device that went away in the middle of an attempt is waited for."""
ASK_AGAIN_S = 0.5
SETTLE_S = 120.0
"""How long a device that still moves may take until it can say what became of an attempt."""


@dataclass
class AttemptContext:
    """What the driver sees of an attempt; writes the intent."""

    journal: Journal
    plan_id: str
    device: str
    operation: str
    execution: str
    args: Any
    job_id: int
    known: Identity | None = None
    """Who the device said it was before the attempt."""
    intent: Intent | None = None
    reached: Outcome | None = None
    """How far an attempt got that did not finish, as far as the device can tell; None: nothing was sent."""

    async def intend(self, frame: bytes, **memo: Any) -> None:
        """Durable before it returns."""
        self.intent = Intent(
            execution=self.execution,
            operation=self.operation,
            args=msgspec.to_builtins(self.args),
            job_id=self.job_id,
            frame=frame,
            memo=memo,
        )
        self.journal.record(self.plan_id, IntentRecord(self.job_id, self.device, self.intent), self.job_id)
        await self.journal.durable()


async def attempt(device: Device, operation: Operation, context: AttemptContext, timeout_s: float) -> Outcome:
    """Run the operation once, settle it as far as the device can, record the outcome; no DriverError."""
    outcome = await _try(device, operation, context, timeout_s)
    if context.intent is not None and outcome.kind in ("unknown", "failed"):
        context.reached = outcome
        if operation.settles is Effect.QUERY:
            wait_s = RETURN_S if outcome.kind == "unknown" else 0.0
            context.reached = await ask_device(device, context.intent, outcome.reason, context.known, wait_s)
        outcome = context.reached if outcome.kind == "unknown" else outcome
    context.journal.record(context.plan_id, OutcomeRecord(context.job_id, context.execution, outcome))
    return outcome


async def _try(device: Device, operation: Operation, context: AttemptContext, timeout_s: float) -> Outcome:
    try:
        async with asyncio.timeout(timeout_s):
            result = await operation.method(device, context.args, context)
        return Outcome("finished", result=msgspec.to_builtins(result) if result is not None else {})
    except TimeoutError:
        device.halt()
        why = await confirm(device)
        reason = f"{operation.name} took longer than {timeout_s:g} s and was stopped"
        return _unknown(operation, context, f"{reason}; {why}" if why else reason)
    except Refused as error:
        return Outcome("not_executed", reason=str(error))
    except Fault as error:
        return Outcome("failed", reason=str(error))
    except Lost as error:
        if not error.sent and context.intent is None:
            return Outcome("not_executed", reason=str(error))
        # Behind an intent `sent` may speak of a later question to the device: only the device can tell.
        return _unknown(operation, context, str(error))


def _unknown(operation: Operation, context: AttemptContext, reason: str) -> Outcome:
    """Without an intent nothing that acts has been sent; what only asks is asked again."""
    acted = context.intent is not None or operation.settles is Effect.REPEAT
    return Outcome("unknown" if acted else "not_executed", reason=reason)


async def ask_device(
    device: Device, intent: Intent, reason: str, known: Identity | None, return_s: float = RETURN_S
) -> Outcome:
    """Let the device say what became of an attempt; still unknown if it cannot or does not answer.

    A device that is away is waited for, `return_s` at most; what comes back has to be the one that left.
    """
    deadline = time.monotonic() + return_s
    away = False
    while True:
        try:
            async with asyncio.timeout(SETTLE_S):
                if away and (other := await _another(device, known)):
                    return Outcome("unknown", reason=_both(reason, other))
                return await device.settle(intent)
        except TimeoutError:
            return Outcome("unknown", reason=_both(reason, f"{device.name} still moves after {SETTLE_S:g} s"))
        except Lost as error:
            if time.monotonic() >= deadline:
                return Outcome("unknown", reason=_both(reason, str(error)))
        except DriverError as error:
            return Outcome("unknown", reason=_both(reason, str(error)))
        away = True
        await asyncio.sleep(ASK_AGAIN_S)


async def _another(device: Device, known: Identity | None) -> str:
    """Open the device again; a sentence if it is not the one that went away."""
    await device.open()
    found = await device.identify()
    if known is None or found.serial == known.serial:
        return ""
    return f"{device.name} is now {found}, and was {known}"


def _both(first: str, second: str) -> str:
    return f"{first}; {second}" if first and first != second else second


def default_timeout_s(operation: Operation, options: Any, args: Any) -> float:
    """Deadline of a step that names none: generous, because reaching it stops the device."""
    return 30.0 + 5.0 * float(operation.estimate_s(options, args))
