"""A cell's state in words, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def overview_text(found: dict[str, Any]) -> Iterator[str]:
    """Lines for `{"id": …, "cell": …, "run": …, "alarms": …}`."""
    cell = found["cell"]
    if not cell["online"]:
        yield f"Cell {found['id']} is offline."
        return
    yield f"Cell    {found['id']}"
    reason = f" ({cell['reason']})" if cell["reason"] else ""
    yield f"State   {cell['state']}{reason}"
    yield from _run(found["run"])
    queue = cell["queue"]
    yield f"Queue   {', '.join(queue) if queue else 'empty'}"
    yield from _alarms(cell["alarms"], found["alarms"])
    yield "Devices"
    width = max((len(name) for name in cell["devices"]), default=0)
    for name, device in cell["devices"].items():
        said = device["reason"] or device["identity"]
        yield f"  {name:{width}}  {device['state']:12}  {device['driver']}{f', {said}' if said else ''}"


def _run(run: dict[str, Any] | None) -> Iterator[str]:
    if run is None:
        yield "Run     none"
        return
    left = f", {run['eta_s']:.0f} s left" if run["eta_s"] is not None else ""
    yield f"Run     {run['plan_id']}: {run['state']}, {steps_text(run['steps'])}{left}"
    if run["current"]:
        yield f"        now {', '.join(run['current'])}"
    for line in waiting_text(run):
        yield f"        {line}"


def _alarms(count: int, alarms: list[dict[str, Any]] | None) -> Iterator[str]:
    if not alarms:
        yield f"Alarms  {count or 'none'}"
        return
    yield f"Alarms  {count}"
    for alarm in alarms:
        yield f"  {alarm['severity']:8}  {alarm['source']}: {alarm['message']}"


def steps_text(steps: dict[str, int]) -> str:
    """`3 of 10 steps finished, 1 failed`."""
    rest = [
        f"{steps[key]} {key.replace('_', ' ')}" for key in ("failed", "skipped", "in_doubt") if steps[key]
    ]
    return ", ".join([f"{steps['finished']} of {steps['total']} steps finished", *rest])


def waiting_text(run: dict[str, Any]) -> Iterator[str]:
    """What a run waits for, and what to do about it."""
    for waiting in run["waiting_for"]:
        kind = waiting["kind"].replace("_", " ")
        yield f"waits for step {waiting['step']} ({kind}): {waiting['text']}"
        if waiting["kind"] in ("in_doubt", "failed"):
            yield (
                f"answer with: labedge resolve {run['plan_id']} {waiting['step']} --as "
                "finished|repeat|failed, then labedge unhold"
            )
