"""Commands of operators and planners: what each means, who may, when it is done.

A command is answered `accepted` once it is durable and has taken effect, and `done` or `failed` when its
work has ended; or `refused`. A repeated id gets the first final answer again. `abort` goes past all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from edge.errors import LabedgeError
from edge.link.messages import Command, Reason, Reply, utc_now
from edge.plan.correction import corrected
from edge.plan.model import ID
from edge.run.controller import Controller
from edge.run.machine import Event, NotInThisState, State
from edge.run.progress import ActiveRun

log = logging.getLogger(__name__)

Answer = Callable[[Reply], None]

NOT_BUILT = {
    "suspend": "suspending a run",
    "unsuspend": "suspending a run",
    "answer": "prompts",
    "acknowledge": "acknowledging alarms",
    "shelve": "shelving alarms",
    "mode": "modes other than Produce",
    "do": "single operations by hand",
}
MAX_AGE_S = 300.0
"""A command without `expires_at` is stale this long after `issued_at`."""

_MOVES = {Event.UNHOLD, Event.START}

_MOVING = frozenset(
    {State.STARTING, State.EXECUTE, State.HOLDING, State.UNHOLDING, State.STOPPING, State.ABORTING}
)

_WANTED: dict[Event, Callable[[State], bool]] = {
    Event.HOLD: lambda state: state is State.HELD,
    Event.UNHOLD: lambda state: state is State.EXECUTE,
    Event.STOP: lambda state: state is State.STOPPED,
    Event.ABORT: lambda state: state is State.ABORTED,
    Event.CLEAR: lambda state: state is State.STOPPED,
    Event.RESET: lambda state: state in (State.IDLE, State.STARTING, State.EXECUTE),
    Event.START: lambda state: state in (State.EXECUTE, State.COMPLETING, State.COMPLETE),
}
_THERE: dict[Event, State] = {
    Event.HOLD: State.HELD,
    Event.UNHOLD: State.EXECUTE,
    Event.STOP: State.STOPPED,
    Event.CLEAR: State.STOPPED,
    Event.RESET: State.IDLE,
}
"""Where a command has nothing left to do."""
_ON_THE_WAY: dict[Event, frozenset[State]] = {
    Event.HOLD: frozenset({State.HOLDING}),
    Event.UNHOLD: frozenset({State.UNHOLDING}),
    Event.STOP: frozenset({State.STOPPING}),
    Event.ABORT: frozenset({State.ABORTING}),
    Event.CLEAR: frozenset({State.CLEARING}),
    Event.RESET: frozenset({State.RESETTING}),
    Event.START: frozenset({State.IDLE, State.STARTING}),
}
"""States from which the wanted one is reached without another command."""


class Refusal(LabedgeError):
    """The command is not taken."""


def read_command(payload: bytes) -> Command:
    """A command from JSON; an abort is understood whatever else is wrong with its payload.

    Raises Refusal for what is no command.
    """
    try:
        command = msgspec.json.decode(payload, type=Command)
        if ID.match(command.id):
            return command
        problem = "id must be 1 to 64 of the characters A-Z a-z 0-9 _ -"
    except (msgspec.DecodeError, RecursionError) as error:
        problem = str(error)
    try:
        asked = msgspec.json.decode(payload, type=_Asked).command
    except (msgspec.DecodeError, RecursionError):
        asked = ""
    if asked == "abort":
        return Command("abort", id=answer_id(payload))
    raise Refusal(problem)


class _Asked(msgspec.Struct):
    command: str


class _Named(msgspec.Struct):
    id: str = ""
    plan_id: str = ""


def answer_id(payload: bytes) -> str:
    """What a flawed payload is answered under: its own id where that can be read, else its SHA-256."""
    try:
        named = msgspec.json.decode(payload, type=_Named)
    except (msgspec.DecodeError, RecursionError):
        named = _Named()
    name = named.plan_id or named.id
    return name if ID.match(name) else f"sha256-{hashlib.sha256(payload).hexdigest()}"


class CommandDesk:
    """Takes commands from both connections and from the local socket."""

    def __init__(self, controller: Controller, replay: Callable[[str, int], Awaitable[None]]) -> None:
        self.controller = controller
        self.journal = controller.journal
        self._replay = replay
        self._special = {
            "cancel": self._cancel,
            "resolve": self._resolve,
            "replay": self._replay_run,
            "set_inventory": self._set_inventory,
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: set[str] = set()

    def take(self, command: Command, answer: Answer, *, local: bool, retained: bool = False) -> None:
        """Begin the command; `answer` is called once or twice."""
        if command.command == "abort":
            if self.controller.state in (State.ABORTING, State.ABORTED):
                self.controller.stop_devices()
            else:
                self.controller.handle(Event.ABORT, f"abort by {command.by or 'somebody'}", command.by)
            self._spawn(self._follow(command, answer, local=local))
            return
        if command.id in self._under_way:
            return
        try:
            if (first := self.journal.reply(command.id)) is not None:
                answer(_reply(first))
                return
            self._check(command, local=local, retained=retained)
            work = self._begin(command, local=local)
        except LabedgeError as error:
            reply = Reply(command.id, "refused", [Reason("", str(error))])
            self._audit(command, local, "refused")
            self.journal.remember_reply(command.id, reply)
            answer(reply)
            return
        self._audit(command, local, "accepted")
        self._under_way.add(command.id)
        self._spawn(self._finish(command, work, answer))

    def _audit(self, command: Command, local: bool, result: str) -> None:
        self.journal.audit(
            {
                "command": command.command,
                "id": command.id,
                "by": command.by,
                "args": command.args,
                "local": local,
                "result": result,
            }
        )

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _check(self, command: Command, *, local: bool, retained: bool) -> None:
        if command.cell and command.cell != self.controller.cell.cell:
            raise Refusal(f"the command is for cell `{command.cell}`; this is `{self.controller.cell.cell}`")
        if retained:
            raise Refusal("a retained command moves nothing; publish commands without the retain flag")
        if not local:
            _check_age(command, utc_now())
            self._check_lock(command)

    def _check_lock(self, command: Command) -> None:
        after_abort = self.controller.remote_locked and command.command in ("clear", "reset")
        if after_abort and not self.controller.cell.remote_clear:
            raise Refusal(
                f"after an abort, {command.command} is only taken at the bench: labedge {command.command}; "
                "remote_clear: true in the cell file allows it from here"
            )

    def _begin(self, command: Command, *, local: bool) -> Callable[[], Awaitable[None]]:
        """Take effect now; the work that is left until the command is done."""
        name = command.command
        if name in NOT_BUILT:
            raise Refusal(f"{NOT_BUILT[name]}: not built yet in this version")
        if name in self._special:
            return self._special[name](command)
        try:
            event = Event(name)
        except ValueError:
            raise Refusal(f"there is no command `{name}`") from None
        if event is Event.DONE:
            raise Refusal("there is no command `done`")
        if event in _MOVES and (violated := self.controller.blocked()):
            raise Refusal(
                f"interlock {', '.join(violated)} is violated; {name} only when it is back to normal"
            )
        if event in (*_MOVES, Event.RESET) and not self.controller.accepting:
            raise Refusal("the daemon is being shut down; nothing begins any more")
        if event is Event.START:
            return self._start()
        if self.controller.state not in (_THERE[event], *_ON_THE_WAY[event]):
            self.controller.handle(event, f"{name} by {command.by or 'somebody'}", command.by)
            self._unlock(event, local)
        return self._wait(event)

    def _start(self) -> Callable[[], Awaitable[None]]:
        if self.controller.state is not State.IDLE:
            raise NotInThisState(f"start has no meaning while the cell is {self.controller.state.value}")
        if not self.controller.queue:
            raise Refusal("there is no plan in the queue to start")
        refused, started = self.controller.want_start(), self._wait(Event.START)

        async def wait() -> None:
            if why := await refused:
                raise Refusal(why)
            await started()

        return wait

    def _unlock(self, event: Event, local: bool) -> None:
        if event is Event.RESET and (local or self.controller.cell.remote_clear):
            self.controller.unlock()

    def _wait(self, event: Event) -> Callable[[], Awaitable[None]]:
        """Wait for the wanted state, or until it cannot be reached any more. The watch begins at once."""
        wanted, on_the_way = _WANTED[event], _ON_THE_WAY[event]
        reached = self.controller.until(lambda state: wanted(state) or state not in on_the_way)

        async def wait() -> None:
            if not wanted(state := await reached):
                raise Refusal(f"the cell went to {state.value} instead")

        return wait

    async def _follow(self, command: Command, answer: Answer, *, local: bool) -> None:
        """An abort is answered after its effect, whatever the journal says."""
        answer(Reply(command.id, "accepted"))
        self._audit(command, local, "accepted")
        await self.controller.until(_WANTED[Event.ABORT])
        answer(Reply(command.id, "done"))

    async def _finish(self, command: Command, work: Callable[[], Awaitable[None]], answer: Answer) -> None:
        try:
            await self.journal.durable()
            answer(Reply(command.id, "accepted"))
            await work()
            reply = Reply(command.id, "done")
        except LabedgeError as error:
            reply = Reply(command.id, "failed", [Reason("", str(error))])
        except Exception as error:
            log.exception("labedge itself failed in command %s", command.command)
            reply = Reply(command.id, "failed", [Reason("", f"labedge itself failed: {error}")])
        self._under_way.discard(command.id)
        self.journal.remember_reply(command.id, reply)
        answer(reply)

    def _run(self, command: Command) -> ActiveRun:
        plan_id = command.args.get("plan_id")
        active = self.controller.active
        runs = [*self.controller.queue, *([active] if active is not None else [])]
        for run in runs:
            if run.plan_id == plan_id:
                return run
        raise Refusal(f"there is no queued or active run `{plan_id}`")

    def _cancel(self, command: Command) -> Callable[[], Awaitable[None]]:
        run = self._run(command)
        why = f"cancelled by {command.by or 'somebody'}"
        if run in self.controller.queue:
            self.controller.withdraw(run, why)
            return _nothing
        self.controller.handle(Event.STOP, why, command.by)
        return self._wait(Event.STOP)

    def _resolve(self, command: Command) -> Callable[[], Awaitable[None]]:
        run = self._run(command)
        step, answer = command.args.get("step"), command.args.get("as")
        if answer not in ("finished", "repeat", "failed"):
            raise Refusal("resolve needs as: finished, repeat or failed")
        if run.waiting is None or run.waiting.step != step:
            asked = (
                f"only step `{run.waiting.step}` waits for an answer"
                if run.waiting
                else "no step waits for one"
            )
            raise Refusal(f"step `{step}` of {run.plan_id} needs no answer: {asked}")
        run.resolution = answer
        self.controller.resolved(run, str(step), answer, command.by)
        return _nothing

    def _set_inventory(self, command: Command) -> Callable[[], Awaitable[None]]:
        if self.controller.state in _MOVING:
            raise Refusal(
                f"the books are not corrected while the cell is {self.controller.state.value}; hold it first"
            )
        keeper = self.controller.keeper
        inventory, problems = corrected(self.controller.model, keeper.inventory, command.args)
        if problems:
            raise Refusal("; ".join(problems))
        keeper.inventory = inventory
        self.controller.booked()
        return _nothing

    def _replay_run(self, command: Command) -> Callable[[], Awaitable[None]]:
        plan_id, from_seq = command.args.get("plan_id"), command.args.get("from_seq", 0)
        if not isinstance(plan_id, str) or self.journal.run(plan_id) is None:
            raise Refusal(f"there is no run `{plan_id}`")
        if not isinstance(from_seq, int) or isinstance(from_seq, bool) or not 0 <= from_seq < 2**63:
            raise Refusal("from_seq must be a whole number, 0 or more")
        return lambda: self._replay(plan_id, from_seq)


async def _nothing() -> None:
    return None


def _check_age(command: Command, now: datetime) -> None:
    for moment in (command.issued_at, command.expires_at):
        if moment is not None and moment.tzinfo is None:
            raise Refusal("issued_at and expires_at need a time zone, as in 2026-01-01T00:00:00Z")
    if command.expires_at is not None and command.expires_at <= now:
        raise Refusal(f"the command expired at {command.expires_at.isoformat()}")
    if command.expires_at is None and command.issued_at is not None:
        age_s = (now - command.issued_at).total_seconds()
        if age_s > MAX_AGE_S:
            raise Refusal(
                f"the command is {age_s:.0f} s old; without expires_at it is stale after {MAX_AGE_S:g} s"
            )


def _reply(payload: bytes) -> Reply:
    return msgspec.json.decode(payload, type=Reply)
