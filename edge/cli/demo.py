"""`labedge demo`: the whole system on one machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click
import msgspec

from edge.errors import LabedgeError

PLATE_WELLS = 96
LEAST_WELLS = 3
"""A blank, a replicate and a new recipe."""


@click.command(epilog="Example: labedge demo --plans 3 --seed 5")
@click.option("--plans", type=click.IntRange(1), default=6, show_default=True, help="How many plans.")
@click.option(
    "--wells", type=click.IntRange(LEAST_WELLS), default=8, show_default=True, help="Wells in each plan."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Picks the hidden colour.")
@click.option("--keep", is_flag=True, help="Leave broker, bench and daemon running at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print only the final report, as JSON.")
def demo(plans: int, wells: int, seed: int, keep: bool, as_json: bool) -> None:
    """Match a hidden colour, with nothing but this machine.

    Starts an MQTT broker, a simulated bench, the daemon and a planner, each its own process. The planner
    pushes plans over MQTT and designs each from the results of those before. Ends by itself, or earlier by
    Ctrl-C; either way nothing is left running.
    """
    if plans * wells > PLATE_WELLS:
        raise click.UsageError(f"{plans} plans of {wells} wells do not fit on a plate of {PLATE_WELLS}.")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    sys.exit(asyncio.run(_Show((plans, wells, seed), keep, as_json).run()))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Before anything is started, an interruption only has to be told."""
    raise SystemExit(0)


class _Show:
    """One demo, from its start to its report."""

    def __init__(self, budget: tuple[int, int, int], keep: bool, as_json: bool) -> None:
        """`budget`: plans, wells in each, seed."""
        self.plans, self.wells, self.seed = budget
        self.keep = keep
        self.as_json = as_json
        self._interrupted = False

    async def run(self) -> int:
        """Its exit code."""
        from edge.demo.supervise import Demo

        demo = Demo()
        task = asyncio.ensure_future(self._run(demo))

        def interrupt() -> None:
            if self._interrupted:
                demo.kill()
            self._interrupted = True
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)
        await asyncio.wait([task])
        if self._interrupted:
            self._say(f"Interrupted; everything is ended, and what there is lies in {demo.folder}")
            return 0
        return task.result()

    async def _run(self, demo: Any) -> int:
        from edge.demo import report
        from edge.demo.planner import Told

        hidden, arguments = _task(self.plans, self.wells, self.seed)
        self._say(f"Starting broker, bench and daemon in {demo.folder}")
        last = None
        async with demo.running() as where:
            with self._watching(report) as show:
                async for line in demo.plan(where, arguments):
                    last = msgspec.json.decode(line, type=Told)
                    show(last)
            if last is None or last.event != "done":
                why = (
                    last.text
                    if last is not None and last.event == "error"
                    else "The planner ended too early."
                )
                raise LabedgeError(f"{why} What all processes have said is in {demo.folder}.")
            found = report.result(last, demo.folder, hidden)
            click.echo(msgspec.json.encode(found) if self.as_json else "\n".join(report.summary(found)))
            if self.keep:
                click.echo("\n".join(report.kept(demo.folder, where.url, os.getpid())), err=self.as_json)
                await asyncio.get_running_loop().create_future()
        return 0

    def _watching(self, report: Any) -> Any:
        if self.as_json:
            return report.lines(lambda text: None, self.plans)
        return (
            report.live(self.plans, self.wells)
            if sys.stdout.isatty()
            else report.lines(click.echo, self.plans)
        )

    def _say(self, text: str) -> None:
        if not self.as_json:
            click.echo(text)


def _task(plans: int, wells: int, seed: int) -> tuple[dict[str, int], list[str]]:
    """The hidden recipe, and what the planner is told: the colour alone."""
    from edge.demo.colour import Mixtures
    from edge.demo.supervise import packaged
    from edge.demo.target import hidden_target
    from edge.yamlfile import parse_yaml

    liquids = parse_yaml(packaged("bench.yaml")).data["liquids"]
    recipe, absorbances = hidden_target(liquids, seed, Mixtures())
    target = ",".join(f"{au:.4f}" for au in absorbances)
    arguments = [
        "--cell",
        "demo",
        f"--target={target}",
        f"--plans={plans}",
        f"--wells={wells}",
        f"--seed={seed}",
    ]
    volumes = {name: getattr(recipe, name) for name in ("red_ul", "yellow_ul", "blue_ul", "water_ul")}
    return volumes, arguments
