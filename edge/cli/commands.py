"""Everything a person tells a running cell: one table of commands, and `labedge status`.

Over the local socket, or with --url over MQTT. A command returns when it is done.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import click
import msgspec

from edge.cli.broker import Broker, broker_options
from edge.cli.overview import overview_text
from edge.client import new_id, sentences
from edge.link.localclient import ask, cell_of, find, order
from edge.link.messages import Command, Offline, Reply, utc_now

Parameters = Sequence[Callable[[Callable[..., None]], Callable[..., None]]]
_CELL = click.option(
    "--cell",
    metavar="CELL",
    help="A cell file or a cell's id; default: $LABEDGE_CELL, or the only daemon that runs here.",
)


@dataclass(frozen=True)
class Order:
    """A command of the interface as a command of the command line."""

    name: str
    help: str
    example: str
    parameters: Parameters = ()
    timeout_s: float = 60.0


SET_S = 30.0
_RUN = click.argument("plan_id", metavar="RUN")

ORDERS = (
    Order(
        "start",
        "Begin the head of the queue, where the cell file says `autostart: false`.",
        "labedge start",
        timeout_s=600.0,
    ),
    Order(
        "hold",
        "Let the running step come to its end, begin no other, and wait. Done when motion has stopped.",
        "labedge hold --cell bench-1",
        timeout_s=600.0,
    ),
    Order("unhold", "Go on after a hold.", "labedge unhold", timeout_s=120.0),
    Order(
        "stop",
        "End the run in an orderly way: the running step ends, nothing new begins.",
        "labedge stop",
        timeout_s=600.0,
    ),
    Order(
        "abort",
        "Stop every device at once. This is a software stop: people need the hardware emergency stop.",
        "labedge abort",
    ),
    Order("clear", "Leave Aborted, once the cause is gone. Moves nothing.", "labedge clear"),
    Order(
        "reset",
        "Make the devices ready for the next run. Moves no matter.",
        "labedge reset",
        timeout_s=120.0,
    ),
    Order(
        "cancel",
        "Take plan RUN out of the queue, or stop it if it is running.",
        "labedge cancel 0192f6f0-7c1e-7a6b-9d3e-5f1f0c2b9a11",
        (_RUN,),
        timeout_s=600.0,
    ),
    Order(
        "resolve",
        "Say what became of STEP of plan RUN, which is in doubt; it counts from the next unhold on.",
        "labedge resolve 0192f6f0-7c1e-7a6b-9d3e-5f1f0c2b9a11 draw --as finished",
        (
            _RUN,
            click.argument("step"),
            click.option(
                "--as",
                "as",
                type=click.Choice(["finished", "repeat", "failed"]),
                required=True,
                help="finished: it was done; repeat: it was not, do it again; failed: it went wrong.",
            ),
        ),
    ),
    Order(
        "replay",
        "Send the documents of plan RUN again.",
        "labedge replay 0192f6f0-7c1e-7a6b-9d3e-5f1f0c2b9a11 --from-seq 100",
        (
            _RUN,
            click.option(
                "--from-seq",
                type=click.IntRange(0),
                default=0,
                show_default=True,
                help="The first one to send.",
            ),
        ),
    ),
)


def _command(given: Order) -> click.Command:
    def run(broker: Broker, cell: str | None, as_json: bool, timeout_s: float | None, **args: Any) -> None:
        within_s = timeout_s or given.timeout_s
        _tell(given.name, asyncio.run(_give(given.name, args, broker, cell, within_s)), as_json)

    made: Callable[..., None] = run
    for parameter in (*reversed(given.parameters), *_common(given.timeout_s)):
        made = parameter(made)
    return click.command(given.name, help=given.help, epilog=f"Example: {given.example}")(made)


def _tell(name: str, reply: Reply, as_json: bool) -> None:
    """Print the outcome; exit 1 unless the command was done."""
    if as_json:
        click.echo(msgspec.json.encode(reply))
    elif reply.result == "done":
        click.echo(f"{name}: done.")
    if reply.result != "done":
        if not as_json:
            click.echo(f"{name} {reply.result}: {sentences(reply.reasons)}.", err=True)
        sys.exit(1)


def _common(timeout_s: float) -> Parameters:
    return (
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(0.1, 86400),
            metavar="S",
            help=f"How long to wait for the end, seconds; default {timeout_s:g}.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the cell's reply as JSON."),
        broker_options,
        _CELL,
    )


async def _give(name: str, args: dict[str, Any], broker: Broker, cell: str | None, within_s: float) -> Reply:
    if broker.url is not None:
        async with broker.client(cell, somebody()) as client:
            return await client.command(name, within_s, **args)
    path = await find(cell)
    command = Command(name, new_id(), issued_at=utc_now(), by=somebody(), args=args)
    return await order(path, command, within_s)


def somebody() -> str:
    """Who gives commands from here."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


@click.command(epilog="Example: labedge status --json")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@broker_options
@_CELL
def status(as_json: bool, broker: Broker, cell: str | None) -> None:
    """Show what a cell is doing: state, devices, run, queue, alarms."""
    found = asyncio.run(_overview(broker, cell))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        click.echo("\n".join(overview_text(found)))


async def _overview(broker: Broker, cell: str | None) -> dict[str, Any]:
    """`{"id", "cell", "run": … or null, "alarms": […] or null}`; alarms are not known over MQTT."""
    if broker.url is None:
        path = await find(cell)
        answer: dict[str, Any] = msgspec.json.decode(await ask(path, "status"))
        return {"id": cell_of(path)} | answer
    async with broker.client(cell, somebody()) as client:
        said = await client.status()
        run = None
        if not isinstance(said, Offline) and said.run is not None:
            async for first in client.follow(said.run):
                run = first
                break
        whole = {"id": client.cell, "cell": said, "run": run, "alarms": None}
        overview: dict[str, Any] = msgspec.to_builtins(whole)
        return overview


start, hold, unhold, stop, abort, clear, reset, cancel, resolve, replay = map(_command, ORDERS)


@click.command(epilog="Example: labedge set-inventory truth.json")
@click.argument("file", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="Print the cell's reply as JSON.")
@broker_options
@_CELL
def set_inventory(file: BinaryIO, as_json: bool, broker: Broker, cell: str | None) -> None:
    """Correct the books: what stands where, and what is in it.

    FILE holds JSON such as {"labware": {"plate-1": {"at": "nest-1", "wells": {"A1": {"water": 20}}}},
    "vessels": {"red": {}}}. What is not named stays as it was.
    """
    try:
        args = msgspec.json.decode(file.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        click.echo(f"{file.name} is not a JSON object: {error}.", err=True)
        sys.exit(1)
    _tell("set-inventory", asyncio.run(_give("set_inventory", args, broker, cell, SET_S)), as_json)
