"""A session that remembers what it hears, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

from protocols.mqtt import Message, MqttSession, MqttSettings, Qos, Will

WAIT_S = 20.0


class Peer:
    """`session` with a list of everything it received; acknowledges at once unless `hold` is set."""

    def __init__(
        self,
        settings: MqttSettings,
        subscriptions: Sequence[tuple[str, Qos]] = (),
        *,
        will: Will | None = None,
        hold: bool = False,
    ) -> None:
        self.hold = hold
        self.received: list[Message] = []
        self.downs: list[str] = []
        self.ups = 0
        self.oversize: list[tuple[str, int]] = []
        self._changed = asyncio.Event()
        self.session = MqttSession(
            settings,
            subscriptions=subscriptions,
            on_message=self._on_message,
            on_up=self._on_up,
            on_down=self._on_down,
            will=will,
        )
        self.session.on_oversize = self._on_oversize

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as `condition` holds after one of the session's calls."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def hears(self, count: int) -> list[bytes]:
        await self.until(lambda: len(self.received) >= count)
        return [message.payload for message in self.received]

    def _on_message(self, message: Message) -> None:
        self.received.append(message)
        if not self.hold:
            message.ack()
        self._changed.set()

    def _on_up(self) -> None:
        self.ups += 1
        self._changed.set()

    def _on_down(self, reason: str) -> None:
        self.downs.append(reason)
        self._changed.set()

    def _on_oversize(self, topic: str, size: int) -> None:
        self.oversize.append((topic, size))
        self._changed.set()


@contextlib.asynccontextmanager
async def running(peer: Peer, *, up: bool = True) -> AsyncIterator[Peer]:
    """Run the peer's session; unless `up` is False wait until it is connected."""
    task = asyncio.create_task(peer.session.run())
    try:
        if up:
            await peer.until(lambda: peer.ups > 0)
        yield peer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def settings(port: int, client_id: str, protocol: Literal["5", "3.1.1"] = "5", **more: Any) -> MqttSettings:
    return MqttSettings(client_id=client_id, host="127.0.0.1", port=port, protocol=protocol, **more)
