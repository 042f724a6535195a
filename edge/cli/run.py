"""`labedge run`: the daemon in the foreground."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from edge.config import load_cell
from edge.daemon import configure_logging, run_daemon


@click.command(epilog="Example: labedge run cell.yaml")
@click.argument("cell", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]), default="INFO", show_default=True
)
def run(cell: Path, log_level: str) -> None:
    """Run the daemon of a cell in the foreground.

    SIGTERM and Ctrl-C hold the run, stop all motion, write everything down and end with exit code 0; the
    run is then Held until somebody unholds it.
    """
    configure_logging(log_level)
    asyncio.run(run_daemon(load_cell(cell)))
