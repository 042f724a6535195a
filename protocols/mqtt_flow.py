"""The flows of one MQTT connection: our publishes under way, the broker's messages that await our PUBACK.

No library and no socket here.
Source: MQTT 5.0 (OASIS, 7 March 2019), 3.2.2.3 (what a broker allows), 4.6 (order), 4.9 (flow control).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import BadRequest, LinkDown

IN_FLIGHT = 20
"""Our QoS 1 publishes without a PUBACK at any time; fewer if the broker's Receive Maximum is lower."""


@dataclass(frozen=True)
class BrokerLimits:
    """What the broker's CONNACK allows (MQTT 5, 3.2.2.3); 3.1.1 says nothing."""

    in_flight: int = IN_FLIGHT
    packet: int | None = None
    retain: bool = True
    qos1: bool = True

    @classmethod
    def of(cls, connack: object) -> BrokerLimits:
        """From CONNACK properties as attributes by their names in the standard, absent where not sent."""
        return cls(
            in_flight=min(IN_FLIGHT, getattr(connack, "ReceiveMaximum", IN_FLIGHT)),
            packet=getattr(connack, "MaximumPacketSize", None),
            retain=bool(getattr(connack, "RetainAvailable", 1)),
            qos1=getattr(connack, "MaximumQoS", 1) >= 1,
        )

    def check(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Raise BadRequest for a publish that the standard or this broker does not allow.

        Worth its time: the broker answers most of these by ending the connection.
        """
        name = topic.encode()
        if not 1 <= len(name) <= 65535 or any(sign in topic for sign in "+#\0"):
            raise BadRequest(f"'{topic}' is not a topic that can be published to.")
        # 64: fixed header, packet id and properties, of which none of ours is long
        if self.packet is not None and len(name) + len(payload) + 64 > self.packet:
            raise BadRequest(
                f"The message on '{topic}' has {len(payload)} bytes; the broker takes packets of at most "
                f"{self.packet} bytes."
            )
        if retain and not self.retain:
            raise BadRequest(f"The broker keeps no retained messages; '{topic}' cannot be published.")
        if qos and not self.qos1:
            raise BadRequest("The broker takes QoS 0 only; no delivery can be promised through it.")


@dataclass
class Publish:
    """A QoS 1 publish of ours; `properties` is the packet code's own."""

    topic: str
    payload: bytes
    retain: bool
    properties: Any
    done: asyncio.Future[None]
    sent: bool = False


@dataclass
class Outgoing:
    """Our QoS 1 publishes: at most `window` in flight, the others wait and leave in order.

    One given up by its caller keeps its place in the window until its PUBACK: the broker still counts it.
    `transmit` hands a publish to the wire and returns its packet id; it may raise LinkDown.
    """

    transmit: Callable[[Publish], int]
    window: int = IN_FLIGHT
    _waiting: deque[Publish] = field(default_factory=deque)
    _flying: dict[int, Publish] = field(default_factory=dict)

    def add(self, publish: Publish) -> None:
        self._waiting.append(publish)
        self.send()

    def send(self) -> None:
        """Send what waits, as far as the window allows."""
        while self._waiting and len(self._flying) < self.window:
            publish = self._waiting.popleft()
            if publish.done.done():  # given up while it waited
                continue
            try:
                mid = self.transmit(publish)
            except LinkDown as error:
                publish.done.set_exception(error)
                continue
            publish.sent = True
            self._flying[mid] = publish

    def answered(self, mid: int, refusal: str | None) -> None:
        """The PUBACK for `mid` came, with the name of its reason if that is 0x80 or above."""
        publish = self._flying.pop(mid, None)
        if publish is None or publish.done.done():
            return
        if refusal is None:
            publish.done.set_result(None)
        else:
            text = f"The broker refuses the message on '{publish.topic}': {refusal}."
            publish.done.set_exception(BadRequest(text, sent=True))

    def fail(self, reason: str) -> None:
        """The connection is gone."""
        for publish in (*self._flying.values(), *self._waiting):
            if not publish.done.done():
                publish.done.set_exception(LinkDown(f"The broker was lost: {reason}.", sent=publish.sent))
        self._flying.clear()
        self._waiting.clear()


@dataclass
class _Received:
    mid: int
    acknowledged: bool = False


@dataclass
class Incoming:
    """QoS 1 messages that await our PUBACK, in the order of arrival; `puback` sends one."""

    puback: Callable[[int], object]
    _unacknowledged: deque[_Received] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._unacknowledged)

    def add(self, mid: int) -> Callable[[], None]:
        """Register packet id `mid`; what comes back acknowledges it, whenever and however often called."""
        received = _Received(mid)
        self._unacknowledged.append(received)
        return lambda: self._acknowledge(received)

    def fail(self) -> None:
        """The connection is gone: packet ids mean nothing any more, the broker delivers again."""
        self._unacknowledged.clear()

    def _acknowledge(self, received: _Received) -> None:
        received.acknowledged = True
        while self._unacknowledged and self._unacknowledged[0].acknowledged:
            self.puback(self._unacknowledged.popleft().mid)
