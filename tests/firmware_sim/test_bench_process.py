"""`firmware-sim` as its users meet it: a process, its commands, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from firmware_sim.cli import SOCKET_VARIABLE, main
from firmware_sim.control import ask, registry, running
from firmware_sim.errors import BenchError
from firmware_sim.pytest_plugin import RunningBench
from tests.firmware_sim.sims import BENCH, PORTS

DEADLINE_S = 20.0
CONTENT = {
    **BENCH,
    "instruments": {
        "red": {"model": "cavro-xcalibur", "link": "pty", "ports": PORTS},
        "scale": {"model": "mt-sics", "link": "tcp:127.0.0.1:0"},
    },
    "links": "./ports",
    "log": "./bench.jsonl",
}


class Process:
    """A bench started from a file in a directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "bench.yaml"
        self.file.write_text(yaml.safe_dump(CONTENT))
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "firmware_sim", str(self.file), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().rstrip("\n")

    def ready(self) -> list[str]:
        lines = []
        while (line := self.line()) not in ("ready", ""):
            lines.append(line)
        return lines

    def end(self, number: int) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(DEADLINE_S)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    """Starts benches whose registry is the test's own."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    started: list[Process] = []

    def begin(name: str = "bench", *options: str) -> Process:
        started.append(Process(tmp_path / name, *options))
        return started[-1]

    yield begin
    for process in started:
        process.popen.kill()
        process.popen.wait()
        for stream in (process.popen.stdin, process.popen.stdout):
            if stream is not None:
                stream.close()


def command(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_ready_and_leaves_nothing_behind(start: Callable[..., Process], number: int) -> None:
    process = start()
    red, scale = process.ready()
    assert red == f"ready red {process.file.parent}/ports/red"
    assert scale.startswith("ready scale tcp://127.0.0.1:")
    assert (process.file.parent / "ports" / "red").is_symlink()
    assert process.end(number) == 0
    assert list((process.file.parent / "ports").iterdir()) == []
    assert list(registry().iterdir()) == []


def test_ready_as_json_and_the_end_of_standard_input(start: Callable[..., Process]) -> None:
    process = start("bench", "--json", "--until-eof")
    assert set(json.loads(process.line())["ready"]) == {"red", "scale"}
    assert process.popen.stdin is not None
    process.popen.stdin.write("anything\n")
    process.popen.stdin.close()
    assert process.popen.wait(DEADLINE_S) == 0


def test_commands_find_the_only_bench_and_the_one_that_is_named(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = command("world")
    assert (nothing.exit_code, nothing.stderr) == (
        1,
        "No bench is running; start one with `firmware-sim BENCH.yaml`.\n",
    )
    first = start("first")
    first.ready()
    assert json.loads(command("world", "--json").stdout)["labware"]["plate-1"]["at"] == "nest-1"
    second = start("second")
    second.ready()
    several = command("world")
    assert several.exit_code == 1
    assert "Several benches are running" in several.stderr
    assert str(first.file.parent) in several.stderr
    shown = command("world", "--bench", str(second.file))
    assert "reservoir (trough-1) at reservoir, 40.000 g\n  A1: 40000.0 µl (40000.0 red-dye)" in shown.stdout
    socket = str(first.file.parent / "ports" / "bench.sock")
    assert command("world", "--socket", socket).exit_code == 0
    monkeypatch.setenv(SOCKET_VARIABLE, socket)
    assert command("world").exit_code == 0


def test_faults_from_the_command_line(start: Callable[..., Process]) -> None:
    process = start()
    process.ready()
    assert command("fault", "red", "drop-reply", "--count", "2", "--after", "3").exit_code == 0
    assert command("fault", "red", "reboot", "--for", "0.1").exit_code == 0
    wrong = command("fault", "rad", "hang")
    assert (wrong.exit_code, wrong.stderr) == (
        1,
        "there is no instrument 'rad' on this bench (did you mean red?).\n",
    )
    wrong = command("fault", "red", "hang", "--count", "2")
    assert (wrong.exit_code, wrong.stderr) == (1, "count is not a key of a hang fault.\n")
    assert command("fault", "red", "nap").exit_code == 2
    log = (process.file.parent / "bench.jsonl").read_text().splitlines()
    assert [json.loads(line)["what"] for line in log] == ["reboot"]


def test_the_socket_may_lie_deep(start: Callable[..., Process]) -> None:
    process = start("deep/" + "/".join(["d" * 30] * 5))
    process.ready()
    assert len(str(process.file)) > 150
    assert command("world").exit_code == 0
    assert process.end(signal.SIGTERM) == 0


def test_a_killed_bench_does_not_stand_in_the_way(start: Callable[..., Process]) -> None:
    process = start()
    process.ready()
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    assert (process.file.parent / "ports" / "bench.sock").exists()
    assert running() == []
    assert list(registry().iterdir()) == [], "its entry is removed"
    again = start()
    assert len(again.ready()) == 2
    assert again.end(signal.SIGTERM) == 0


def test_mistakes_are_sentences_and_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text("benchh: x\ninstruments: {red: {model: cavro, link: pty}}\n")
    result = command(str(file))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert f"{file}, line 1: benchh: there is no such key (did you mean bench?)." in result.stderr
    assert command(str(tmp_path / "none.yaml")).exit_code == 1
    file.write_text(yaml.safe_dump({**CONTENT, "log": "/proc/nowhere/log"}))
    assert "cannot be written" in command(str(file)).stderr


@pytest.mark.parametrize("args", [[], ["run"], ["fault"], ["world"]])
def test_help_has_an_example(args: list[str]) -> None:
    result = command(*args, "--help")
    assert result.exit_code == 0
    assert "firmware-sim " in result.stdout.split("\n", 2)[2]


def test_the_control_socket_refuses_with_sentences(start: Callable[..., Process]) -> None:
    process = start()
    process.ready()
    socket = process.file.parent / "ports" / "bench.sock"
    for wrong in ({"do": "dance"}, {"do": "fault"}, ["world"]):
        with pytest.raises(BenchError, match=r"does not know|is not a fault|JSON object"):
            ask(socket, wrong)  # type: ignore[arg-type]  # a list is what is wrong
    with pytest.raises(BenchError, match="No bench answers"):
        ask(socket.with_name("other.sock"), {"do": "world"})


def test_the_registry_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    registry().chmod(0o755)
    with pytest.raises(BenchError, match="only you can use"):
        registry()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
    with pytest.raises(BenchError, match="cannot be made"):
        registry()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert registry() == tmp_path / f"firmware-sim-{os.getuid()}"


@pytest.mark.bench({**CONTENT, "faults": [{"instrument": "red", "kind": "hang", "for_s": 0.1}]})
def test_the_fixture_starts_a_bench(bench: RunningBench) -> None:
    assert set(bench.addresses) == {"red", "scale"}
    bench.fault("scale", "drift", per_s=1.0)
    assert bench.world()["bench"] == "bench"
    assert [line["what"] for line in bench.lines("fault")] == ["hang", "drift"]
    assert bench.lines("action", "red") == []


def test_the_fixture_tells_why_a_bench_does_not_start(start_bench: Callable[[Any], RunningBench]) -> None:
    with pytest.raises(RuntimeError, match="did you mean"):
        start_bench({"instruments": {"red": {"model": "cavro-xcalibr", "link": "pty"}}})


def test_a_bench_with_everything_on_it(start_bench: Callable[[Any], RunningBench], tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    instruments = {
        **CONTENT["instruments"],
        "ph": {"model": "hamilton-arc-ph", "link": "pty:bus", "address": 3},
        "arm": {"model": "universal-robots", "link": "tcp:127.0.0.1:0", "dashboard": "127.0.0.1:0"},
        "reader": {"model": "lads-photometer", "link": "opc.tcp://127.0.0.1:0"},
    }
    file.write_text(yaml.safe_dump({**CONTENT, "instruments": instruments}, sort_keys=False))
    bench = start_bench(file)
    assert list(bench.addresses) == ["red", "scale", "ph", "arm", "reader", "arm.dashboard"]
    assert bench.addresses["reader"].startswith("opc.tcp://127.0.0.1:")
    with pytest.raises(BenchError, match="speaks OPC UA"):
        bench.fault("reader", "garble")
    bench.fault("reader", "disconnect", for_s=0.1)
    assert set(bench.world()["instruments"]) == set(instruments)


def test_a_rig_stands_in_for_the_bench(tmp_path: Path) -> None:
    (tmp_path / "rig.yaml").write_text("instruments: {red: /dev/ttyUSB7}\n")
    (tmp_path / "test_rig.py").write_text(
        "import pytest\n"
        "@pytest.mark.bench({})\n"
        "def test_port(bench):\n"
        "    assert bench.addresses == {'red': '/dev/ttyUSB7'}\n"
        "@pytest.mark.bench({})\n"
        "@pytest.mark.parametrize('what', ['world', 'lines'])\n"
        "def test_truth(bench, what):\n"
        "    getattr(bench, what)()\n"
        "@pytest.mark.bench({})\n"
        "def test_fault(bench):\n"
        "    bench.fault('red', 'hang')\n"
        "def test_unmarked(bench):\n"
        "    pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rig", "rig.yaml", "test_rig.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "1 passed, 3 skipped, 1 error" in result.stdout, result.stdout
    assert "needs a marker" in result.stdout
