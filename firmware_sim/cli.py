"""The command `firmware-sim`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from firmware_sim.bench import Bench, prepared
from firmware_sim.config import load_bench
from firmware_sim.control import ask, running
from firmware_sim.errors import BenchError
from firmware_sim.faults import KEYS
from firmware_sim.show import world_text

SOCKET_VARIABLE = "FIRMWARE_SIM_SOCKET"


class _BenchFirst(click.Group):
    """`firmware-sim BENCH.yaml` is `firmware-sim run BENCH.yaml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_BenchFirst, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Simulated instruments at wire level that share one physical world.

    \b
    firmware-sim bench.yaml                         start a bench (the same as: firmware-sim run bench.yaml)
    firmware-sim fault red drop-reply --count 2     let it go wrong
    firmware-sim world                              see what is really in the wells
    """


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_bench = click.option("--bench", type=click.Path(path_type=Path), help="The running bench's file.")
_socket = click.option(
    "--socket", type=click.Path(path_type=Path), help="The running bench's control socket."
)


@main.command()
@click.argument("bench", type=click.Path(path_type=Path))
@click.option(
    "--until-eof", is_flag=True, help="Stop when standard input ends, so as not to outlive a parent."
)
@_json
def run(bench: Path, until_eof: bool, as_json: bool) -> None:
    """Start the bench of a file and run it until SIGINT or SIGTERM.

    Prints `ready NAME ADDRESS` for each instrument once all answer, then `ready`.

    Example: firmware-sim bench.yaml
    """
    _guarded(lambda: asyncio.run(_run(bench, until_eof, as_json)))


@main.command()
@click.argument("name")
@click.argument("kind", type=click.Choice(sorted(KEYS)), metavar="KIND")
@click.option("--count", type=int, help="Messages (or, for stuck, movements) to hit; default 1.")
@click.option("--for", "for_s", type=float, metavar="S", help="How long, in seconds.")
@click.option("--after", type=int, help="Messages to let through first.")
@click.option("--probability", type=float, help="Chance for each message, instead of a count.")
@click.option("--delay", "delay_s", type=float, metavar="S", help="delay: how late the answer is.")
@click.option("--side", type=click.Choice(["request", "reply"]), help="garble, truncate: what is spoilt.")
@click.option("--keep", type=int, help="truncate: bytes that are left.")
@click.option("--length", type=int, help="noise: bytes in a burst.")
@click.option("--per-s", type=float, help="drift: change a second, in the sensor's unit.")
@click.option("--code", type=int, help="error: the instrument's error code.")
@_bench
@_socket
def fault(name: str, kind: str, bench: Path | None, socket: Path | None, **keys: Any) -> None:
    """Let instrument NAME of a running bench suffer KIND.

    KIND: drop-reply, drop-request, delay, garble, truncate, duplicate-reply, noise, hang, disconnect, reboot,
    stuck, drift, error.

    Example: firmware-sim fault red drop-reply --count 2
    """
    given = {key: value for key, value in keys.items() if value is not None}
    entry = {"instrument": name, "kind": kind, **given}
    _guarded(lambda: ask(_find(bench, socket), {"do": "fault", "fault": entry}))


@main.command()
@_json
@_bench
@_socket
def world(as_json: bool, bench: Path | None, socket: Path | None) -> None:
    """Print the physical truth of a running bench: wells, masses, places, axes.

    Example: firmware-sim world --json
    """

    def show() -> None:
        truth = ask(_find(bench, socket), {"do": "world"})["world"]
        click.echo(json.dumps(truth, indent=2, ensure_ascii=False) if as_json else world_text(truth))

    _guarded(show)


def _guarded(action: Any) -> None:
    try:
        action()
    except BenchError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


async def _run(path: Path, until_eof: bool, as_json: bool) -> None:
    with prepared(path) as bench:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if until_eof:
            loop.add_reader(sys.stdin.fileno(), _stop_at_eof, stop)
        await bench.open()
        try:
            _announce(bench, as_json)
            await stop.wait()
        finally:
            await bench.close()


def _stop_at_eof(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _announce(bench: Bench, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"ready": bench.addresses}))
        return
    for name, address in bench.addresses.items():
        click.echo(f"ready {name} {address}")
    click.echo("ready")


def _find(bench: Path | None, socket: Path | None) -> Path:
    """The control socket that is meant: given, named by the environment, or of the only running bench."""
    if socket is not None:
        return socket
    if bench is not None:
        config, _ = load_bench(bench)
        return config.links / "bench.sock"
    if os.environ.get(SOCKET_VARIABLE):
        return Path(os.environ[SOCKET_VARIABLE])
    found = running()
    if len(found) == 1:
        return found[0]
    if not found:
        raise BenchError("No bench is running; start one with `firmware-sim BENCH.yaml`.")
    listed = "\n".join(f"  {path}" for path in found)
    raise BenchError(f"Several benches are running; name one with --bench or --socket:\n{listed}")
