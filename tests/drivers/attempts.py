"""Attempts as a driver sees them, whose intents a test can look at."""

from __future__ import annotations

from typing import Any

import msgspec

from drivers.api import Intent


class Try:
    """An attempt that keeps what it was told to make durable."""

    def __init__(self, job_id: int = 0x00010002) -> None:
        self.execution = "step"
        self.job_id = job_id
        self.intents: list[tuple[bytes, dict[str, Any]]] = []

    async def intend(self, frame: bytes, **memo: Any) -> None:
        self.intents.append((frame, memo))


def intent_of(attempt: Try, operation: str, args: msgspec.Struct) -> Intent:
    """The intent as the journal would give it back after a crash."""
    ((frame, memo),) = attempt.intents
    return Intent(attempt.execution, operation, msgspec.to_builtins(args), attempt.job_id, frame, memo)
