"""Commands on the command line against a scripted daemon (local socket) and a scripted cell (MQTT)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from drivers.api import Outcome
from edge.broker import EmbeddedBroker
from edge.cli import main
from edge.cli.commands import ORDERS
from edge.client import plan, step
from edge.errors import LabedgeError
from edge.link.local import serve
from edge.link.localclient import answers
from edge.link.messages import Command, Reason, Reply
from edge.store.database import Database
from edge.store.journal import Journal, OutcomeRecord, StepRecord
from firmware_sim.pytest_plugin import RunningBench
from tests.edge.fake_cell import CELL_STATUS, FakeCell

RUN = {
    "plan_id": "p1",
    "run_uid": "u1",
    "state": "Held",
    "steps": {"total": 3, "finished": 1, "failed": 0, "skipped": 0, "in_doubt": 1},
    "current": ["draw"],
    "waiting_for": [{"step": "draw", "kind": "in_doubt", "text": "nobody knows"}],
    "eta_s": 12.4,
    "reason": "",
    "updated_at": "2026-01-01T00:00:00Z",
}
ALARM = {
    "id": "run-held",
    "severity": "high",
    "source": "run",
    "message": "step draw is in doubt",
    "state": "unacknowledged",
    "at": "2026-01-01T00:00:00Z",
}
OVERVIEW = {
    "cell": CELL_STATUS | {"state": "Held", "run": "p1", "queue": ["p2"], "alarms": 1},
    "run": RUN,
    "alarms": [ALARM],
}


async def labedge(*arguments: str) -> Result:
    """The command in a thread of its own, as it makes its own event loop."""
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


class Desk:
    """Answers every command alike."""

    def __init__(self, *replies: str, why: str = "") -> None:
        self.replies = replies
        self.reasons = [Reason("", why)] if why else []
        self.taken: list[Command] = []

    def take(self, command: Command, answer: Callable[[Reply], None], *, local: bool) -> None:
        self.taken.append(command)
        for result in self.replies:
            answer(Reply(command.id, result, self.reasons))  # type: ignore[arg-type]  # the test's own words


def _query(name: str) -> bytes:
    runs = [
        {
            "plan_id": "p1",
            "run_uid": "u1",
            "state": "Held",
            "reason": "why",
            "changed_at": "2026-01-01T00:00:00Z",
        }
    ]
    known: dict[str, Any] = {"status": OVERVIEW, "runs": {"runs": runs}}
    if name not in known:
        raise LabedgeError(f"there is no query `{name}`")
    return json.dumps(known[name]).encode()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("LABEDGE_CELL", raising=False)


@contextlib.asynccontextmanager
async def daemon(state_dir: Path, desk: Desk) -> AsyncIterator[Desk]:
    task = asyncio.create_task(serve(state_dir, "bench-1", desk, _query))
    while not await answers(state_dir / "control.sock"):
        assert not task.done()
        await asyncio.sleep(0)
    try:
        yield desk
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def cell(embedded: EmbeddedBroker) -> AsyncIterator[FakeCell]:
    async with FakeCell(f"mqtt://{embedded.host}:{embedded.port}").running() as running:
        yield running


def _mqtt(embedded: EmbeddedBroker) -> list[str]:
    return ["--url", f"mqtt://{embedded.host}:{embedded.port}", "--cell", "bench-1"]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.name)
async def test_every_command_has_help_with_an_example_that_works(order: Any, tmp_path: Path) -> None:
    shown = await labedge(order.name, "--help")
    assert shown.exit_code == 0
    assert "Example: labedge" in shown.output
    words = order.example.removeprefix("labedge ").split()
    async with daemon(tmp_path / "state", Desk("accepted", "done")) as desk:
        done = await labedge(*words)
    assert (done.exit_code, done.output) == (0, f"{order.name}: done.\n")
    assert [command.command for command in desk.taken] == [order.name]


async def test_a_command_says_who_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    async with daemon(tmp_path / "state", Desk("accepted", "done")) as desk:
        await labedge("resolve", "p1", "draw", "--as", "repeat")
    [command] = desk.taken
    assert command.by.startswith("ada@")
    assert command.args == {"plan_id": "p1", "step": "draw", "as": "repeat"}


async def test_a_refusal_is_a_sentence_and_exit_code_1(tmp_path: Path) -> None:
    async with daemon(tmp_path / "state", Desk("refused", why="hold has no meaning now")):
        refused = await labedge("hold")
        as_json = await labedge("hold", "--json")
    assert refused.exit_code == as_json.exit_code == 1
    assert refused.stderr == "hold refused: hold has no meaning now.\n"
    assert json.loads(as_json.stdout)["reasons"] == [{"path": "", "message": "hold has no meaning now"}]


async def test_a_command_that_never_ends_is_given_up(tmp_path: Path) -> None:
    async with daemon(tmp_path / "state", Desk("accepted")):
        waiting = await labedge("hold", "--timeout", "0.2")
    assert waiting.exit_code == 1
    assert "not come to an end within 0.2 s" in waiting.stderr


async def test_without_a_daemon_it_says_what_to_do() -> None:
    alone = await labedge("abort")
    assert alone.exit_code == 1
    assert "labedge run CELL.yaml" in alone.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["resolve", "p1", "draw"],
        ["resolve", "p1", "draw", "--as", "maybe"],
        ["replay", "p1", "--from-seq", "-1"],
        ["cancel"],
        ["hold", "--username", "x"],
        ["hold", "--url", "mqtt://127.0.0.1:1", "--cell", "cell.yaml"],
        ["plan", "submit", __file__],
        ["plan", "simulate", "plan.json"],
    ],
)
async def test_bad_usage_is_exit_code_2(wrong: list[str]) -> None:
    found = await labedge(*wrong)
    assert found.exit_code == 2, found.output
    assert found.stderr


async def test_commands_go_over_mqtt_too(embedded: EmbeddedBroker, cell: FakeCell) -> None:
    done = await labedge("replay", "p1", "--from-seq", "3", *_mqtt(embedded))
    assert (done.exit_code, done.output) == (0, "replay: done.\n")
    assert cell.commands[0]["args"] == {"plan_id": "p1", "from_seq": 3}


async def test_status_names_what_a_person_has_to_know(tmp_path: Path) -> None:
    async with daemon(tmp_path / "state", Desk()):
        shown = await labedge("status")
        as_json = await labedge("status", "--json")
    assert json.loads(as_json.output) == {"id": "bench-1"} | OVERVIEW
    for words in (
        "Cell    bench-1",
        "State   Held",
        "p1: Held, 1 of 3 steps finished, 1 in doubt, 12 s left",
        "waits for step draw (in doubt): nobody knows",
        "labedge resolve p1 draw --as",
        "Queue   p2",
        "run: step draw is in doubt",
        "red  ready         cavro-xcalibur, SN 1",
    ):
        assert words in shown.output


async def test_status_over_mqtt(embedded: EmbeddedBroker, cell: FakeCell) -> None:
    await cell.say("cell/status", {"online": False}, retain=True)
    assert "Cell bench-1 is offline" in (await labedge("status", *_mqtt(embedded))).output
    await cell.run_status("p1", "Execute")
    await cell.say("cell/status", CELL_STATUS | {"state": "Execute", "run": "p1"}, retain=True)
    shown = await labedge("status", *_mqtt(embedded))
    assert "p1: Execute, 0 of 2 steps finished" in shown.output


async def _journal(state_dir: Path) -> str:
    database = Database(state_dir)
    database.open()
    journal = Journal(database)
    job = plan("bench-1", [step("draw", "red", "aspirate"), step("drop", "red", "dispense")])
    journal.accept(job["plan_id"], "u1", "sha", json.dumps(job).encode(), 0)
    journal.record(job["plan_id"], OutcomeRecord(1, "draw", Outcome("finished")))
    journal.record(job["plan_id"], StepRecord("draw", "finished", {"volume_ul": 5.0}))
    journal.record(job["plan_id"], StepRecord("drop", "in_doubt", reason="lost"))
    journal.set_run(job["plan_id"], "Held", "step drop is in doubt")
    await database.close()
    return str(job["plan_id"])


async def test_a_broker_that_is_away_is_named_once() -> None:
    found = await labedge("hold", "--url", "mqtt://127.0.0.1:1", "--cell", "bench-1", "--timeout", "1")
    assert found.exit_code == 1
    assert found.stderr.count("127.0.0.1:1") == 1


async def test_runs_are_read_from_the_journal_without_a_daemon(tmp_path: Path) -> None:
    plan_id = await _journal(tmp_path / "state")
    file = tmp_path / "cell.yaml"
    file.write_text("cell: bench-1\n")
    listed = await labedge("runs", "--cell", str(file))
    assert f"{plan_id}  Held: step drop is in doubt" in listed.output
    shown = await labedge("runs", plan_id, "--cell", str(file), "--json")
    draw, drop = json.loads(shown.output)["steps"]
    assert (draw["state"], draw["attempts"], draw["result"]) == ("finished", 1, {"volume_ul": 5.0})
    assert (drop["state"], drop["reason"]) == ("in_doubt", "lost")
    text = (await labedge("runs", plan_id, "--cell", str(file))).output
    assert "1 of 2 steps finished, 1 in doubt" in text
    missing = await labedge("runs", "p0", "--cell", str(file))
    assert (missing.exit_code, missing.stderr) == (1, "There is no run p0; `labedge runs` lists them.\n")


async def test_runs_come_from_the_daemon_where_there_is_one(tmp_path: Path) -> None:
    async with daemon(tmp_path / "state", Desk()):
        listed = await labedge("runs")
    assert listed.output == "2026-01-01 00:00:00  p1  Held: why\n"


async def test_runs_of_a_cell_that_never_ran(tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text("cell: bench-1\n")
    found = await labedge("runs", "--cell", str(file))
    assert found.exit_code == 1
    assert "nothing has run there yet" in found.stderr


CELL = """\
cell: bench-1
state_dir: ./state
mqtt: {{url: "mqtt://127.0.0.1:1883"}}
devices:
  red: {{driver: cavro-xcalibur, port: {red}, syringe_ul: 1000, ports: {{1: stock/A1, 2: waste/A1}}}}
  scale: {{driver: mt-sics, port: {scale}}}
