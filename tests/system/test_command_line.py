"""The command line as a technician types it, against real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.brokers import Mosquitto, MosquittoFactory, free_port
from tests.system.kit import RunningCell, moved, plan_of, wait_for
from tests.system.rig import (
    LOOK,
    PRIME,
    BenchPlace,
    bench_in,
    daemon,
    draw,
    drop,
    full_bench,
    full_cell,
    red_cell,
    shared,
    to_idle,
)

Done = subprocess.CompletedProcess[str]
AWFUL = Path(__file__).parents[1] / "edge" / "data" / "awful.yaml"


def labedge(*words: str, home: Path, **environment: str) -> Done:
    """A process of its own, that finds no daemon but those of this home."""
    return subprocess.run(
        [sys.executable, "-m", "edge", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
        env=os.environ | {"XDG_RUNTIME_DIR": str(home), "PYTHONPATH": os.getcwd()} | environment,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def place(home: Path) -> Iterator[BenchPlace]:
    with bench_in(home / "bench") as place:
        yield place


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def everyones(place: BenchPlace, broker: Mosquitto, home: Path) -> Iterator[RunningCell]:
    cell = RunningCell(home, red_cell(place.bench, broker), broker.port)
    cell.start()
    yield cell
    cell.stop()


@pytest.fixture
async def cell(everyones: RunningCell) -> AsyncIterator[RunningCell]:
    async with shared(everyones).connected() as cell:
        await cell.until(lambda: cell.of("cell/status")[-1:] and cell.of("cell/status")[-1]["online"])
        await to_idle(cell)
        yield cell
        await to_idle(cell)


def paper(cell: RunningCell, *steps: dict[str, Any], **more: Any) -> tuple[str, str]:
    """(plan id, file) of a plan on paper."""
    plan = plan_of(cell.id, *steps, **more)
    file = cell.directory / f"{plan['plan_id']}.json"
    file.write_text(json.dumps(plan))
    return plan["plan_id"], str(file)


def over_mqtt(cell: RunningCell) -> tuple[str, ...]:
    return ("--url", str(cell.cell["mqtt"]["url"]), "--cell", cell.id)


async def typed(cell: RunningCell, *words: str) -> Done:
    """Typed at the bench, while messages go on coming in."""
    return await asyncio.to_thread(cell.cli, *words)


async def test_a_plan_is_checked_submitted_watched_and_looked_up(
    cell: RunningCell, place: BenchPlace
) -> None:
    before = len(moved(place.bench, "red"))
    plan_id, file = paper(cell, PRIME, draw(20), drop(20), LOOK)
    checked = await typed(cell, "plan", "check", file, "--cell", str(cell.file))
    assert checked.returncode == 0, checked.stderr
    assert "in order, 4 steps" in checked.stdout
    watched = await typed(cell, "plan", "submit", file, *over_mqtt(cell), "--watch")
    assert watched.returncode == 0, watched.stderr
    assert "accepted" in watched.stdout
    assert "Complete, 4 of 4 steps finished" in watched.stdout
    assert len(moved(place.bench, "red")) == before + 2
    again = await typed(cell, "plan", "submit", file, *over_mqtt(cell), "--watch")
    assert again.returncode == 0
    assert "duplicate" in again.stdout
    assert len(moved(place.bench, "red")) == before + 2
    listed = await typed(cell, "runs")
    assert f"{plan_id}  Complete" in listed.stdout
    shown = await typed(cell, "runs", plan_id)
    assert [line.split()[:2] for line in shown.stdout.splitlines()[2:]] == [
        [name, "finished"] for name in ("prime", "draw", "drop", "look")
    ]
    replayed = await typed(cell, "replay", plan_id, "--from-seq", "2")
    assert replayed.returncode == 0, replayed.stderr
    unknown = await typed(cell, "runs", "never-was")
    assert unknown.returncode == 1
    assert "never-was" in unknown.stderr


async def test_a_rejected_plan_is_exit_1_with_every_reason(cell: RunningCell) -> None:
    _, file = paper(cell, PRIME, draw(99_000), drop(20) | {"device": "rde"})
    for words in (("check", file, "--cell", str(cell.file)), ("submit", file, *over_mqtt(cell), "--watch")):
        done = await typed(cell, "plan", *words)
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert "steps[1].args.volume_ul" in said
        assert "did you mean `red`" in said
        assert "Traceback" not in said


async def test_watching_a_run_that_is_stopped_is_exit_1(cell: RunningCell) -> None:
    plan_id, file = paper(cell, PRIME, draw(100, "one", speed_ul_s=10), draw(100, "two", speed_ul_s=10))
    watching = asyncio.create_task(typed(cell, "plan", "submit", file, *over_mqtt(cell), "--watch"))
    await cell.run_state(plan_id, "Execute")
    stopped = await typed(cell, "stop")
    assert stopped.returncode == 0, stopped.stderr
    watched = await watching
    assert watched.returncode == 1
    assert "Stopped" in watched.stdout


async def test_every_command_of_a_run_at_the_bench(cell: RunningCell) -> None:
    plan_id, file = paper(cell, PRIME, *(draw(200, f"draw{n}", speed_ul_s=2) for n in range(4)))
    queued_id, queued = paper(cell, PRIME)
    for each in (file, queued):
        assert (await typed(cell, "plan", "submit", each, *over_mqtt(cell))).returncode == 0
    await cell.run_state(plan_id, "Execute")
    for words, state in ((("hold",), "Held"), (("unhold",), "Execute")):
        done = await typed(cell, *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{words[0]}: done.\n"
        assert state in (await typed(cell, "status")).stdout
    assert (await typed(cell, "cancel", queued_id)).returncode == 0
    assert (await typed(cell, "abort")).returncode == 0
    status = json.loads((await typed(cell, "status", "--json")).stdout)
    assert status["cell"]["state"] == "Aborted"
    early = await typed(cell, "reset")
    assert early.returncode == 1
    assert "Aborted" in early.stderr
    remote = await typed(cell, "clear", *over_mqtt(cell))
    assert remote.returncode == 1
    assert "bench" in remote.stderr
    for words in (("clear",), ("reset",)):
        done = await typed(cell, *words)
        assert done.returncode == 0, done.stderr
    assert "State   Idle" in (await typed(cell, "status", *over_mqtt(cell))).stdout
    refused: list[tuple[str, ...]] = [("unhold",), ("start",), ("cancel", plan_id)]
    for refusing in [*refused, ("resolve", plan_id, "draw0", "--as", "repeat")]:
        wrong = await typed(cell, *refusing)
        assert wrong.returncode == 1, refusing
        assert wrong.stderr.startswith(f"{refusing[0]} refused: ")


async def test_check_with_connect(mosquitto: MosquittoFactory, tmp_path: Path, cell: RunningCell) -> None:
    with bench_in(tmp_path / "bench", full_bench()) as place:
        file = tmp_path / "cell.yaml"
        description = full_cell(place.bench.addresses, "mqtt://127.0.0.1")
        file.write_text(yaml.safe_dump(description))
        good = labedge("check", str(file), "--connect", home=tmp_path)
        assert good.returncode == 0, good.stdout
        assert "arm: Universal Robots" in good.stdout
        assert good.stdout.count("SN ") >= 8
        description["devices"]["red"]["identity"] = "SN 4711"
        description["devices"]["yellow"]["address"] = 9
        file.write_text(yaml.safe_dump(description))
        bad = labedge("check", str(file), "--connect", "--json", home=tmp_path)
        assert bad.returncode == 1
        found = json.loads(bad.stdout)["devices"]
        assert "SN 4711" in found["red"]["text"]
        assert not found["yellow"]["ok"]
        assert found["blue"]["ok"]
        assert place.bench.lines("action") == []
    busy = await typed(cell, "check", str(cell.file), "--connect")
    assert busy.returncode == 1
    assert "in use by another program" in busy.stdout


def test_check_of_good_and_awful_files(everyones: RunningCell, tmp_path: Path) -> None:
    good = labedge("check", str(everyones.file), home=tmp_path)
    assert good.returncode == 0, good.stdout
    awful = labedge("check", str(AWFUL), home=tmp_path)
    assert awful.returncode == 1
    assert len(awful.stdout.splitlines()) > 10
    assert "Traceback" not in awful.stdout + awful.stderr
    run = labedge("run", str(AWFUL), home=tmp_path)
    assert run.returncode == 1
    assert run.stderr.count("(line ") > 10
    assert "Traceback" not in run.stderr


async def test_stop_all_stops_a_plunger_whose_daemon_is_dead(
    mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with bench_in(tmp_path / "bench") as place:
        async with daemon(tmp_path, red_cell(place.bench, broker), broker.port) as cell:
            plan = plan_of(cell.id, PRIME, draw(900, speed_ul_s=2))
            await cell.submit(plan)

            def reservoir() -> float:
                return float(place.bench.world()["wells"]["reservoir/A1"]["volume_ul"])

            wait_for(lambda: reservoir() < 39_995)
            cell.signal(signal.SIGKILL)
            cell.wait()
            done = await typed(cell, "stop-all", str(cell.file))
            assert done.returncode == 0, done.stdout
            assert "red: stopped, and confirmed" in done.stdout
            left = reservoir()
            assert 39_100 < left < 39_995
            assert reservoir() == left
            place.bench.stop()
            nobody = await typed(cell, "stop-all", str(cell.file))
            assert nobody.returncode == 1
            assert "NOT CONFIRMED" in nobody.stdout


def test_what_is_installed_and_spoken_is_told(home: Path) -> None:
    words = (
        ("drivers",),
        ("drivers", "cavro-xcalibur"),
        ("scan",),
        ("schema",),
        ("schema", "Plan"),
        ("schema", "--asyncapi"),
        ("--version",),
    )
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda each: labedge(*each, home=home), words))
    assert [each.returncode for each in done] == [0] * len(words)
    drivers, pump, _, names, plan, api, _ = (each.stdout for each in done)
    assert len(drivers.splitlines()) == 5
    assert "aspirate" in pump
    assert "safe state" in pump
    assert "Plan" in names
    assert json.loads(plan)["properties"]["plan_id"]
    assert json.loads(api)["asyncapi"].startswith("3.")


def bad_usage(home: Path, cell: RunningCell) -> list[tuple[str, ...]]:
    """Everything here is wrong in one way."""
    garbage, empty, folder = home / "garbage.json", home / "empty.yaml", home / "folder"
    garbage.write_bytes(bytes(range(256)) * 20)
    empty.write_text("")
    folder.mkdir(exist_ok=True)
    binary = home / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    plan = paper(cell, PRIME)[1]
    nowhere = ("--url", f"mqtt://127.0.0.1:{free_port()}", "--cell", "nobody")
    there = over_mqtt(cell)
    return [
        ("check", "no/such/file.yaml"),
        ("check", str(folder)),
        ("check", str(empty)),
        ("check", str(binary)),
        ("run", "no/such/file.yaml"),
        ("run", str(binary)),
        ("stop-all", str(empty)),
        ("status",),
        ("abort",),
        ("status", "--cell", str(empty)),
        ("hold", "--cell", "nobody"),
        ("status", *nowhere),
        ("abort", *nowhere),
        ("plan", "submit", plan, *nowhere),
        ("status", "--url", "http://example.invalid", "--cell", "x"),
        ("status", "--url", "mqtt://127.0.0.1:99999", "--cell", "x"),
        ("plan", "submit", str(garbage), *there),
        ("plan", "submit", str(folder), *there),
        ("plan", "check", str(garbage), "--cell", str(cell.file)),
        ("plan", "check", plan, "--cell", str(garbage)),
        ("plan", "submit", plan),
        ("runs", "--cell", str(empty)),
        ("runs", "--cell", "nobody"),
        ("resolve", "x", "y", "--as", "whatever"),
        ("drivers", "no-such-driver"),
        ("schema", "Plann"),
        ("holdd",),
        ("suspend", "now"),
        ("plan", "simulate", plan),
        ("scan", "--probe"),
        ("report", "x", "-o", "y"),
    ]


def test_whatever_is_wrong_is_told_in_a_sentence_and_never_in_a_traceback(
    everyones: RunningCell, tmp_path: Path
) -> None:
    wrong = bad_usage(tmp_path, everyones)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda words: labedge(*words, home=tmp_path), wrong))
    for words, each in zip(wrong, done, strict=True):
        said = each.stdout + each.stderr
        assert each.returncode in (1, 2), (words, said)
        assert len(said.split()) > 4, words
        assert "Traceback" not in said, words
        assert "mistake in labedge itself" not in said, words


def test_what_this_version_does_not_have_is_exit_2(home: Path) -> None:
    for words in (("suspend",), ("export", "x"), ("plan", "simulate", "x.json")):
        done = labedge(*words, home=home)
        assert done.returncode == 2
        assert "not built yet in this version" in done.stderr


async def test_a_daemon_that_cannot_start_says_why(home: Path, everyones: RunningCell) -> None:
    folder = home / uuid.uuid4().hex
    folder.mkdir()
    file = folder / "cell.yaml"
    description = dict(everyones.cell)
    (folder / "state").write_text("no directory")
    file.write_text(yaml.safe_dump(description))
    done = labedge("run", str(file), home=folder)
    assert done.returncode == 1
    assert "is a file, not a folder" in done.stderr
    (folder / "state").unlink()
    (folder / "state").mkdir()
    (folder / "state" / "journal.db").write_bytes(b"this is no database" * 300)
    done = labedge("run", str(file), home=folder)
    assert done.returncode == 1
    assert "journal" in done.stderr
    assert "Traceback" not in done.stderr
