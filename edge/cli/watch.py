"""Following a run in the terminal: a progress bar, plain lines where there is no terminal, or JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click
import msgspec

from edge.cli.overview import steps_text, waiting_text
from edge.client import FINAL
from edge.link.messages import RunStatus

Show = Callable[[RunStatus], None]


@contextlib.contextmanager
def watcher(as_json: bool) -> Iterator[Show]:
    """What shows each status of a run."""
    if as_json:
        yield lambda status: click.echo(msgspec.json.encode(status))
    elif sys.stdout.isatty():
        with _bar() as show:
            yield show
    else:
        yield Lines(click.echo)


class Lines:
    """A line whenever the state, or what the run waits for, is another one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: list[str] = []

    def __call__(self, status: RunStatus) -> None:
        lines = list(state_text(status))
        if lines != self._told:
            self._told = lines
            self._say("\n  ".join(lines))


def state_text(status: RunStatus) -> Iterator[str]:
    """The run's state and why, and what it waits for."""
    plain = msgspec.to_builtins(status)
    reason = f": {status.reason}" if status.reason else ""
    steps = f", {steps_text(plain['steps'])}" if status.state in FINAL else ""
    yield f"{status.state}{steps}{reason}"
    yield from waiting_text(plain)


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("Queued", total=None)
        lines = Lines(lambda text: progress.console.print(text, highlight=False, markup=False))

        def show(status: RunStatus) -> None:
            lines(status)
            now = " ".join([status.state, *status.current])
            progress.update(task, description=now, total=status.steps.total, completed=status.steps.finished)

        yield show
