"""Every state and every event, against a table written from ISA-TR88.00.02 and not from the code.

Base state model and transition matrix of ISA-TR88.00.02, in the words of its commands. `done` is the
matrix's column "state complete". The hold of all states that precede, interrupt or resume Execute is the
2022 edition's; suspend is taken from Execute alone.
"""

from __future__ import annotations

import pytest

from edge.run.machine import Event, NotInThisState, PackML, State

MATRIX = """
state        reset     start    hold    unhold    suspend    unsuspend    stop     abort    clear    done
Stopped      Resetting -        -       -         -          -            -        Aborting -        -
Resetting    -         -        -       -         -          -            Stopping Aborting -        Idle
Idle         -         Starting -       -         -          -            Stopping Aborting -        -
Starting     -         -        Holding -         -          -            Stopping Aborting -        Execute
Execute      -         -        Holding -         Suspending -            Stopping Aborting -        Completing
Completing   -         -        -       -         -          -            Stopping Aborting -        Complete
Complete     Resetting -        -       -         -          -            Stopping Aborting -        -
Holding      -         -        -       -         -          -            Stopping Aborting -        Held
Held         -         -        -       Unholding -          -            Stopping Aborting -        -
Unholding    -         -        Holding -         -          -            Stopping Aborting -        Execute
Suspending   -         -        Holding -         -          -            Stopping Aborting -        Suspended
Suspended    -         -        Holding -         -          Unsuspending Stopping Aborting -        -
Unsuspending -         -        Holding -         -          -            Stopping Aborting -        Execute
Stopping     -         -        -       -         -          -            -        Aborting -        Stopped
Aborting     -         -        -       -         -          -            -        -        -        Aborted
Aborted      -         -        -       -         -          -            -        -        Clearing -
Clearing     -         -        -       -         -          -            -        Aborting -        Stopped
"""  # noqa: E501  # a table as wide as the standard's

HEAD, *ROWS = (line.split() for line in MATRIX.strip().splitlines())
CASES = [(row[0], event, target) for row in ROWS for event, target in zip(HEAD[1:], row[1:], strict=True)]


def test_the_matrix_names_every_state_and_every_event() -> None:
    assert {row[0] for row in ROWS} == {state.value for state in State}
    assert set(HEAD[1:]) == {event.value for event in Event}
    assert len(CASES) == 17 * 10


@pytest.mark.parametrize(("state", "event", "target"), CASES)
def test_every_pair(state: str, event: str, target: str) -> None:
    machine = PackML(State(state))
    if target == "-":
        with pytest.raises(NotInThisState, match=f"{event} has no meaning while the cell is {state}"):
            machine.handle(Event(event))
        assert machine.state is State(state)
    else:
        assert machine.handle(Event(event)) is State(target)
        assert machine.state is State(target)


def test_it_boots_stopped_and_machines_live_apart() -> None:
    first, second = PackML(), PackML()
    first.handle(Event.RESET)
    assert (first.state, second.state) == (State.RESETTING, State.STOPPED)


def test_a_whole_run() -> None:
    machine = PackML()
    walk = "reset done start done hold done unhold done done done reset done stop done"
    states = [machine.handle(Event(event)).value for event in walk.split()]
    assert states[:6] == ["Resetting", "Idle", "Starting", "Execute", "Holding", "Held"]
    assert states[6:10] == ["Unholding", "Execute", "Completing", "Complete"]
    assert states[10:] == ["Resetting", "Idle", "Stopping", "Stopped"]
