"""Things to do later that can all be called off together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timers:
    """Pending calls of one owner."""

    def __init__(self) -> None:
        self._pending: set[asyncio.TimerHandle] = set()

    def after(self, wait_s: float, action: Callable[[], object]) -> None:
        """Call `action` on the running loop in `wait_s` seconds."""

        def run() -> None:
            self._pending.discard(handle)
            action()

        handle = asyncio.get_running_loop().call_later(wait_s, run)
        self._pending.add(handle)

    def cancel(self) -> None:
        """Nothing that is pending will happen."""
        for handle in self._pending:
            handle.cancel()
        self._pending.clear()
