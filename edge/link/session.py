"""The cell on MQTT: plans and commands in, status, documents, telemetry and alarms out.

Two connections: one for plans and data, one for commands, so that no backlog of plans delays an abort.
Whatever changes anything is acknowledged to the broker only once it is durable here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from edge.cell import Cell
from edge.link.messages import Alarm, Document, Offline, Reason, Reply, RunStatus, Verdict
from edge.link.retained import Retained
from edge.link.senml import pack
from edge.link.topics import Topics
from edge.plan.model import MAX_BYTES
from edge.run.actor import Actor
from edge.run.commands import CommandDesk, Refusal, answer_id, read_command
from edge.run.intake import Intake
from edge.run.listener import Listener
from edge.run.progress import ActiveRun
from edge.store.database import StoreError
from edge.store.journal import FINAL
from edge.store.outbox import Message as OutboxMessage
from edge.store.outbox import Outbox
from protocols.errors import BadRequest, WireError
from protocols.mqtt import Message, MqttSession, MqttSettings, Will

log = logging.getLogger(__name__)

WAITING_PLANS = 64
"""Plans without QoS that may wait; more are dropped, as QoS 0 allows."""
COMMAND_BYTES = 64 * 1024
RESEND_S = 1.0

_encode = msgspec.json.Encoder().encode


class Session(Listener):
    """Both connections of one cell."""

    def __init__(self, cell: Cell, outbox: Outbox) -> None:
        self.cell = cell
        self.outbox = outbox
        self.topics = Topics(cell.cell)
        self._plans: asyncio.Queue[Message] = asyncio.Queue()
        self._up = asyncio.Event()
        self.retained = Retained(self._publish_retained, self._up)
        self._ended = False
        self._acks: set[asyncio.Task[None]] = set()
        self.refused: Callable[[str], None]
        """Hears of messages that the broker will never take."""
        self.describe_run: Callable[[ActiveRun], RunStatus]
        self.intake: Intake
        self.desk: CommandDesk
        will = Will(self.topics.cell_status, _encode(Offline()), qos=1, retain=True)
        self._data = MqttSession(
            self._settings(f"labedge-{cell.cell}", MAX_BYTES),
            subscriptions=[(self.topics.submit, 1), (self.topics.check, 1)],
            on_message=self._on_plan,
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
            ca_file=mqtt.ca_file if mqtt.tls else None,
            cert_file=mqtt.cert_file if mqtt.tls else None,
            key_file=mqtt.key_file if mqtt.tls else None,
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
            group.create_task(self.retained.send_forever())

    async def say_goodbye(self) -> None:
        """Tell `online: false` before the connection is closed; nothing retained is told after it."""
        self._ended = True
        with contextlib.suppress(WireError):
            await self._data.publish(
                self.topics.cell_status, _encode(Offline()), qos=1, retain=True, timeout_s=2.0
            )

    # ---- in -------------------------------------------------------------------------------------

    def _on_plan(self, message: Message) -> None:
        """QoS 1 is bounded by what the broker may send unacknowledged; the rest is bounded here."""
        if message.qos > 0 or self._plans.qsize() < WAITING_PLANS:
            self._plans.put_nowait(message)

    async def _take_plans(self) -> None:
        while True:
            message = await self._plans.get()
            if message.topic == self.topics.check:
                verdict = self._not_checked(message.payload)
            else:
                try:
                    verdict = await self.intake.submit(message.payload)
                except StoreError as error:
                    log.error("a plan could not be stored, and is tried again: %s", error)
                    await asyncio.sleep(RESEND_S)
                    self._plans.put_nowait(message)
                    continue
                except Exception as error:
                    log.exception("labedge itself failed on a plan")
                    reason = Reason("", f"labedge itself failed on this plan: {error}")
                    verdict = Verdict(answer_id(message.payload), "rejected", [reason])
            log.info("plan %s: %s", verdict.plan_id, verdict.verdict)
            self._answer(verdict.plan_id, _encode(verdict), message)
            await self._durably(message.ack)

    def _not_checked(self, payload: bytes) -> Verdict:
        reason = Reason("", "plan/check is not built yet in this version; use `labedge plan check`")
        return Verdict(answer_id(payload), "rejected", [reason])

    def _oversize(self, topic: str, size: int) -> None:
        log.warning("a message of %d bytes on %s was refused; the limit is %d", size, topic, MAX_BYTES)

    def _on_command(self, message: Message) -> None:
        if not message.payload:  # how a retained message is cleared; it asks for nothing
            message.ack()
            return
        try:
            command = read_command(message.payload)
        except Refusal as error:
            reply_id = answer_id(message.payload)
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
        self.retained.tell_all()
        self._up.set()

    def _on_down(self, reason: str) -> None:
        self._up.clear()

    async def _publish_retained(self, topic: str, payload: bytes) -> None:
        if not self._ended:
            await self._data.publish(topic, payload, qos=1, retain=True)

    async def _send_outbox(self) -> None:
        while True:
            await self._up.wait()
            try:
                await self.outbox.send_forever(self._publish)
            except StoreError as error:
                log.error("nothing can be sent: %s", error)
                await asyncio.sleep(RESEND_S)
            except WireError:
                await asyncio.sleep(RESEND_S if self._up.is_set() else 0)

    async def _publish(self, message: OutboxMessage) -> None:
        try:
            await self._data.publish(
                message.topic,
                message.payload,
                qos=1,
                retain=message.retain,
                correlation_data=message.correlation,
            )
        except BadRequest as error:
            # one message that the broker will never take must not keep everything behind it from leaving
            log.error("a message on %s is dropped: %s", message.topic, error)
            if message.topic.startswith(f"{self.topics.base}/"):
                self.refused(f"the broker refuses messages on {message.topic}: {error}")

    def cell_changed(self) -> None:
        self.retained.tell(self.topics.cell_status)

    def inventory_changed(self) -> None:
        self.retained.tell(self.topics.inventory)

    def run_changed(self, run: ActiveRun, urgent: bool) -> None:
        topic = self.topics.run_status(run.plan_id)
        if run.state in FINAL:
            # durable, because after a restart nobody would tell it again
            self.retained.forget(topic)
            self.outbox.post(topic, _encode(self.describe_run(run)), retain=True)
            return
        if topic not in self.retained:
            self.retained.keep(topic, lambda: _encode(self.describe_run(run)))
            self._forget_old()
        if urgent:
            self.retained.tell(topic)
        else:
            self.retained.tell_progress(topic)

    def _forget_old(self) -> None:
        """Clear the retained status of runs that are long past."""
        for plan_id in self.intake.journal.long_past():
            self.outbox.post(self.topics.run_status(plan_id), b"", retain=True)

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
