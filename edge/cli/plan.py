"""`labedge plan`: check a plan against a cell file, or push it to a cell and watch it run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from edge.cli.broker import Broker, broker_options
from edge.cli.commands import somebody
from edge.cli.watch import watcher
from edge.client import CellClient, sentences
from edge.config import load_cell
from edge.errors import LabedgeError
from edge.link.messages import Verdict, utc_now
from edge.plan.cellmodel import CellModel
from edge.plan.check import CompiledPlan, check
from edge.plan.inventory import Inventory
from edge.plan.model import MAX_BYTES, Unreadable, parse

_FILE = click.argument(
    "file", metavar="PLAN.json", type=click.Path(path_type=Path, dir_okay=False, exists=True)
)


@click.group(epilog="Example: labedge plan check plan.json --cell cell.yaml")
def plan() -> None:
    """Check, simulate or submit a plan."""


@plan.command("check", epilog="Example: labedge plan check plan.json --cell cell.yaml")
@_FILE
@click.option(
    "--cell",
    "cell_file",
    metavar="CELL.yaml",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The cell it is to run on, with the contents that its file gives.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check_command(file: Path, cell_file: Path, as_json: bool) -> None:
    """Show every reason against a plan, with its path, as the cell itself would. No hardware, no daemon."""
    model = CellModel(load_cell(cell_file))
    try:
        parsed, wrong = parse(_read(file))
        compiled, reasons = check(parsed, model, Inventory.initial(model), utc_now())
        reasons = wrong + reasons
    except Unreadable as error:
        compiled, reasons = None, error.reasons
    total_s = _estimated_s(compiled) if compiled is not None and not reasons else None
    if as_json:
        _print({"file": str(file), "ok": not reasons, "reasons": reasons, "estimate_s": total_s})
    elif reasons:
        click.echo("\n".join(_line(reason) for reason in reasons))
        click.echo(f"{file}: {len(reasons)} mistake{'s' if len(reasons) != 1 else ''}.")
    else:
        assert compiled is not None
        time = f", about {total_s:.0f} s" if total_s is not None else ""
        click.echo(f"{file}: in order, {len(compiled.steps)} steps{time}.")
    if reasons:
        sys.exit(1)


def _estimated_s(compiled: CompiledPlan) -> float | None:
    """Sum of the drivers' typical times; None where an argument is only known at run time."""
    known = [seconds for seconds in compiled.estimates if seconds is not None]
    return sum(known) if len(known) == len(compiled.estimates) else None


@plan.command("simulate", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def simulate() -> None:
    """The dry run; not built yet in this version."""
    raise click.UsageError(
        "`labedge plan simulate` is not built yet in this version; use `labedge plan check`."
    )


@plan.command(
    "submit", epilog="Example: labedge plan submit plan.json --url mqtt://localhost --cell bench-1 --watch"
)
@_FILE
@broker_options
@click.option("--cell", metavar="ID", help="The cell's id; default: $LABEDGE_CELL.")
@click.option("--watch", is_flag=True, help="Follow the run; exit 0 only if it ends Complete.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict, and each status, as lines of JSON.")
def submit(file: Path, broker: Broker, cell: str | None, watch: bool, as_json: bool) -> None:
    """Push a plan over MQTT and print the verdict."""
    if broker.url is None:
        raise click.UsageError("A plan is pushed over MQTT: add --url mqtt://HOST:PORT.")
    if not asyncio.run(_submit(_read(file), broker.client(cell, somebody()), watch, as_json)):
        sys.exit(1)


async def _submit(payload: bytes, link: CellClient, watch: bool, as_json: bool) -> bool:
    async with link as client:
        verdict = await client.submit(payload)
        _tell_verdict(verdict, as_json)
        if verdict.verdict == "rejected" or not watch:
            return verdict.verdict != "rejected"
        state = ""
        with watcher(as_json) as show:
            async for status in client.follow(verdict.plan_id):
                show(status)
                state = status.state
        return state == "Complete"


def _tell_verdict(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(verdict))
        return
    click.echo(f"{verdict.plan_id}: {verdict.verdict}.")
    for reason in verdict.reasons:
        click.echo(_line(reason), err=True)


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_BYTES:
        raise LabedgeError(f"{file} is larger than {MAX_BYTES} bytes, and no cell takes such a plan.")
    return file.read_bytes()


def _line(reason: Any) -> str:
    return sentences([reason])


def _print(result: dict[str, Any]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(result)))
