"""What the cell keeps retained on the broker: the newest value of each topic, sent as the link allows.

Nothing here is durable: a value is made when it is sent. What has to arrive although the daemon may end
before (a run's final status) goes through the outbox instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from protocols.errors import WireError

log = logging.getLogger(__name__)

PERIOD_S = 0.5
"""Progress is told at most twice a second; changes of state at once."""
RESEND_S = 1.0

Publish = Callable[[str, bytes], Awaitable[None]]


class Retained:
    """Topics with the functions that make their payloads."""

    def __init__(self, publish: Publish, up: asyncio.Event) -> None:
        self._publish = publish
        self._up = up
        self._make: dict[str, Callable[[], bytes]] = {}
        self._dirty: dict[str, None] = {}
        self._told_at: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._news = asyncio.Event()

    def keep(self, topic: str, make: Callable[[], bytes]) -> None:
        """From now on `make` gives what is retained there."""
        self._make[topic] = make

    def forget(self, topic: str) -> None:
        """Whatever is retained there is no longer this object's business."""
        self._make.pop(topic, None)
        self._dirty.pop(topic, None)
        self._told_at.pop(topic, None)
        if (timer := self._timers.pop(topic, None)) is not None:
            timer.cancel()

    def __contains__(self, topic: str) -> bool:
        return topic in self._make

    def tell(self, topic: str) -> None:
        """It is another one now: send it as soon as the link allows."""
        if (timer := self._timers.pop(topic, None)) is not None:
            timer.cancel()
        self._told_at[topic] = asyncio.get_running_loop().time()
        self._dirty[topic] = None
        self._news.set()

    def tell_progress(self, topic: str) -> None:
        """It is another one now: send it when the last time is long enough ago."""
        if topic in self._timers or topic in self._dirty:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._told_at.get(topic, 0.0) + PERIOD_S - loop.time()
        if wait_s <= 0:
            self.tell(topic)
        else:
            self._timers[topic] = loop.call_later(wait_s, self.tell, topic)

    def tell_all(self) -> None:
        """The broker may know nothing of us: send everything."""
        self._dirty.update(dict.fromkeys(self._make))
        self._news.set()

    async def send_forever(self) -> None:
        """Send what is due, one after the other, whenever the link is up."""
        while True:
            await self._news.wait()
            await self._up.wait()
            self._news.clear()
            while self._dirty:
                topic = next(iter(self._dirty))
                del self._dirty[topic]
                if topic not in self._make:
                    continue
                try:
                    await self._publish(topic, self._make[topic]())
                except WireError as error:
                    log.debug("%s was not sent: %s", topic, error)
                    self._dirty[topic] = None
                    await asyncio.sleep(RESEND_S)
                    await self._up.wait()
