"""The cell's state machine: PackML (ISA-TR88.00.02), synchronous, a table and nothing else.

`handle` takes a command or `done` (an acting state has finished its work) and returns the new state.
It never waits and calls nobody back: what has to happen in a state is the controller's business.
"""

from __future__ import annotations

from enum import Enum

from transitions import Machine, MachineError

from edge.errors import LabedgeError


class State(Enum):
    """States of ISA-TR88.00.02, figure 5 (base state model)."""

    STOPPED = "Stopped"
    RESETTING = "Resetting"
    IDLE = "Idle"
    STARTING = "Starting"
    EXECUTE = "Execute"
    COMPLETING = "Completing"
    COMPLETE = "Complete"
    HOLDING = "Holding"
    HELD = "Held"
    UNHOLDING = "Unholding"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    UNSUSPENDING = "Unsuspending"
    STOPPING = "Stopping"
    ABORTING = "Aborting"
    ABORTED = "Aborted"
    CLEARING = "Clearing"


class Event(Enum):
    """PackML commands, and `done` for the end of an acting state."""

    RESET = "reset"
    START = "start"
    HOLD = "hold"
    UNHOLD = "unhold"
    SUSPEND = "suspend"
    UNSUSPEND = "unsuspend"
    STOP = "stop"
    ABORT = "abort"
    CLEAR = "clear"
    DONE = "done"


ACTING = {
    State.RESETTING: State.IDLE,
    State.STARTING: State.EXECUTE,
    State.EXECUTE: State.COMPLETING,
    State.COMPLETING: State.COMPLETE,
    State.HOLDING: State.HELD,
    State.UNHOLDING: State.EXECUTE,
    State.SUSPENDING: State.SUSPENDED,
    State.UNSUSPENDING: State.EXECUTE,
    State.STOPPING: State.STOPPED,
    State.ABORTING: State.ABORTED,
    State.CLEARING: State.STOPPED,
}
"""Where `done` leads from each acting state."""

_NO_ABORT = {State.ABORTING, State.ABORTED}
_NO_STOP = {State.STOPPING, State.STOPPED, State.CLEARING, *_NO_ABORT}

SOURCES: dict[Event, tuple[set[State], State]] = {
    Event.RESET: ({State.STOPPED, State.COMPLETE}, State.RESETTING),
    Event.START: ({State.IDLE}, State.STARTING),
    Event.HOLD: (
        {
            State.STARTING,
            State.EXECUTE,
            State.UNHOLDING,
            State.SUSPENDING,
            State.SUSPENDED,
            State.UNSUSPENDING,
        },
        State.HOLDING,
    ),
    Event.UNHOLD: ({State.HELD}, State.UNHOLDING),
    Event.SUSPEND: ({State.EXECUTE}, State.SUSPENDING),
    Event.UNSUSPEND: ({State.SUSPENDED}, State.UNSUSPENDING),
    Event.STOP: (set(State) - _NO_STOP, State.STOPPING),
    Event.ABORT: (set(State) - _NO_ABORT, State.ABORTING),
    Event.CLEAR: ({State.ABORTED}, State.CLEARING),
}
"""From which states each command is taken, and where it leads."""


class NotInThisState(LabedgeError):
    """The command has no meaning in the cell's state."""


class PackML:
    """The cell's state, changed only through `handle`."""

    state: State

    def __init__(self, initial: State = State.STOPPED) -> None:
        self._machine = Machine(
            model=self, states=State, initial=initial, auto_transitions=False, send_event=False
        )
        for event, (sources, target) in SOURCES.items():
            self._machine.add_transition(event.value, list(sources), target)
        for source, target in ACTING.items():
            self._machine.add_transition(Event.DONE.value, source, target)

    def handle(self, event: Event) -> State:
        """Take the event; raises NotInThisState, and then nothing has changed."""
        try:
            self.trigger(event.value)  # type: ignore[attr-defined]  # transitions adds it to its model
        except MachineError:
            raise NotInThisState(
                f"{event.value} has no meaning while the cell is {self.state.value}"
            ) from None
        return self.state
