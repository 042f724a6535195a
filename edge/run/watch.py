"""Watches live readings: evaluates the interlocks on every reading and when one becomes due."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from edge.run.actor import Actor
from edge.run.controller import Controller
from edge.run.interlocks import Interlocks
from edge.run.machine import Event, NotInThisState


class Watch:
    """Turns violated interlocks into alarms and commands."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.interlocks = Interlocks(controller.cell.interlocks)
        self._news = asyncio.Event()

    def sample(self, actor: Actor) -> None:
        """A device has new readings."""
        self.evaluate()
        self._news.set()

    async def run(self) -> None:
        """Evaluate again when a condition has held for long enough."""
        while True:
            due = self.interlocks.due()
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._news.wait()
            self.evaluate()

    def evaluate(self) -> None:
        """Raise, clear and command, as the readings are now."""
        violated, normal = self.interlocks.evaluate(time.monotonic(), self._reading)
        for config in violated:
            text = f"interlock {config.name}: {config.when}"
            self.controller.alarms.raise_(f"interlock-{config.name}", config.severity, config.name, text)
            with contextlib.suppress(NotInThisState):
                self.controller.handle(Event(config.command), text, f"interlock {config.name}")
        for config in normal:
            self.controller.alarms.clear(f"interlock-{config.name}")
            self.controller.queue_changed()

    def _reading(self, name: str) -> Any:
        device, _, field = name.partition(".")
        values = self.controller.actors[device].sample.values
        if field not in values:
            raise LookupError(f"`{name}` has not been read yet")
        return values[field]
