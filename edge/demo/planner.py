"""The reference planner: a process of its own that knows a target colour, a broker and a cell's id.

    python -m edge.demo.planner --url mqtt://127.0.0.1:1883 --cell demo --target 0.61,0.48,0.35

It designs a plan, pushes it over MQTT, reads the documents that come back, and designs the next from them.
What happens is told as lines of JSON on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge.client import CellClient, ClientError, plan, sentences
from edge.demo.colour import WAVELENGTHS_NM, Recipe, colour_distance
from edge.demo.optimiser import Batch, Optimiser, design_batch
from edge.demo.recipes import plate_wells, preparation, scanned_well, steps_of
from edge.errors import LabedgeError
from edge.link.messages import Document
from protocols.errors import WireError

ONLINE_S = 60.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the planner's output."""

    event: str
    """plan, step, well, held, result, done or error."""
    plan: int = 0
    plan_id: str = ""
    well: str = ""
    steps: int = 0
    commands: int = 0
    measured: int = 0
    """Wells measured so far, blanks and replicates included."""
    distance: float | None = None
    """Of what has just been measured."""
    best: float | None = None
    recipe: dict[str, int] | None = None
    seconds: float = 0.0
    text: str = ""


@dataclass
class Planner:
    """The loop: design, push, read, learn."""

    client: CellClient
    search: Optimiser
    plans: int
    wells_per_plan: int
    began: float = field(default_factory=time.monotonic)
    commands: int = 0
    measured: int = 0

    async def run(self) -> None:
        """Until all plans have run. Raises ClientError when one is rejected or does not end Complete."""
        await self.client.until_online(ONLINE_S)
        wells = plate_wells()
        for number in range(1, self.plans + 1):
            batch = design_batch(self.search, self.wells_per_plan)
            mine, wells = wells[: self.wells_per_plan], wells[self.wells_per_plan :]
            measured = await self._experiment(number, batch, mine)
            self.search.tell(*batch.corrected([measured[well] for well in mine]))
            self._tell("result", plan=number, **self._best())
        self._tell("done", plan=self.plans, **self._best())

    async def _experiment(self, number: int, batch: Batch, wells: Sequence[str]) -> dict[str, list[float]]:
        """Run one plan; raw absorbances by well."""
        steps = (preparation() if number == 1 else []) + steps_of(batch.recipes, wells)
        metadata = {"campaign": "colour-match", "recipes": _named(batch.recipes, wells)}
        job = plan(self.client.cell, steps, name=f"colour match {number}", metadata=metadata)
        plan_id = job["plan_id"]
        verdict = await self.client.submit(job)
        if verdict.verdict == "rejected":
            raise ClientError(f"The cell rejects plan {number}: {sentences(verdict.reasons)}")
        self._tell("plan", plan=number, plan_id=plan_id, steps=len(steps))
        following = asyncio.create_task(self._tell_waiting(plan_id))
        measured: dict[str, list[float]] = {}
        try:
            async for document in self.client.documents(plan_id):
                self._hear(document, number, measured)
        finally:
            following.cancel()
        return measured

    def _hear(self, document: Document, number: int, measured: dict[str, list[float]]) -> None:
        if document.name == "stop":
            if document.doc["exit_status"] != "success":
                raise ClientError(f"Plan {number} did not end Complete: {document.doc['reason']}")
            return
        if document.name != "event":
            return
        data = document.doc["data"]
        if (scan := scanned_well(data)) is not None:
            well, absorbances = scan
            measured[well] = absorbances
            self.measured += 1
            distance = float(colour_distance(absorbances, self.search.target))
            self._tell("well", plan=number, well=well, distance=distance)
        elif "attempts" in data:
            self.commands += data["attempts"]
            self._tell("step", plan=number, text=str(data["execution"]))

    async def _tell_waiting(self, plan_id: str) -> None:
        async for status in self.client.follow(plan_id):
            for waiting in status.waiting_for:
                self._tell("held", plan_id=plan_id, text=f"step {waiting.step}: {waiting.text}")

    def _best(self) -> dict[str, Any]:
        recipe, distance = self.search.best()
        return {"best": distance, "recipe": _volumes(recipe)}

    def _tell(self, event: str, **what: Any) -> None:
        told = Told(
            event=event,
            commands=self.commands,
            measured=self.measured,
            seconds=time.monotonic() - self.began,
            **what,
        )
        say(told)


def say(told: Told) -> None:
    """One line; whoever started the planner reads along."""
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    sys.stdout.flush()


def _volumes(recipe: Recipe) -> dict[str, int]:
    return {name: getattr(recipe, name) for name in ("red_ul", "yellow_ul", "blue_ul", "water_ul")}


def _named(recipes: Sequence[Recipe], wells: Sequence[str]) -> dict[str, dict[str, int]]:
    return {well: _volumes(recipe) for well, recipe in zip(wells, recipes, strict=True)}


async def match(url: str, cell: str, target: Sequence[float], budget: tuple[int, int, int]) -> None:
    """Match a target colour (AU at `WAVELENGTHS_NM`); `budget` is plans, wells in each, and the seed."""
    plans, wells, seed = budget
    async with CellClient(url, cell, by="reference planner") as client:
        await Planner(client, Optimiser(target, seed=seed), plans, wells).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """The planner's process."""
    parser = argparse.ArgumentParser(prog="python -m edge.demo.planner", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--cell", required=True)
    names = ", ".join(f"A{nm}" for nm in WAVELENGTHS_NM)
    parser.add_argument("--target", required=True, type=_target, help=f"{names} in AU")
    parser.add_argument("--plans", type=int, default=6)
    parser.add_argument("--wells", type=int, default=8, help="in each plan")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        asyncio.run(match(given.url, given.cell, given.target, (given.plans, given.wells, given.seed)))
    except (LabedgeError, WireError, ValueError) as error:
        say(Told(event="error", text=str(error)))
        return 1
    return 0


def _target(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if len(values) != len(WAVELENGTHS_NM):
        raise argparse.ArgumentTypeError(f"one absorbance for each of {WAVELENGTHS_NM} nm")
    return values


if __name__ == "__main__":
    sys.exit(main())
