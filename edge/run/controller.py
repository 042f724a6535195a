"""The cell at work: the state machine, the queue, the active run, and what each state does.

Commands only change the machine's state (and, for abort, send the stops first). One task, `drive`, does
the work of whatever state the machine is in and gives it up when the state changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from edge.cell import Cell
from edge.link.messages import Document, RunState
from edge.plan.cellmodel import CellModel
from edge.plan.inventory import Bookkeeper
from edge.run.actor import Actor
from edge.run.alarms import Alarms
from edge.run.devices import confirm_all, prepare_all
from edge.run.listener import Listener
from edge.run.machine import Event, NotInThisState, PackML, State
from edge.run.progress import ACTIVE_STATES, ActiveRun
from edge.run.runner import Runner, StopRun
from edge.run.stopping import stop_everything
from edge.store.database import StoreError
from edge.store.journal import Journal, ResolutionRecord

log = logging.getLogger(__name__)


class Controller:
    """State, queue and run of one cell."""

    def __init__(
        self, cell: Cell, model: CellModel, journal: Journal, keeper: Bookkeeper, alarms: Alarms
    ) -> None:
        self.cell = cell
        self.model = model
        self.journal = journal
        self.keeper = keeper
        self.alarms = alarms
        self.actors: dict[str, Actor] = {}
        self.machine = PackML()
        self.queue: list[ActiveRun] = []
        self.active: ActiveRun | None = None
        self.listener = Listener()
        self.reason = ""
        self.remote_locked = False
        """Since the last abort nobody at the bench has cleared and reset."""
        self.accepting = True
        self.blocked: Callable[[], list[str]] = list
        """Names of violated interlocks: nothing starts or goes on while there are any."""
        self.admit: Callable[[ActiveRun], Awaitable[str]] = _admit_all
        """Check a run again when its turn comes: an empty text, or why it cannot start."""
        self._restarted = False
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None
        self._parked = asyncio.Event()
        self._changed = asyncio.Event()
        self._queue_news = asyncio.Event()
        self._watchers: list[tuple[Callable[[State], bool], asyncio.Future[State]]] = []
        self._start_wanted: asyncio.Future[str] | None = None
        self._work: dict[State, Callable[[], Awaitable[Event | None]]] = {
            State.RESETTING: self._resetting,
            State.IDLE: self._idle,
            State.STARTING: self._starting,
            State.EXECUTE: self._execute,
            State.COMPLETING: self._completing,
            State.COMPLETE: self._complete,
            State.HOLDING: self._holding,
            State.UNHOLDING: self._unholding,
            State.STOPPING: self._stopping,
            State.ABORTING: self._aborting,
            State.CLEARING: self._clearing,
        }

    @property
    def state(self) -> State:
        return self.machine.state

    def handle(self, event: Event, reason: str = "", by: str = "") -> State:
        """Take an event; raises NotInThisState. A state that outlives a restart is written down."""
        if event is Event.ABORT:
            self.halt_all()
        state = self.machine.handle(event)
        if event is not Event.DONE:
            self.reason = reason
            log.info("%s: %s%s", event.value, state.value, f" ({reason})" if reason else "")
        self._note(state, by)
        self._changed.set()
        return state

    def halt_all(self) -> None:
        """Send every stop and end what was under way; the state machine comes afterwards."""
        failed = stop_everything(actor.device for actor in self.actors.values())
        for actor in self.actors.values():
            actor.interrupt()
        self._tell_unstopped(failed)

    def stop_devices(self) -> None:
        """Send every stop once more, and leave alone what asks whether the first one worked."""
        self._tell_unstopped(stop_everything(actor.device for actor in self.actors.values()))

    def _tell_unstopped(self, names: list[str]) -> None:
        for name in names:
            self.alarms.raise_(
                f"stop-{name}", "critical", name, f"the stop could not be sent to {name}; stop it by hand"
            )

    def until(self, wanted: Callable[[State], bool]) -> asyncio.Future[State]:
        """The first wanted state from now on, however shortly it lasts."""
        future: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        if wanted(self.state):
            future.set_result(self.state)
        else:
            self._watchers.append((wanted, future))
        return future

    def enqueue(self, run: ActiveRun) -> None:
        """Queue a run by priority, then arrival."""
        self.queue.append(run)
        self.queue.sort(key=lambda queued: (-queued.stored.priority, queued.stored.arrival))
        self._queue_news.set()
        self.listener.run_changed(run, urgent=True)
        self.listener.cell_changed()

    def withdraw(self, run: ActiveRun, reason: str) -> None:
        """Take a queued run out; it ends as Stopped without having begun."""
        self.queue.remove(run)
        self._finalise(run, "Stopped", reason)
        self.listener.cell_changed()

    def queue_changed(self) -> None:
        """Look again whether the head of the queue may start."""
        self._queue_news.set()

    def want_start(self) -> asyncio.Future[str]:
        """`start`: begin the head of the queue as soon as the cell is Idle; why it does not start, or ""."""
        if self._start_wanted is None:
            self._start_wanted = asyncio.get_running_loop().create_future()
        self._queue_news.set()
        return self._start_wanted

    async def drive(self) -> None:
        """Do the work of each state, for ever."""
        while True:
            self._changed.clear()
            state = self.state
            work = self._work.get(state)
            task = asyncio.ensure_future(work() if work is not None else _for_ever())
            change = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait([task, change], return_when=asyncio.FIRST_COMPLETED)
                # what the work of one state has come to means nothing in the next
                if not self._changed.is_set() and (event := task.result()) is not None:
                    self.handle(event)
            finally:
                task.cancel()
                change.cancel()
                await asyncio.wait([task, change])

    async def shut_down(self, grace_s: float) -> None:
        """Hold, give running steps `grace_s` to end, then stop all motion."""
        self.accepting = False
        with contextlib.suppress(NotInThisState):
            self.handle(Event.HOLD, "the daemon is being shut down")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.until(lambda state: state not in (State.HOLDING, State.STOPPING, State.ABORTING))
        self.halt_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)
        await confirm_all(self.actors.values(), self.alarms)
        await self._flush()

    # ---- what each state does -------------------------------------------------------------------

    async def _unholding(self) -> Event:
        """After a restart the devices are prepared again; otherwise they still are."""
        if self._restarted:
            await self._resetting()
            self._restarted = False
        return Event.DONE

    async def _resetting(self) -> Event:
        """Prepare every device; what is away is prepared when a step needs it."""
        await prepare_all(self.actors.values(), self.alarms)
        return Event.DONE

    async def _idle(self) -> Event | None:
        while True:
            self._queue_news.clear()
            if not self._may_start():
                await self._queue_news.wait()
                continue
            head = self.queue[0]
            why = await self.admit(head)
            if not self._may_start() or self.queue[0] is not head:
                continue
            if why:
                self.withdraw(head, why)
                self._start_ends(f"the plan {head.plan_id} cannot start: {why}")
                continue
            self.active = self.queue.pop(0)
            return Event.START

    def _may_start(self) -> bool:
        wanted = self.cell.autostart or self._start_wanted is not None
        return bool(self.queue) and wanted and self.accepting and not self.blocked()

    def _start_ends(self, why: str) -> None:
        if self._start_wanted is not None and not self._start_wanted.done():
            self._start_wanted.set_result(why)
        self._start_wanted = None

    async def _starting(self) -> Event:
        self._launch()
        return Event.DONE

    def _launch(self) -> None:
        assert self.active is not None
        for actor in self.actors.values():
            actor.held_to = actor.held_to or actor.identity
        self.journal.save_identities({name: actor.held_to for name, actor in self.actors.items()})
        self._runner = Runner(self, self.active)
        self._task = asyncio.create_task(self._runner.carry_out(), name=f"run {self.active.plan_id}")
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _execute(self) -> Event | None:
        if self._task is None:
            self._launch()
        assert self._task is not None
        await asyncio.wait([self._task])
        try:
            self._task.result()
        except StopRun:
            return Event.DONE
        except Exception as error:
            ours = not isinstance(error, StoreError)
            reason = f"labedge itself failed: {error}" if ours else str(error)
            log.error("the run is aborted: %s", reason, exc_info=ours)
            self.handle(Event.ABORT, reason)
            return None
        return Event.DONE

    async def _completing(self) -> Event:
        assert self.active is not None
        self._finalise_active("Complete", "")
        await self._flush()
        return Event.DONE

    async def _complete(self) -> Event | None:
        if not self.cell.autostart:
            await _for_ever()
        return Event.RESET

    async def _holding(self) -> Event:
        if self._task is not None and not self._task.done():
            parked = asyncio.ensure_future(self._parked.wait())
            try:
                await asyncio.wait([self._task, parked], return_when=asyncio.FIRST_COMPLETED)
            finally:
                parked.cancel()
        return Event.DONE

    async def _stopping(self) -> Event:
        """The running step ends, nothing new begins. What an earlier session left moving is stopped."""
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._restarted:
            await confirm_all(self.actors.values(), self.alarms, halt=True)
            self._restarted = False
        self._finalise_active("Stopped", self.reason)
        await self._flush()
        return Event.DONE

    async def _aborting(self) -> Event:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await confirm_all(self.actors.values(), self.alarms)
        if self._runner is not None:
            await self._runner.measure_open()
        self._finalise_active("Aborted", self.reason)
        await self._flush()
        return Event.DONE

    async def _flush(self) -> None:
        try:
            await self.journal.durable()
        except StoreError as error:
            self.alarms.raise_("journal", "critical", "journal", str(error))

    async def _clearing(self) -> Event:
        self.alarms.clear_all("stop-", "moving-")
        return Event.DONE

    # ---- what a run asks of its cell (runner.Cell) ----------------------------------------------

    async def may_go(self) -> None:
        """The gate in front of every step."""
        while self.state is not State.EXECUTE:
            if self.state in (State.STOPPING, State.ABORTING, State.STOPPED, State.ABORTED):
                raise StopRun
            self._parked.set()
            try:
                await self.until(lambda state: state in _OPEN)
            finally:
                self._parked.clear()

    async def pause(self, seconds: float) -> None:
        """Wait between attempts; a command that ends Execute ends the wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.until(lambda state: state is not State.EXECUTE)
        await self.may_go()

    def hold_run(self, reason: str) -> None:
        self.alarms.raise_("run-held", "high", "run", reason)
        with contextlib.suppress(NotInThisState):
            self.handle(Event.HOLD, reason)

    def end_run(self, command: str, reason: str) -> None:
        with contextlib.suppress(NotInThisState):
            self.handle(Event(command), reason)

    def emit(self, run: ActiveRun, documents: list[Document]) -> None:
        self.listener.documents(run, documents)

    def changed(self) -> None:
        if self.active is not None:
            self.listener.run_changed(self.active, urgent=False)

    def booked(self) -> None:
        self.journal.save_inventory(self.keeper.inventory)
        self.listener.inventory_changed()

    def unlock(self) -> None:
        """Somebody at the bench has reset the cell after an abort."""
        self.remote_locked = False
        self.journal.set_fact("remote_locked", False)

    def resolved(self, run: ActiveRun, step: str, answer: str, by: str) -> None:
        """A person has answered for a step; it counts from the next unhold on."""
        self.journal.record(run.plan_id, ResolutionRecord(step, answer, by))
        self.listener.run_changed(run, urgent=True)

    # ---- states of runs -------------------------------------------------------------------------

    def adopt(self, run: ActiveRun) -> None:
        """Take over a run that a restart interrupted: the cell is Held with it."""
        self.active = run
        for name, identity in self.journal.identities().items():
            if name in self.actors:
                self.actors[name].held_to = identity
        self._runner = Runner(self, run)
        self.machine = PackML(State.HELD)
        self._restarted = True
        self.reason = run.reason = "the daemon was restarted while this run was under way"
        for compiled in run.plan.steps:
            if run.steps[compiled.execution].open_intent is not None:
                self.actors[compiled.step.device].quiet = True
        self._set_active("Held")

    def bury(self, run: ActiveRun, state: RunState, reason: str) -> None:
        """End a run of an earlier session that cannot go on."""
        self.active = run
        self._runner = Runner(self, run)
        self._finalise_active(state, reason)

    def begin_run(self, run: ActiveRun) -> None:
        """Write the start document of a run that has none yet."""
        plan = run.plan.plan
        head = {
            "plan_id": plan.plan_id,
            "plan_name": plan.name,
            "cell": plan.cell,
            "metadata": plan.metadata,
            "parameters": plan.parameters,
        }
        self.emit(run, run.documents.start(head, time.time()))

    def _note(self, state: State, by: str) -> None:
        if self.active is not None and (run_state := ACTIVE_STATES.get(state.value)):
            self._set_active(run_state, by)
        if state in (State.ABORTING, State.ABORTED, State.STOPPED, State.IDLE, State.STARTING):
            self.journal.set_fact("state", state.value)
        if state is State.ABORTING:
            self.remote_locked = True
            self.journal.set_fact("remote_locked", True)
        if state is State.EXECUTE:
            self.alarms.clear("run-held")
        if state is not State.IDLE:
            self._start_ends("" if state is State.STARTING else f"the cell went to {state.value} instead")
        for wanted, future in self._watchers:
            if not future.done() and wanted(state):
                future.set_result(state)
        self._watchers = [(wanted, future) for wanted, future in self._watchers if not future.done()]
        self.listener.cell_changed()

    def _set_active(self, state: RunState, by: str = "") -> None:
        assert self.active is not None
        if self.active.state == "Queued" and not self.active.documents.started:
            self.begin_run(self.active)
        if self.active.state != state:
            self.active.state, self.active.reason = state, self.reason
            self.journal.set_run(self.active.plan_id, state, self.reason, by)
        self.listener.run_changed(self.active, urgent=True)

    def _finalise_active(self, state: RunState, reason: str) -> None:
        run, self.active, self._task = self.active, None, None
        self.alarms.clear("run-held")
        for actor in self.actors.values():
            actor.held_to = None
        if run is None:
            return
        with self.journal.database.together():
            (self._runner or Runner(self, run)).cancel_open()
            self._finalise(run, state, reason)
        self._runner = None

    def _finalise(self, run: ActiveRun, state: RunState, reason: str) -> None:
        run.state, run.reason, run.waiting = state, reason, None
        with self.journal.database.together():
            if not run.documents.started:
                self.begin_run(run)
            self.emit(run, run.documents.stop(state, reason, time.time()))
            self.journal.set_run(run.plan_id, state, reason)
        self.listener.run_changed(run, urgent=True)


_OPEN = frozenset({State.EXECUTE, State.STOPPING, State.STOPPED, State.ABORTING, State.ABORTED})


async def _admit_all(run: ActiveRun) -> str:
    return ""


async def _for_ever() -> None:
    await asyncio.Event().wait()
