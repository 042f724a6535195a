"""The daemon: the only place where objects are wired together; one TaskGroup."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import uuid
from collections.abc import Callable

import msgspec

from edge.broker import BrokerError, EmbeddedBroker
from edge.cell import Cell
from edge.errors import LabedgeError
from edge.link.local import serve
from edge.link.messages import CellStatus
from edge.link.session import Session
from edge.link.status import capabilities, cell_status, inventory_status, run_status, run_summary
from edge.plan.cellmodel import CellModel
from edge.plan.geometry import CellGeometry
from edge.plan.inventory import Bookkeeper, Inventory
from edge.plan.labware import well_name
from edge.run.actor import Actor
from edge.run.alarms import Alarms
from edge.run.commands import CommandDesk
from edge.run.controller import Controller
from edge.run.intake import QUEUE_LIMIT, Intake
from edge.run.machine import Event, PackML, State
from edge.run.progress import ActiveRun
from edge.run.watch import Watch
from edge.store.database import Database
from edge.store.journal import Journal
from edge.store.outbox import Outbox
from protocols.links import Links

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long a running step may take to end at shutdown before all motion is stopped."""
GOODBYE_S = 3.0

_encode = msgspec.json.Encoder().encode


class Daemon:
    """One cell."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.session_id = uuid.uuid4().hex
        self.links = Links()
        self.database = Database(cell.state_dir)
        self.model = CellModel(cell)
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises LabedgeError with a sentence when it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._ending.set)
        self.database.open()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            stack.push_async_callback(self.links.close)
            if self.cell.mqtt.embedded:
                broker = EmbeddedBroker(self.cell.mqtt.host, self.cell.mqtt.port)
                stack.push_async_callback(broker.stop)
                try:
                    await broker.start()
                except BrokerError as error:
                    raise LabedgeError(str(error)) from error
            self._wire()
            self._recover()
            await self._serve()

    def _wire(self) -> None:
        self.journal = Journal(self.database)
        self.outbox = Outbox(self.database)
        inventory = self.journal.inventory() or Inventory.initial(self.model)
        self.keeper = Bookkeeper(self.model, inventory.fitted(self.model))
        self.session = Session(self.cell, self.outbox)
        self.alarms = Alarms(self.session.alarm)
        self.controller = Controller(self.cell, self.model, self.journal, self.keeper, self.alarms)
        self.intake = Intake(self.controller, self.model, self.outbox)
        self.watch = Watch(self.controller)
        self.desk = CommandDesk(self.controller, self.session.replay)
        self.controller.listener = self.session
        self.controller.admit = self.intake.admit
        self.controller.blocked = self.watch.interlocks.violated
        self.session.intake, self.session.desk = self.intake, self.desk
        geometry = CellGeometry(self.cell, self._standing)
        for name, config in self.cell.devices.items():
            device = config.device(name, config.options, self.links)
            device.geometry = geometry
            period_s = 1.0 / self.cell.telemetry.rate_hz
            self.controller.actors[name] = Actor(device, period_s, self._device_changed, self._sampled)
        self.session.describe_run = run_status
        self.session.refused = lambda text: self.alarms.raise_("broker", "high", "broker", text)
        topics, keep = self.session.topics, self.session.retained.keep
        keep(topics.cell_status, lambda: _encode(self._status()))
        keep(topics.capabilities, lambda: _encode(capabilities(self.cell, self.model, QUEUE_LIMIT)))
        keep(topics.inventory, lambda: _encode(inventory_status(self.model, self.keeper.inventory)))

    def _recover(self) -> None:
        """Take over where the last session ended."""
        self.controller.remote_locked = bool(self.journal.fact("remote_locked", bool))
        interrupted = None
        for stored in self.journal.unfinished():
            run = self.intake.restore(stored)
            if stored.state == "Queued":
                self.controller.enqueue(run)
            else:
                interrupted = run
        last = self.journal.fact("state", str)
        if last in (State.ABORTING.value, State.ABORTED.value):
            self.controller.machine = PackML(State.ABORTED)
            if interrupted is not None:
                self.controller.bury(interrupted, "Aborted", "the cell was aborted")
        elif interrupted is not None:
            self._take_over(interrupted)
        elif last != State.STOPPED.value:
            self.controller.handle(Event.RESET)

    def _take_over(self, run: ActiveRun) -> None:
        """As `recovery` says; what was held stays held, since somebody may have their hands in there."""
        held = run.stored.state in ("Holding", "Held")
        if (strange := run.misfit()) and self.cell.recovery != "stop":
            raise LabedgeError(
                f"the run {run.plan_id} is unfinished and does not fit the cell file any more: {strange}. "
                "Put back what it needs, or start once with `recovery: stop` to end it"
            )
        self.controller.adopt(run)
        if self.cell.recovery == "stop" and (strange or not held):
            self.controller.handle(Event.STOP, "recovery: stop")
        elif self.cell.recovery == "resume" and not held:
            self.controller.handle(Event.UNHOLD, "recovery: resume")

    async def _serve(self) -> None:
        mqtt = asyncio.create_task(self.session.run(), name="mqtt")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = self._begin(group, mqtt)
                log.info("cell %s is up; state in %s", self.cell.cell, self.cell.state_dir)
                await self._ending.wait()
                log.info("ending: holding, then stopping all motion")
                await self.controller.shut_down(GRACE_S)
                for task in tasks:
                    task.cancel()
        except BaseException:
            # whatever has failed, nothing may go on moving with nobody to watch it
            self.controller.halt_all()
            raise
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self.session.say_goodbye()
            mqtt.cancel()
            await asyncio.wait([mqtt], timeout=GOODBYE_S)
            for actor in self.controller.actors.values():
                await actor.device.close()

    def _begin(self, group: asyncio.TaskGroup, mqtt: asyncio.Task[None]) -> list[asyncio.Task[None]]:
        """Start everything; the broker connection outlives the others, to tell of their end."""
        local = serve(self.cell.state_dir, self.cell.cell, self.desk, self.query)
        return [
            group.create_task(_joined(mqtt), name="mqtt"),
            group.create_task(self.watch.run(), name="interlocks"),
            group.create_task(local, name="local"),
            *(group.create_task(actor.run(), name=actor.name) for actor in self.controller.actors.values()),
            group.create_task(self.controller.drive(), name="cell"),
        ]

    def _standing(self, labware: str) -> tuple[str, str | None] | None:
        standing = self.keeper.inventory.places.get(labware)
        if standing is None:
            return None
        kind = self.cell.labware[labware].type
        return standing.nest, well_name(kind, standing.column, standing.row)

    def _sampled(self, actor: Actor) -> None:
        self.watch.sample(actor)
        self.session.telemetry(actor)

    def _device_changed(self, actor: Actor) -> None:
        self.session.cell_changed()
        if actor.state == "ready" and not actor.reason:
            self.alarms.clear(f"device-{actor.name}")
        elif actor.state in ("ready", "disconnected", "refused"):
            self.alarms.raise_(f"device-{actor.name}", "high", actor.name, f"{actor.name}: {actor.reason}")

    def query(self, name: str) -> bytes:
        """Answer to a question over the local socket."""
        answers: dict[str, Callable[[], object]] = {
            "status": self._overview,
            "capabilities": lambda: capabilities(self.cell, self.model, QUEUE_LIMIT),
            "runs": lambda: {"runs": [run_summary(stored) for stored in self.journal.runs()]},
        }
        if name not in answers:
            raise LabedgeError(f"there is no query `{name}`; there are {', '.join(answers)}")
        return _encode(answers[name]())

    def _status(self) -> CellStatus:
        return cell_status(self.controller, self.session_id)

    def _overview(self) -> dict[str, object]:
        active = self.controller.active
        return {
            "cell": self._status(),
            "run": run_status(active) if active else None,
            "alarms": list(self.alarms.standing.values()),
        }


async def _joined(task: asyncio.Task[None]) -> None:
    """A failure of the task is everybody's; it is not cancelled with the others."""
    await asyncio.shield(task)


async def run_daemon(cell: Cell) -> None:
    """Run one cell until it is told to end."""
    await Daemon(cell).run()


def configure_logging(level: str) -> None:
    """One line an event, on stderr, for the journal of systemd."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("transitions").setLevel(logging.WARNING)
