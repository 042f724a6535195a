"""The cell on MQTT: plans and commands in, status, documents, telemetry and alarms out.

Two connections: one for plans and data, one for commands, so that no backlog of plans delays an abort.
Whatever changes anything is acknowledged to the broker only once it is durable here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from edge.cell import Cell
from edge.link.messages import Alarm, Document, Offline, Reason, Reply, RunStatus, Verdict
from edge.link.senml import pack
from edge.link.topics import Topics
from edge.plan.model import ID, MAX_BYTES
from edge.run.actor import Actor
from edge.run.commands import CommandDesk, Refusal, read_command, unreadable_id
from edge.run.controller import Listener
from edge.run.intake import Intake
from edge.run.progress import ActiveRun
from edge.store.database import StoreError
from edge.store.outbox import Message as OutboxMessage
from edge.store.outbox import Outbox
from protocols.errors import BadRequest, WireError
from protocols.mqtt import Message, MqttSession, MqttSettings, Will

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 0.5
"""A run's progress is told at most twice a second; its changes of state at once."""
COMMAND_BYTES = 64 * 1024
RESEND_S = 1.0

_encode = msgspec.json.Encoder().encode


class _Named(msgspec.Struct):
    plan_id: str


class Session(Listener):
    """Both connections of one cell."""

    def __init__(self, cell: Cell, outbox: Outbox) -> None:
        self.cell = cell
        self.outbox = outbox
        self.topics = Topics(cell.cell)
        self.retained: dict[str, Callable[[], bytes]] = {}
        """Topic -> what is retained there; made when it is sent, so that the newest wins."""
        self._dirty: dict[str, None] = {}
        self._news = asyncio.Event()
        self._plans: asyncio.Queue[Message] = asyncio.Queue()
        self._told_at: dict[str, float] = {}
        self._up = asyncio.Event()
        self._acks: set[asyncio.Task[None]] = set()
        self.describe_run: Callable[[ActiveRun], RunStatus]
        self.intake: Intake
        self.desk: CommandDesk
        will = Will(self.topics.cell_status, _encode(Offline()), qos=1, retain=True)
        self._data = MqttSession(
            self._settings(f"labedge-{cell.cell}", MAX_BYTES),
            subscriptions=[(self.topics.submit, 1), (self.topics.check, 1)],
            on_message=self._plans.put_nowait,
            on_up=self._on_up,
            on_down=self._on_down,
            will=will,
        )
        self._commands = MqttSession(
            self._settings(f"labedge-{cell.cell}-cmd", COMMAND_BYTES),
            subscriptions=[(self.topics.command, 1)],
            on_message=self._on_command,
            on_up=lambda: None,
            on_down=lambda reason: None,
        )
        self._data.on_oversize = self._oversize

    def _settings(self, client_id: str, max_payload: int) -> MqttSettings:
        mqtt = self.cell.mqtt
        return MqttSettings(
            client_id=client_id,
            host=mqtt.host,
            port=mqtt.port,
            tls=mqtt.tls,
            ca_file=mqtt.ca_file,
            cert_file=mqtt.cert_file,
            key_file=mqtt.key_file,
            username=mqtt.username,
            password=mqtt.password,
            protocol=mqtt.protocol,
            max_payload=max_payload,
        )

    async def run(self) -> None:
        """Keep both connections and carry everything in and out, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._data.run())
            group.create_task(self._commands.run())
            group.create_task(self._take_plans())
            group.create_task(self._send_outbox())
            group.create_task(self._send_retained())

    async def say_goodbye(self) -> None:
        """Tell `online: false` before the connection is closed."""
        with contextlib.suppress(WireError):
            await self._data.publish(
                self.topics.cell_status, _encode(Offline()), qos=1, retain=True, timeout_s=2.0
            )

    # ---- in -------------------------------------------------------------------------------------

    async def _take_plans(self) -> None:
        while True:
            message = await self._plans.get()
            if message.topic == self.topics.check:
                verdict = self._not_checked(message.payload)
            else:
                try:
                    verdict = await self.intake.submit(message.payload)
                except StoreError as error:
                    log.error("a plan could not be stored: %s", error)
                    continue
            self._answer(verdict.plan_id, _encode(verdict), message)
            await self._durably(message.ack)

    def _not_checked(self, payload: bytes) -> Verdict:
        reason = Reason("", "plan/check is not built yet in this version; use `labedge plan check`")
        try:
            plan_id = msgspec.json.decode(payload, type=_Named).plan_id
        except (msgspec.DecodeError, RecursionError):
            plan_id = ""
        return Verdict(plan_id if ID.match(plan_id) else unreadable_id(payload), "rejected", [reason])

    def _oversize(self, topic: str, size: int) -> None:
        log.warning("a message of %d bytes on %s was refused; the limit is %d", size, topic, MAX_BYTES)

    def _on_command(self, message: Message) -> None:
        try:
            command = read_command(message.payload)
        except Refusal as error:
            reply_id = unreadable_id(message.payload)
            self._answer(reply_id, _encode(Reply(reply_id, "refused", [Reason("", str(error))])), message)
            message.ack()
            return
        self.desk.take(
            command,
            lambda reply: self._answer(reply.id, _encode(reply), message),
            local=False,
            retained=message.retain,
        )
        task = asyncio.ensure_future(self._durably(message.ack))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)

    async def _durably(self, then: Callable[[], None]) -> None:
        with contextlib.suppress(StoreError):
            await self.outbox.database.durable()
            then()

    def _answer(self, reply_id: str, payload: bytes, message: Message) -> None:
        self.outbox.post(self.topics.reply(reply_id), payload)
        if message.response_topic:
            self.outbox.post(message.response_topic, payload, message.correlation_data)

    # ---- out ------------------------------------------------------------------------------------

    def _on_up(self) -> None:
        for topic in self.retained:
            self._dirty[topic] = None
        self._news.set()
        self._up.set()

    def _on_down(self, reason: str) -> None:
        self._up.clear()

    async def _send_outbox(self) -> None:
        while True:
            await self._up.wait()
            try:
                await self.outbox.send_forever(self._publish)
            except (BadRequest, StoreError) as error:
                log.error("nothing can be sent: %s", error)
                await asyncio.sleep(RESEND_S)
            except WireError:
                await asyncio.sleep(RESEND_S if self._up.is_set() else 0)

    async def _publish(self, message: OutboxMessage) -> None:
        try:
            await self._data.publish(
                message.topic, message.payload, qos=1, correlation_data=message.correlation
            )
        except BadRequest as error:
            if message.topic.startswith(f"{self.topics.base}/"):
                raise
            # whoever asked chose this topic: it must not keep everything behind it from leaving
            log.warning("a reply is dropped: %s", error)

    def tell(self, topic: str) -> None:
        """Something retained is another one; sent as soon as the link allows."""
        self._dirty[topic] = None
        self._news.set()

    async def _send_retained(self) -> None:
        while True:
            await self._news.wait()
            await self._up.wait()
            self._news.clear()
            while self._dirty:
                topic = next(iter(self._dirty))
                del self._dirty[topic]
                make = self.retained.get(topic)
                try:
                    await self._data.publish(topic, make() if make else b"", qos=1, retain=True)
                except WireError as error:
                    self._dirty[topic] = None
                    log.debug("%s was not sent: %s", topic, error)
                    await asyncio.sleep(RESEND_S)
                    if not self._up.is_set():
                        break

    def cell_changed(self) -> None:
        self.tell(self.topics.cell_status)

    def inventory_changed(self) -> None:
        self.tell(self.topics.inventory)

    def run_changed(self, run: ActiveRun, urgent: bool) -> None:
        topic = self.topics.run_status(run.plan_id)
        if topic not in self.retained:
            self.retained[topic] = lambda: _encode(self.describe_run(run))
            self._forget_old()
        now = time.monotonic()
        wait_s = self._told_at.get(topic, 0.0) + STATUS_PERIOD_S - now
        if urgent or wait_s <= 0:
            self._told_at[topic] = now
            self.tell(topic)
        elif topic not in self._dirty:
            self._told_at[topic] = now + wait_s
            asyncio.get_running_loop().call_later(wait_s, self.tell, topic)

    def _forget_old(self) -> None:
        """Clear the retained status of runs that are long past."""
        for plan_id in self.intake.journal.long_past():
            topic = self.topics.run_status(plan_id)
            self.retained.pop(topic, None)
            self._told_at.pop(topic, None)
            self.tell(topic)

    def documents(self, run: ActiveRun, documents: list[Document]) -> None:
        topic = self.topics.documents(run.plan_id)
        for document in documents:
            payload = _encode(document)
            self.outbox.keep_document(run.plan_id, document.seq, payload)
            self.outbox.post(topic, payload)

    async def replay(self, plan_id: str, from_seq: int) -> None:
        """Send a run's kept documents again."""
        await self.outbox.database.durable()
        while page := self.outbox.documents(plan_id, from_seq):
            for _, payload in page:
                self.outbox.post(self.topics.documents(plan_id), payload)
            from_seq = page[-1][0] + 1
            await asyncio.sleep(0)

    def telemetry(self, actor: Actor) -> None:
        """A device's readings, live and unsaved."""
        records = pack(self.cell.cell, actor.name, actor.sample.values, actor.sample.wall)
        if records:
            self._data.publish_soon(self.topics.telemetry(actor.name), _encode(records))

    def alarm(self, alarm: Alarm) -> None:
        """An alarm's change of state."""
        self.outbox.post(self.topics.alarm, _encode(alarm))
        self.cell_changed()
