"""`labedge check`: what is wrong with a cell file, and with the devices behind it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import click
import msgspec

from drivers.api import Device
from drivers.errors import DriverError
from edge.config import Cell, DeviceConfig, load_cell
from edge.errors import Mistakes
from edge.plan.geometry import CellGeometry
from edge.run.actor import CONNECT_S, matches
from protocols.errors import WireError
from protocols.links import Links

CLOSE_S = 5.0


class Found(msgspec.Struct, frozen=True):
    """What `--connect` found of one device."""

    ok: bool
    text: str
    """Its identity, or what is wrong, as a sentence."""


@click.command(epilog="Example: labedge check cell.yaml --connect")
@click.argument("file", metavar="CELL.yaml", type=click.Path(path_type=Path))
@click.option("--connect", is_flag=True, help="Also open and identify every device; moves nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(file: Path, connect: bool, as_json: bool) -> None:
    """Show every mistake in a cell file at once: where, what, and how to mend it."""
    try:
        cell = load_cell(file)
    except Mistakes as mistakes:
        _say(as_json, _report(file, mistakes=mistakes), _mistaken(file, mistakes))
        raise SystemExit(1) from None
    # What a link logs of its troubles is in its device's line here.
    logging.getLogger().addHandler(logging.NullHandler())
    devices = asyncio.run(connect_all(cell)) if connect else {}
    _say(as_json, _report(file, devices=devices), _in_order(file, cell, devices))
    if not all(found.ok for found in devices.values()):
        raise SystemExit(1)


async def connect_all(cell: Cell) -> dict[str, Found]:
    """Open, identify and close every device, all at once, each within its own deadline."""
    links = Links()
    geometry = CellGeometry(cell) if cell.positions else None
    try:
        found = await asyncio.gather(*(_connect(config, links, geometry) for config in cell.devices.values()))
    finally:
        await links.close()
    return dict(zip(cell.devices, found, strict=True))


async def _connect(config: DeviceConfig, links: Links, geometry: CellGeometry | None) -> Found:
    device: Device | None = None
    try:
        device = config.device(config.name, config.options, links)
        device.geometry = geometry
        async with asyncio.timeout(CONNECT_S):
            await device.open()
            identity = await device.identify()
    except TimeoutError:
        return Found(False, f"There is no answer on {config.options.port} within {CONNECT_S:g} s.")
    except (DriverError, WireError) as error:
        return Found(False, str(error))
    except Exception as error:  # a driver of somebody else's must not hide what the others found
        return Found(False, f"The driver {config.driver} failed ({type(error).__name__}: {error}).")
    finally:
        if device is not None:
            await _close(device)
    wanted = config.options.identity
    if wanted is not None and not matches(wanted, identity):
        return Found(
            False, f"It is {identity}, and the cell file wants {wanted}; check cables and `identity`."
        )
    return Found(True, str(identity))


async def _close(device: Device) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await device.close()
    except TimeoutError:
        return


def _report(
    file: Path, *, mistakes: Mistakes | None = None, devices: dict[str, Found] | None = None
) -> dict[str, Any]:
    problems = [msgspec.to_builtins(problem) for problem in mistakes.problems] if mistakes else []
    found = {name: {"ok": device.ok, "text": device.text} for name, device in (devices or {}).items()}
    ok = not problems and all(device["ok"] for device in found.values())
    return {"file": str(file), "ok": ok, "problems": problems, "devices": found}


def _mistaken(file: Path, mistakes: Mistakes) -> str:
    count = len(mistakes.problems)
    return f"{mistakes}\n{file}: {count} mistake{'s' if count != 1 else ''}."


def _in_order(file: Path, cell: Cell, devices: dict[str, Found]) -> str:
    lines = [f"{file}: cell {cell.cell} is in order, with {', '.join(cell.devices)}."]
    lines += [f"{name}: {'' if found.ok else 'NOT OK. '}{found.text}" for name, found in devices.items()]
    return "\n".join(lines)


def _say(as_json: bool, report: dict[str, Any], text: str) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else text)
