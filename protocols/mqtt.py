"""A persistent MQTT session that survives its connections: MQTT 5, or 3.1.1 where the settings say so.

Deliveries are acknowledged by hand (`Message.ack`), publishes return after the broker's PUBACK, and nothing
is repeated here: what raised may have been delivered all the same, so whoever publishes owns the retries and
the receiver tells repetitions apart. Only host names are resolved in a thread, the event loop's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

from protocols.errors import BadRequest, LinkDown
from protocols.mqtt_model import (
    MAX_PAYLOAD,
    Backoff,
    Message,
    MqttSettings,
    Qos,
    Will,
    parse_url,
    tls_context,
)
from protocols.mqtt_paho import Connection, Handlers, Lost

__all__ = ["MAX_PAYLOAD", "Message", "MqttSession", "MqttSettings", "Qos", "Will", "parse_url"]

log = logging.getLogger(__name__)

OPEN_S = 10.0
"""Deadline for connecting, TLS, CONNACK and SUBACK together."""


class PublishOptions(TypedDict, total=False):
    """`correlation_data` and `expiry_s` travel with MQTT 5 only; `timeout_s` is 10 s unless given."""

    correlation_data: bytes | None
    expiry_s: float | None
    timeout_s: float


class MqttSession:
    """One client id's session with one broker.

    `on_message` is called on the event loop, in the order of arrival and never before `on_up`; it must be
    quick. The message stays with the broker until `Message.ack`, which must come in the end: acknowledgements
    leave in order, so one that never comes stalls the session. A message whose handler raises is logged and
    dropped. `on_up` is called when the session is
    connected and subscribed; `on_down` when that ends or fails, once for each different reason of one outage.
    `on_oversize(topic, bytes)`, an attribute, hears of messages above `settings.max_payload`.
    Raises BadRequest for settings, will or subscriptions that cannot work.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        subscriptions: Sequence[tuple[str, Qos]],
        on_message: Callable[[Message], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        will: Will | None = None,
    ) -> None:
        for topic, qos in subscriptions:
            if qos not in (0, 1):
                raise BadRequest(f"'{topic}' is subscribed with QoS {qos}; only 0 and 1 are spoken here.")
        self.on_oversize: Callable[[str, int], None] = self._log_oversize
        self._settings = settings
        self._context = tls_context(settings)
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._will = will
        self._backoff = Backoff()
        self._connection: Connection | None = None
        self._told: set[str] = set()
        self._running = False

    @property
    def connected(self) -> bool:
        """Connected and subscribed."""
        return self._connection is not None and self._connection.connected

    async def run(self) -> None:
        """Keep the session connected until cancelled; then say goodbye (the will is not sent) and end."""
        if self._running:
            raise BadRequest(f"The MQTT session '{self._settings.client_id}' is running already.")
        self._running = True
        try:
            while True:
                lost, lasted_s = await self._live()
                self._tell_down(lost)
                wait_s = self._backoff.after(lasted_s=lasted_s, taken_over=lost.taken_over)
                await asyncio.sleep(wait_s)
        finally:
            self._running = False

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos,
        retain: bool = False,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Publish; with QoS 1 return after the broker's PUBACK. Many may be under way; they keep their order.

        Raises LinkDown (`sent` tells whether it may have left), LinkTimeout, and BadRequest when the broker
        refuses the message (reason code 0x80 or above; a 3.1.1 broker drops it silently).
        """
        connection = self._connection
        if connection is None or not connection.connected:
            where = self._settings.address
            raise LinkDown(f"There is no connection to the broker {where}; nothing was sent.", sent=False)
        if qos == 0:
            connection.publish_soon(topic, payload, retain)
            return
        await connection.publish(
            topic,
            payload,
            retain,
            options.get("correlation_data"),
            options.get("expiry_s"),
            options.get("timeout_s", 10.0),
        )

    def publish_soon(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish with QoS 0; dropped without a word when there is no connection or it is congested."""
        if self._connection is not None and self._connection.connected:
            self._connection.publish_soon(topic, payload, retain)

    async def _live(self) -> tuple[Lost, float]:
        """One connection from beginning to end: why it ended, and how long it was up in s."""
        loop = asyncio.get_running_loop()
        handlers = Handlers(self._on_message, lambda topic, size: self.on_oversize(topic, size))
        connection = Connection(self._settings, self._context, self._will, handlers)
        try:
            async with asyncio.timeout(OPEN_S):
                await connection.open(self._subscriptions)
            began = loop.time()
            self._connection = connection
            connection.start()
            if connection.connected:
                self._tell_up()
            await asyncio.wait([connection.lost])
            return connection.lost.result(), loop.time() - began
        except LinkDown as error:
            return Lost(str(error)), 0.0
        except TimeoutError:
            return Lost(f"it did not answer within {OPEN_S:g} s"), 0.0
        finally:
            self._connection = None
            await connection.close()

    def _tell_up(self) -> None:
        log.info("MQTT %s: connected to %s.", self._settings.client_id, self._settings.address)
        self._told.clear()
        self._on_up()

    def _tell_down(self, lost: Lost) -> None:
        if lost.reason in self._told:
            return
        first = not self._told
        self._told.add(lost.reason)
        text = f"broker {self._settings.address}: {lost.reason}"
        log.log(
            logging.WARNING if first else logging.INFO,
            "MQTT %s: %s. Trying again until it answers.",
            self._settings.client_id,
            text,
        )
        self._on_down(text)

    def _log_oversize(self, topic: str, size: int) -> None:
        log.warning(
            "MQTT %s: dropped a message of %d bytes on '%s'; at most %d are taken.",
            self._settings.client_id,
            size,
            topic,
            self._settings.max_payload,
        )
