"""Subscriptions of an OPC UA client: from a library's notifications to samples."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from protocols.errors import LinkDown
from protocols.opcua_model import Node, Sample

log = logging.getLogger(__name__)


class Ask(Protocol):
    """Sends one request, with the client's deadline and errors."""

    def __call__(self, what: str, request: Callable[[Any], Awaitable[Any]]) -> Awaitable[Any]: ...


class Subscription:
    """Changes of some nodes, until `close` or the loss of the connection."""

    def __init__(self, ask: Ask, inner: Any) -> None:
        self._ask = ask
        self._inner = inner

    async def close(self) -> None:
        """End it on the server; harmless when the connection is gone."""
        with contextlib.suppress(LinkDown):
            await self._ask("ending a subscription", lambda _client: self._inner.delete())


class Handler:
    """What the library calls with changes; `sample` converts one."""

    def __init__(self, callback: Callable[[Node, Sample], None], sample: Callable[[Any], Sample]) -> None:
        self._callback = callback
        self._sample = sample

    def datachange_notification(self, node: Any, _value: Any, data: Any) -> None:
        changed = Node(node.nodeid.to_string())
        try:
            self._callback(changed, self._sample(data.monitored_item.Value))
        except Exception:  # the library would swallow it without a word
            log.exception("OPC UA: a change of %s could not be handled.", changed.id)

    def status_change_notification(self, status: Any) -> None:
        """The server ends a subscription together with the session; the client's `on_lost` tells."""
