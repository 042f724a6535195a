"""`labedge demo` as a user starts it: to its end, and ended at any moment without leaving anything behind."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import main
from edge.demo import report
from edge.demo.planner import Told

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("iotcore") is None, reason="the embedded broker needs the demo extra"
)
END_S = 60.0
GONE_S = 10.0


class Started:
    """A demo process, and every process that carries its mark in the environment."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.mark = f"labedge-test-{uuid.uuid4().hex}"
        runtime = folder / "run"
        runtime.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge", "demo", *arguments],
            env={**os.environ, "MARK": self.mark, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(runtime)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def alive(self) -> list[str]:
        """Command lines of what still runs."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + END_S
        while not condition():
            assert time.monotonic() < deadline, self.alive()
            time.sleep(0.01)

    def gone(self) -> list[str]:
        """What still runs when everything has had its time to end."""
        deadline = time.monotonic() + GONE_S
        while (left := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def runs(self, part: str) -> bool:
        return any(part in line for line in self.alive())


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start(*arguments: str) -> Started:
        started.append(Started(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def test_it_ends_by_itself_with_a_report(demo: Callable[..., Started], tmp_path: Path) -> None:
    running = demo("--plans", "2", "--wells", "4", "--seed", "4", "--json")
    output, _ = running.process.communicate(timeout=2 * END_S)
    assert running.process.returncode == 0, output
    assert running.gone() == []
    found = json.loads(output)
    assert (found["experiments"], found["plans"]) == (8, 2)
    folder = Path(found["data"])
    assert folder.parent == tmp_path
    first, second = _recipes(folder)
    assert set(first) == {"A1", "A2", "A3", "A4"}
    assert set(second) == {"A5", "A6", "A7", "A8"}
    recipes = [tuple(recipe.values()) for recipe in (*first.values(), *second.values())]
    assert tuple(found["best_recipe"].values()) in recipes
    assert len(set(recipes)) >= 5, "the second plan tries what the first has not"
    assert _poured(folder) == pytest.approx(
        {well: sum(recipe.values()) for well, recipe in (first | second).items()}, abs=0.5
    )
    assert found["commands"] > 8


def _recipes(folder: Path) -> list[dict[str, dict[str, int]]]:
    """Well -> recipe of each plan, in order, from the start documents."""
    with sqlite3.connect(folder / "state" / "journal.db") as journal:
        rows = journal.execute(
            "SELECT documents.payload FROM documents JOIN runs USING (plan_id) "
            "WHERE seq = 0 AND state = 'Complete' ORDER BY arrival"
        ).fetchall()
    return [json.loads(payload)["doc"]["metadata"]["recipes"] for (payload,) in rows]


def _poured(folder: Path) -> dict[str, float]:
    """Well -> µl that the bench's pumps have really dispensed into it."""
    poured: dict[str, float] = {}
    for line in (folder / "bench.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "action" and entry["what"] == "dispense":
            well = entry["place"].removeprefix("plate-1/")
            poured[well] = poured.get(well, 0.0) + entry["amount_ul"]
    return poured


MOMENTS: dict[str, Callable[[Started], bool]] = {
    "at once": lambda demo: demo.runs("firmware_sim"),
    "before the bench is ready": lambda demo: demo.runs("edge.broker"),
    "with the daemon": lambda demo: demo.runs("edge run"),
    "with the planner": lambda demo: demo.runs("edge.demo.planner"),
}


CASES = [
    *((moment, signal.SIGINT) for moment in MOMENTS),
    ("before the bench is ready", signal.SIGTERM),
    ("before the bench is ready", signal.SIGKILL),
    ("with the planner", signal.SIGKILL),
]


@pytest.mark.parametrize(("moment", "number"), CASES)
def test_it_leaves_nothing_behind(demo: Callable[..., Started], moment: str, number: signal.Signals) -> None:
    running = demo("--plans", "1")
    running.wait_for(lambda: MOMENTS[moment](running))
    if number is signal.SIGINT:
        os.killpg(running.process.pid, number)
    else:
        running.process.send_signal(number)
    output, _ = running.process.communicate(timeout=END_S)
    assert running.process.returncode == (-9 if number is signal.SIGKILL else 0), output
    assert b"Traceback" not in output or number is signal.SIGKILL
    assert running.gone() == []


def test_it_is_ended_in_the_middle_of_a_run(demo: Callable[..., Started], tmp_path: Path) -> None:
    running = demo("--plans", "1")
    running.wait_for(lambda: _dispensed(tmp_path))
    running.process.send_signal(signal.SIGTERM)
    output, _ = running.process.communicate(timeout=END_S)
    assert running.process.returncode == 0, output
    assert running.gone() == []
    [folder] = tmp_path.glob("labedge-demo-*")
    with sqlite3.connect(folder / "state" / "journal.db") as journal:
        [(state,)] = journal.execute("SELECT state FROM runs").fetchall()
    assert state == "Held"


def _dispensed(folder: Path) -> bool:
    return any(b'"dispense"' in log.read_bytes() for log in folder.glob("labedge-demo-*/bench.jsonl"))


def test_a_daemon_that_dies_ends_the_demo_with_a_sentence(demo: Callable[..., Started]) -> None:
    running = demo("--plans", "1")
    running.wait_for(lambda: running.runs("edge.demo.planner"))
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = running.mark.encode() in (folder / "environ").read_bytes()
            daemon = b"edge\0run" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if ours and daemon:
            os.kill(int(folder.name), signal.SIGKILL)
    output, _ = running.process.communicate(timeout=END_S)
    assert running.process.returncode == 1
    assert b"The daemon ended too early" in output
    assert running.gone() == []


def test_keep_leaves_it_running_until_it_is_told(demo: Callable[..., Started], tmp_path: Path) -> None:
    running = demo("--plans", "1", "--wells", "3", "--keep")
    assert running.process.stdout is not None
    lines = []
    for line in running.process.stdout:
        lines.append(line.decode())
        if "To end them" in lines[-1]:
            break
    assert any("labedge status --cell" in line for line in lines)
    [folder] = tmp_path.glob("labedge-demo-*")
    status = subprocess.run(
        [sys.executable, "-m", "edge", "status", "--json", "--cell", str(folder / "cell.yaml")],
        capture_output=True,
        check=True,
    )
    assert json.loads(status.stdout)["cell"]["state"] in ("Idle", "Complete", "Resetting")
    running.process.send_signal(signal.SIGTERM)
    running.process.communicate(timeout=END_S)
    assert running.gone() == []


LAST = Told(
    event="done",
    plan=2,
    commands=107,
    measured=16,
    best=1.234,
    recipe={"red_ul": 10, "yellow_ul": 20, "blue_ul": 30, "water_ul": 140},
    seconds=65.2,
)


def test_the_report_names_what_counts() -> None:
    found = report.result(
        LAST, Path("/data"), {"red_ul": 11, "yellow_ul": 20, "blue_ul": 30, "water_ul": 139}
    )
    text = "\n".join(report.summary(found))
    for words in (
        "16 wells in 2 plans",
        "1.23",
        "red 10, yellow 20, blue 30, water 140 µl",
        "red 11, yellow 20, blue 30, water 139 µl",
        "107",
        "1 min 05 s",
        "/data",
    ):
        assert words in text


def test_plain_lines_tell_plans_results_and_holds() -> None:
    said: list[str] = []
    with report.lines(said.append, 2) as show:
        for event in ("plan", "step", "well", "result", "held"):
            show(
                Told(event=event, plan=1, plan_id="p1", steps=5, measured=8, best=3.0, text="step draw: lost")
            )
    assert len(said) == 3
    assert said[0].startswith("Plan 1 of 2: 5 steps")
    assert "best colour distance 3.00" in said[1]
    assert said[2] == "The run is held: step draw: lost"


def test_the_live_bar_takes_every_event() -> None:
    with report.live(2, 8) as show:
        for event in ("plan", "step", "well", "result", "held", "done"):
            show(Told(event=event, plan=1, best=2.0, recipe=LAST.recipe, measured=3))


def test_more_wells_than_a_plate_has_are_bad_usage() -> None:
    found = CliRunner().invoke(main, ["demo", "--plans", "13"])
    assert found.exit_code == 2
    assert "do not fit on a plate of 96" in found.stderr
