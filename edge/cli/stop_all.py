"""`labedge stop-all`: stop every device of a cell without its daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from drivers.api import Device
from drivers.errors import DriverError
from edge.cell import Cell, DeviceConfig
from edge.cli.commands import somebody
from edge.client import new_id
from edge.config import load_cell
from edge.errors import LabedgeError
from edge.link.local import SOCKET_NAME
from edge.link.localclient import NoDaemon, ask, order
from edge.link.messages import Command
from edge.plan.geometry import CellGeometry
from edge.run.stopping import confirm
from protocols.links import Links

ALL_S = 15.0
ABORT_S = 6.0
CONFIRM_S = 6.0
CLOSE_S = 1.0


class Stopped(msgspec.Struct, frozen=True):
    """What became of one device."""

    device: str
    ok: bool
    text: str


@click.command("stop-all", epilog="Example: labedge stop-all cell.yaml")
@click.argument("file", metavar="CELL.yaml", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def stop_all(file: Path, as_json: bool) -> None:
    """Stop every device of a cell directly, all at once, as after a crash of the daemon.

    If the daemon runs, it is told to abort first, because it holds the ports. Exit 0 only if every device
    has confirmed that it stands still. This is a software stop: people need the hardware emergency stop.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # what links log is in the result too
    cell = load_cell(file)
    daemon, stopped = asyncio.run(stop_cell(cell))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"daemon": daemon, "devices": stopped})))
    else:
        if daemon:
            click.echo(daemon)
        for one in stopped:
            click.echo(f"{one.device}: {'' if one.ok else 'NOT CONFIRMED. '}{one.text}")
    if not all(one.ok for one in stopped):
        sys.exit(1)


async def stop_cell(cell: Cell) -> tuple[str, list[Stopped]]:
    """What the daemon said (empty: there is none), and what became of each device."""
    text, moving = await _abort(cell.state_dir / SOCKET_NAME)
    vouched = {name for name in cell.devices if moving is not None and name not in moving}
    links = Links()
    geometry = CellGeometry(cell) if cell.positions else None
    tasks = {
        name: asyncio.ensure_future(_stop(config, links, geometry))
        for name, config in cell.devices.items()
        if name not in vouched
    }
    if tasks:
        await asyncio.wait(tasks.values(), timeout=ALL_S - ABORT_S - CLOSE_S)
    stopped = [
        Stopped(name, True, "the daemon has seen it stand still.")
        if name in vouched
        else _result(name, tasks)
        for name in cell.devices
    ]
    for task in tasks.values():
        task.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await links.close()
    return text, stopped


def _result(name: str, tasks: Mapping[str, asyncio.Future[Stopped]]) -> Stopped:
    if not tasks[name].done():
        return Stopped(name, False, f"it has not answered within {ALL_S:g} s; stop it by hand.")
    return tasks[name].result()


async def _abort(path: Path) -> tuple[str, set[str] | None]:
    """What the daemon said, and which devices it could not confirm; None: it cannot vouch for any."""
    try:
        reply = await order(path, Command("abort", new_id(), by=f"stop-all of {somebody()}"), ABORT_S)
        alarms = msgspec.json.decode(await ask(path, "status", 1.0))["alarms"]
    except NoDaemon:
        return "", None
    except LabedgeError as error:
        return f"The daemon was told to abort, but: {error}", None
    if reply.result != "done":
        return "The daemon was told to abort, and refused.", None
    moving = {alarm["source"] for alarm in alarms if alarm["id"].startswith(("stop-", "moving-"))}
    return "The daemon runs and has aborted; it holds the ports.", moving


async def _stop(config: DeviceConfig, links: Links, geometry: CellGeometry | None) -> Stopped:
    device: Device | None = None
    try:
        device = config.device(config.name, config.options, links)
        device.geometry = geometry
        await device.open()
        device.halt()
        why = await confirm(device, CONFIRM_S)
    except DriverError as error:
        why = str(error)
    except Exception as error:  # one driver's mistake must not keep the others from being stopped
        why = f"the driver {config.driver} failed ({type(error).__name__}: {error})."
    finally:
        if device is not None:
            await device.close()
    return Stopped(config.name, not why, why or "stopped, and confirmed.")
