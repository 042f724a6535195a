"""Requests whose answer is waited for, and those whose answer may come although nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic

from protocols.codec import FrameT, Malformed
from protocols.turns import Unit

Accept = Callable[[FrameT], bool]


class Pending(Generic[FrameT]):
    """The request in flight."""

    def __init__(self, accept: Accept[FrameT], length: int, timeout_s: float) -> None:
        self.accept = accept
        self.length = length
        self.timeout_s = timeout_s
        self.deadline = asyncio.get_running_loop().time() + timeout_s
        self.answer: asyncio.Future[FrameT] = asyncio.get_running_loop().create_future()
        self.malformed: Malformed | None = None

    def fail(self, problem: BaseException) -> None:
        """Let the request end with `problem`, unless it has ended."""
        if not self.answer.done():
            self.answer.set_exception(problem)


class Owed(Generic[FrameT]):
    """An answer that nobody waits for any more and that may still come."""

    def __init__(self, accept: Accept[FrameT], unit: Unit, until: float) -> None:
        self.accept = accept
        self.unit = unit
        self.until = until

    def is_paid_by(self, frame: FrameT) -> bool:
        """Whether `frame` is that answer."""
        try:
            return self.accept(frame)
        except Exception:
            # A frame that the request's own check stumbles over was its answer, if anybody's.
            return True
