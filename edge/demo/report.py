"""What the demo says while it runs and at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge.demo.planner import Told

Show = Callable[[Told], None]


def sentence(told: Told, plans: int) -> str | None:
    """What is worth a line of its own; None for small progress."""
    if told.event == "plan":
        return f"Plan {told.plan} of {plans}: {told.steps} steps, pushed over MQTT as {told.plan_id}."
    if told.event == "result" and told.best is not None:
        return (
            f"Plan {told.plan} of {plans}: {told.measured} wells measured; best colour distance "
            f"{told.best:.2f} ({recipe_text(told.recipe)})."
        )
    if told.event == "held":
        return f"The run is held: {told.text}"
    return None


def recipe_text(recipe: dict[str, int] | None) -> str:
    """`red 12, yellow 30, blue 0, water 158 µl`."""
    return ", ".join(f"{name.removesuffix('_ul')} {ul}" for name, ul in (recipe or {}).items()) + " µl"


@contextlib.contextmanager
def lines(say: Callable[[str], None], plans: int) -> Iterator[Show]:
    """Plain lines, for pipes and log files."""

    def show(told: Told) -> None:
        if (text := sentence(told, plans)) is not None:
            say(text)

    yield show


@contextlib.contextmanager
def live(plans: int, wells: int) -> Iterator[Show]:
    """A live bar over the lines, for a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("wells"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[now]}")) as progress:
        task = progress.add_task("starting", total=plans * wells, now="")
        best = ""

        def show(told: Told) -> None:
            nonlocal best
            if (text := sentence(told, plans)) is not None:
                progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
            if told.best is not None:
                best = f", best {told.best:.2f}"
            now = f"{told.commands} commands; {told.text or told.well}"
            description = f"plan {told.plan}/{plans}{best}" if told.plan else "starting"
            progress.update(task, completed=told.measured, description=description, now=now)

        yield show


def result(last: Told, folder: Path, hidden: dict[str, int]) -> dict[str, Any]:
    """The demo's end as data."""
    return {
        "experiments": last.measured,
        "plans": last.plan,
        "best_distance": last.best,
        "best_recipe": last.recipe,
        "hidden_recipe": hidden,
        "commands": last.commands,
        "without_humans_s": round(last.seconds, 1),
        "data": str(folder),
    }


def summary(found: dict[str, Any]) -> Iterator[str]:
    """The demo's end in words."""
    minutes, seconds = divmod(round(found["without_humans_s"]), 60)
    plans = found["plans"]
    wells = f"{found['experiments']} wells in {plans} plan{'s' if plans != 1 else ''}"
    best = f"{found['best_distance']:.2f} (mean over the wells of the best recipe; about 2 is just visible)"
    yield f"Experiments            {wells}, each designed from the results before it"
    yield f"Best colour distance   {best} with {recipe_text(found['best_recipe'])}"
    yield f"The hidden recipe was  {recipe_text(found['hidden_recipe'])}"
    yield f"Commands sent          {found['commands']}"
    yield f"Time without humans    {minutes} min {seconds:02d} s"
    yield f"Run data               {found['data']} (labedge runs --cell {found['data']}/cell.yaml)"


def kept(folder: Path, url: str, pid: int) -> Iterator[str]:
    """How to talk to a demo that is left running, and how to end it."""
    cell = folder / "cell.yaml"
    yield "Bench, broker and daemon stay up. In another terminal:"
    yield f"  labedge status --cell {cell}"
    yield f"  labedge plan submit PLAN.json --url {url} --cell demo --watch"
    yield f"  labedge abort --cell {cell}"
    yield f"  firmware-sim world --bench {folder / 'bench.yaml'}"
    yield f"To end them: Ctrl-C here, or kill {pid}"