positions: {{left: {{}}, right: {{}}}}
labware:
  stock: {{type: trough-1, at: left, contents: {{A1: {{water: 5000}}}}}}
  waste: {{type: trough-1, at: right}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """A plan and a cell file on disk."""

    def write(*steps: dict[str, Any]) -> tuple[str, str]:
        (tmp_path / "cell.yaml").write_text(CELL.format(red="/dev/null", scale="/dev/zero"))
        (tmp_path / "plan.json").write_text(json.dumps(plan("bench-1", steps)))
        return str(tmp_path / "plan.json"), str(tmp_path / "cell.yaml")

    return write


async def test_a_plan_in_order_is_told_with_its_time(files: Callable[..., tuple[str, str]]) -> None:
    file, cell_file = files(
        step("prime", "red", "initialize"),
        step("draw", "red", "aspirate", source="stock/A1", volume_ul=500),
        step("weigh", "scale", "weigh"),
    )
    good = await labedge("plan", "check", file, "--cell", cell_file)
    assert good.exit_code == 0, good.output
    assert "in order, 3 steps, about" in good.output
    as_json = json.loads((await labedge("plan", "check", file, "--cell", cell_file, "--json")).output)
    assert as_json["ok"] is True
    assert as_json["estimate_s"] > 2


async def test_a_time_that_depends_on_results_is_not_guessed(files: Callable[..., tuple[str, str]]) -> None:
    file, cell_file = files(
        step("weigh", "scale", "weigh"),
        step("draw", "red", "aspirate", source="stock/A1", volume_ul={"$": "weigh.mass_g"}),
    )
    good = await labedge("plan", "check", file, "--cell", cell_file)
    assert good.output.endswith("in order, 2 steps.\n")


async def test_every_reason_against_a_plan_has_its_path(files: Callable[..., tuple[str, str]]) -> None:
    file, cell_file = files(
        step("draw", "red", "aspirate", source="stock/A1", volume_ul=900000),
        step("weigh", "scales", "weigh"),
    )
    bad = await labedge("plan", "check", file, "--cell", cell_file)
    assert bad.exit_code == 1
    assert "steps[0].args.volume_ul: " in bad.output
    assert "steps[1].device: there is no device `scales`; did you mean `scale`?" in bad.output
    _overwrite(file, "[1]")
    unreadable = json.loads((await labedge("plan", "check", file, "--cell", cell_file, "--json")).output)
    assert unreadable["reasons"] == [{"path": "", "message": "the plan is not a JSON object"}]


def _overwrite(file: str, text: str) -> None:
    Path(file).write_text(text)


async def test_submit_prints_the_verdict(
    embedded: EmbeddedBroker, cell: FakeCell, files: Callable[..., tuple[str, str]]
) -> None:
    file, _ = files(step("weigh", "scale", "weigh"))
    taken = await labedge("plan", "submit", file, *_mqtt(embedded))
    assert taken.exit_code == 0
    assert taken.output.endswith(": accepted.\n")
    assert [json.loads(payload)["steps"][0]["id"] for payload in cell.plans] == ["weigh"]
    cell.on_plan = lambda cell, plan: cell.verdict(
        plan["plan_id"], "rejected", {"path": "steps[0]", "message": "no"}
    )
    rejected = await labedge("plan", "submit", file, *_mqtt(embedded), "--watch")
    assert (rejected.exit_code, rejected.stderr) == (1, "steps[0]: no\n")


@pytest.mark.parametrize(("end", "code"), [("Complete", 0), ("Stopped", 1), ("Aborted", 1)])
async def test_watch_follows_to_the_end(
    embedded: EmbeddedBroker, cell: FakeCell, files: Callable[..., tuple[str, str]], end: str, code: int
) -> None:
    file, _ = files(step("draw", "red", "aspirate"))

    async def run(cell: FakeCell, job: dict[str, Any]) -> None:
        plan_id = job["plan_id"]
        await cell.verdict(plan_id, "duplicate")
        await cell.run_status(plan_id, "Held", waiting_for=RUN["waiting_for"])
        await asyncio.sleep(0.2)  # a status that is overtaken before it is read is left out
        await cell.run_status(plan_id, end, reason="so it was")

    cell.on_plan = run
    watched = await labedge("plan", "submit", file, *_mqtt(embedded), "--watch")
    assert watched.exit_code == code, watched.output
    lines = watched.output.splitlines()
    assert lines[0].endswith(": duplicate.")
    assert "waits for step draw (in doubt): nobody knows" in watched.output
    assert lines[-1] == f"{end}, 0 of 2 steps finished: so it was"
    as_json = await labedge("plan", "submit", file, *_mqtt(embedded), "--watch", "--json")
    told = [json.loads(line) for line in as_json.output.splitlines()]
    assert told[0]["verdict"] == "duplicate"
    assert told[-1]["state"] == end


BENCH: dict[str, Any] = {
    "speed": 0.2,
    "instruments": {
        "red": {
            "model": "cavro-xcalibur",
            "link": "pty",
            "syringe_ul": 1000,
            "ports": {1: "stock/A1", 2: "waste/A1"},
        },
        "scale": {"model": "mt-sics", "link": "pty", "weighs": "waste"},
    },
    "positions": {"left": {}, "right": {}},
    "labware": {
        "stock": {"type": "trough-1", "at": "left", "contents": {"A1": {"water": 5000}}},
        "waste": {"type": "trough-1", "at": "right"},
    },
}


def _plunger(bench: RunningBench) -> dict[str, Any]:
    return dict(bench.world()["instruments"]["red"])


@pytest.mark.bench(BENCH)
async def test_stop_all_stops_a_pump_that_moves(bench: RunningBench, tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(CELL.format(**bench.addresses))
    line = os.open(bench.addresses["red"], os.O_RDWR | os.O_NOCTTY)
    os.write(line, b"/1ZR\r")
    os.close(line)
    assert _plunger(bench)["busy"] is True
    stopped = await labedge("stop-all", str(file))
    assert stopped.exit_code == 0, stopped.output
    assert "red: stopped, and confirmed." in stopped.output
    assert "scale: stopped, and confirmed." in stopped.output
    assert _plunger(bench)["busy"] is False


@pytest.mark.bench(BENCH)
async def test_stop_all_says_which_device_it_could_not_stop(bench: RunningBench, tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(CELL.format(red=tmp_path / "unplugged", scale=bench.addresses["scale"]))
    stopped = await labedge("stop-all", str(file), "--json")
    assert stopped.exit_code == 1
    found = {one["device"]: one for one in json.loads(stopped.output)["devices"]}
    assert found["red"]["ok"] is False
    assert "unplugged" in found["red"]["text"]
    assert found["scale"]["ok"] is True


async def test_stop_all_lets_a_running_daemon_abort(tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(CELL.format(red="/dev/null", scale="/dev/zero"))
    async with daemon(tmp_path / "state", Desk("accepted", "done")) as desk:
        stopped = await labedge("stop-all", str(file))
    assert stopped.exit_code == 0, stopped.output
    assert [command.command for command in desk.taken] == ["abort"]
    assert "The daemon runs and has aborted" in stopped.output
    assert "red: the daemon has seen it stand still." in stopped.output
