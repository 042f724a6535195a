"""pytest fixtures: a test that runs on the simulated bench, or with `--rig FILE` on real hardware.

    @pytest.mark.bench({"instruments": {"red": {"model": "cavro-xcalibur", "link": "pty"}}})
    def test_it(bench):
        port = bench.addresses["red"]

The marker takes what a bench file holds, or the path of one. `start_bench` is the same as a function, for
tests that make their bench as they go. A rig file maps the same names to real ports: `{instruments: {red:
/dev/…}}`.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

_START_S = 30.0
_STOP_S = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rig", metavar="FILE", help="YAML file of real ports to test on instead of the simulated bench"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "bench(description): what the fixture `bench` starts: a mapping or a file"
    )


class RunningBench:
    """A bench process, or a rig of real instruments. `addresses` are ports by instrument name."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.addresses = dict(addresses)

    def world(self) -> dict[str, Any]:
        """The physical truth; the test is skipped on a rig, which cannot tell."""
        pytest.skip("a rig of real instruments cannot tell the physical truth")

    def fault(self, instrument: str, kind: str, **keys: Any) -> None:
        """Inject a fault; the test is skipped on a rig."""
        pytest.skip(f"a rig of real instruments cannot suffer {kind} at {instrument} {keys} on demand")

    def lines(self, kind: str | None = None, instrument: str | None = None) -> list[dict[str, Any]]:
        """The bench's log so far; the test is skipped on a rig."""
        pytest.skip(f"a rig of real instruments keeps no log ({kind}, {instrument})")

    def stop(self) -> None:
        """End the bench; a rig stays as it is."""


class SimulatedBench(RunningBench):
    """A bench in a process of its own, which ends with it."""

    def __init__(self, file: Path, log: Path) -> None:
        command = [sys.executable, "-m", "firmware_sim", str(file), "--json", "--until-eof"]
        self._errors = file.with_suffix(".stderr")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        super().__init__(self._wait_until_ready())
        self._log = log
        self._socket = _links(file) / "bench.sock"

    def _wait_until_ready(self) -> dict[str, str]:
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], _START_S)
        line = output.readline() if ready else b""
        if not line:
            self.stop()
            raise RuntimeError(f"The bench did not start: {self._errors.read_text() or 'it said nothing'}")
        return dict(json.loads(line)["ready"])

    def world(self) -> dict[str, Any]:
        return dict(self._ask({"do": "world"})["world"])

    def fault(self, instrument: str, kind: str, **keys: Any) -> None:
        self._ask({"do": "fault", "fault": {"instrument": instrument, "kind": kind, **keys}})

    def lines(self, kind: str | None = None, instrument: str | None = None) -> list[dict[str, Any]]:
        written = self._log.read_text(encoding="utf-8").splitlines(keepends=True)
        found = (json.loads(line) for line in written if line.endswith("\n"))
        return [
            line
            for line in found
            if kind in (None, line["kind"]) and instrument in (None, line["instrument"])
        ]

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        from firmware_sim.control import ask

        return ask(self._socket, command)


@pytest.fixture
def start_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Any], RunningBench]]:
    """A function that starts a bench from a mapping or a file; all of them end with the test."""
    started: list[RunningBench] = []
    rig = request.config.getoption("--rig")

    def start(description: Any) -> RunningBench:
        number = len(started)
        started.append(_rig(Path(rig)) if rig else _simulated(description, tmp_path / f"bench-{number}"))
        return started[-1]

    yield start
    for bench in started:
        bench.stop()


@pytest.fixture
def bench(request: pytest.FixtureRequest, start_bench: Callable[[Any], RunningBench]) -> RunningBench:
    """The bench that the test's marker `bench` describes."""
    marker = request.node.get_closest_marker("bench")
    if marker is None:
        raise pytest.UsageError("The fixture `bench` needs a marker: @pytest.mark.bench({…} or a file).")
    return start_bench(marker.args[0])


def _simulated(description: Any, directory: Path) -> SimulatedBench:
    import yaml

    directory.mkdir()
    if not isinstance(description, Mapping):
        file = Path(description).resolve()
        description = yaml.safe_load(file.read_text(encoding="utf-8"))
    copy = directory / "bench.yaml"
    log = directory / "bench.jsonl"
    content = {**description, "links": str(directory / "ports"), "log": str(log)}
    copy.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return SimulatedBench(copy, log)


def _rig(file: Path) -> RunningBench:
    import yaml

    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return RunningBench({str(name): str(port) for name, port in content["instruments"].items()})


def _links(file: Path) -> Path:
    return file.parent / "ports"
