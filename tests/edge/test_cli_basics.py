"""The command line: what it prints, where, and how it exits; never a traceback."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from edge.cli import COMMANDS, UNBUILT, main
from edge.cli.drivers import phrase
from edge.errors import LabedgeError
from protocols.serial_port import SerialDevice, list_ports
from tests.edge import toys

CELL = """\
cell: bench-1
mqtt: {url: embedded}
devices:
  good: {driver: toy-scale, port: /dev/good, identity: SN 1234}
  gone: {driver: toy-scale, port: /dev/lost}
  mute: {driver: toy-scale, port: /dev/mute}
  other: {driver: toy-scale, port: /dev/other, identity: SN 99}
  odd: {driver: toy-scale, port: /dev/broken}
"""


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install(tmp_path, monkeypatch)


def labedge(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def cell_file(folder: Path, text: str = CELL) -> Path:
    path = folder / "cell.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_help_lists_every_built_command_and_no_other() -> None:
    result = labedge("--help")
    assert result.exit_code == 0
    listed = [
        line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert listed == [*COMMANDS, "Example:"]


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom edge.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "ours = ('edge', 'drivers', 'protocols')\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ours))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "['edge', 'edge.cli']"


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "labedge, version 0.1.0\n"


@pytest.mark.parametrize("command", ["check", "scan", "drivers"])
def test_every_help_has_an_example(command: str) -> None:
    result = labedge(command, "--help")
    assert result.exit_code == 0
    assert f"Example: labedge {command}" in result.stdout


@pytest.mark.parametrize("command", UNBUILT)
def test_what_is_not_built_is_refused_clearly(command: str) -> None:
    result = labedge(command, "X", "--url", "y", "-z")
    assert result.exit_code == 2
    assert f"`labedge {command}` is not built yet in this version." in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("chek",), "There is no command chek; did you mean check?"),
        (("xyzzy",), "There is no command xyzzy; `labedge --help` lists them."),
        (("check",), "CELL.yaml"),
        (("check", "a.yaml", "--conect"), "--conect"),
        (("scan", "--probe"), "`--probe` is not built yet in this version"),
    ],
)
def test_bad_usage_exits_2(args: tuple[str, ...], said: str) -> None:
    result = labedge(*args)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LabedgeError("The cell is asleep."), "The cell is asleep.\n"),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), "x.yaml: No such file or directory.\n"),
        (ZeroDivisionError("division by zero"), "This is a mistake in labedge itself (ZeroDivisionError"),
    ],
)
def test_errors_are_sentences(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr("edge.cli.scan.scan", fails)
    result = labedge("scan")
    assert result.exit_code == 1
    assert result.stderr.startswith(said)
    assert "Traceback" not in result.output
    monkeypatch.setenv("LABEDGE_DEBUG", "1")
    assert labedge("scan").exception is error


def test_check_of_a_good_file(tmp_path: Path) -> None:
    path = cell_file(tmp_path)
    result = labedge("check", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{path}: cell bench-1 is in order, with good, gone, mute, other, odd.\n"
    assert json.loads(labedge("check", path, "--json").stdout) == {
        "file": str(path),
        "ok": True,
        "problems": [],
        "devices": {},
    }


def test_check_of_a_bad_file(tmp_path: Path) -> None:
    path = cell_file(tmp_path, CELL.replace("embedded", "http://x").replace("cell:", "cel:"))
    result = labedge("check", path)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "(line 1): `cell` is missing (an id: 1 to 64 letters, digits, _ and -). Add `cell:`.",
        "cel (line 1): There is no key `cel`. Did you mean `cell`?",
        "mqtt.url (line 2): 'http://x' is not a broker URL: "
        "write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS.",
        f"{path}: 3 mistakes.",
    ]
    report = json.loads(labedge("check", path, "--json").stdout)
    assert report["ok"] is False
    assert report["problems"][1] == {
        "path": "cel",
        "message": "There is no key `cel`",
        "line": 1,
        "mend": "Did you mean `cell`?",
    }


def test_check_of_no_file(tmp_path: Path) -> None:
    result = labedge("check", tmp_path / "absent.yaml")
    assert result.exit_code == 1
    assert f"There is no file {tmp_path / 'absent.yaml'}. Check the name" in result.stdout


def test_connect_asks_every_device_and_closes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.cli.check.CONNECT_S", 0.05)
    monkeypatch.setattr(toys.Toy, "closed", [])
    result = labedge("check", cell_file(tmp_path), "--connect", "--json")
    assert result.exit_code == 1
    found: dict[str, Any] = json.loads(result.stdout)["devices"]
    assert found == {
        "good": {"ok": True, "text": "Toy scale, SN 1234"},
        "gone": {"ok": False, "text": "There is no port /dev/lost."},
        "mute": {"ok": False, "text": "There is no answer on /dev/mute within 0.05 s."},
        "other": {
            "ok": False,
            "text": "It is Toy scale, SN 1234, and the cell file wants SN 99; check cables and `identity`.",
        },
        "odd": {"ok": False, "text": "The driver toy-scale failed (KeyError: 'speed')."},
    }
    assert sorted(toys.Toy.closed) == ["gone", "good", "mute", "odd", "other"]
    text = labedge("check", cell_file(tmp_path), "--connect").stdout
    assert "good: Toy scale, SN 1234\n" in text
    assert "gone: NOT OK. There is no port /dev/lost.\n" in text


def test_connect_of_a_sound_bench_exits_0(tmp_path: Path) -> None:
    lines = CELL.splitlines(keepends=True)
    assert labedge("check", cell_file(tmp_path, "".join(lines[:4])), "--connect").exit_code == 0


def test_drivers_are_listed_and_broken_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install(tmp_path / "more", monkeypatch, broken=True)
    result = labedge("drivers")
    assert result.exit_code == 0
    assert "toy-scale" in result.stdout
    assert "Toy scale (simulated)" in result.stdout
    assert (
        "Driver toy-number (tests.edge.toys:NOT_A_CLASS) cannot be used: it is not a Device class"
        in result.stderr
    )


def test_a_driver_is_described_for_people() -> None:
    lines = labedge("drivers", "toy-pump").stdout.splitlines()
    assert lines[0] == "toy-pump: Toy pump"
    assert "  safe state: It stands still." in lines
    options = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("  ")}
    assert options["port"] == "where the device is connected, required"
    assert options["address"] == "whole number, ≥ 1, ≤ 15, default 1"
    assert options["syringe_ul"] == "number, > 0, µl, required"
    assert options["baudrate"] == "9600 | 38400, default 9600"
    assert options["push:"] == "Push a volume out."
    assert options["volume_ul"] == "number, > 0, µl, required"
    assert options["moved_ul"] == "number, µl"
    assert options["plunger_ul"] == "number, µl"
    assert "    if the answer is lost: query" in lines


def test_a_driver_is_described_for_programs() -> None:
    described = json.loads(labedge("drivers", "toy-pump", "--json").stdout)
    assert described["driver"] == "toy-pump"
    assert described["options"]["required"] == ["driver", "port", "syringe_ul"]
    push = described["operations"]["push"]
    assert (push["settles"], push["args"]["required"]) == ("query", ["volume_ul"])
    assert push["result"]["properties"]["moved_ul"] == {"type": "number"}
    assert set(described["readings"]["properties"]) == {"ready", "plunger_ul", "valve"}
    assert set(toys.ENTRIES) <= set(json.loads(labedge("drivers", "--json").stdout))


def test_no_drivers_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.cli.drivers.driver_names", tuple)
    result = labedge("drivers")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("No drivers are installed;")


def test_a_device_that_does_not_close_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(toy: toys.Toy) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(toys.Toy, "close", never)
    monkeypatch.setattr("edge.cli.check.CLOSE_S", 0.05)
    lines = CELL.splitlines(keepends=True)
    result = labedge("check", cell_file(tmp_path, "".join(lines[:4])), "--connect")
    assert result.exit_code == 0
    assert "good: Toy scale, SN 1234\n" in result.stdout


def test_an_unknown_driver() -> None:
    result = labedge("drivers", "toy-pum")
    assert (result.exit_code, result.stderr) == (1, "There is no driver toy-pum; did you mean toy-pump?\n")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"$ref": "#/$defs/Inner"}, "{a: text}"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "whole number"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}, "whole number, ≥ 1 or text"),
        ({"type": "array", "items": {"type": "number", "maximum": 2.5}}, "list of number, ≤ 2.5"),
        ({"enum": [1, "a"]}, "1 | a"),
        ({"type": "object"}, "mapping"),
        ({}, "anything"),
        ({"type": "string", "description": "a well"}, "a well"),
    ],
)
def test_schemas_in_words(rule: dict[str, Any], words: str) -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert phrase(rule, {"Inner": inner}) == words


class _Port:
    def __init__(self, device: str, vid: int | None, serial: str | None, description: str) -> None:
        self.device, self.vid, self.pid = device, vid, vid
        self.serial_number, self.description = serial, description

    def __lt__(self, other: _Port) -> bool:
        return self.device < other.device


def test_scan_lists_ports_without_opening_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [_Port("/dev/null", 0x0403, "A7", "FT232R"), _Port("/dev/full", None, None, "n/a")]
    monkeypatch.setattr("protocols.serial_port.finder.comports", lambda: ports)
    link = tmp_path / "usb-FTDI_A7"
    link.symlink_to("/dev/null")
    found = [
        SerialDevice("/dev/full", "", "", "", "", ""),
        SerialDevice("/dev/null", str(link), "0403", "0403", "A7", "FT232R"),
    ]
    assert list_ports(tmp_path) == found
    monkeypatch.setattr("protocols.serial_port.BY_ID", tmp_path)
    monkeypatch.setattr("edge.cli.scan.list_ports", lambda: list_ports(tmp_path))
    assert labedge("scan").stdout == f"/dev/full\n{link}  /dev/null  0403:0403  SN A7  FT232R\n"
    assert [port["by_id"] for port in json.loads(labedge("scan", "--json").stdout)] == ["", str(link)]


def test_scan_of_a_machine_without_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.serial_port.finder.comports", list)
    result = labedge("scan")
    assert (result.exit_code, result.stdout) == (0, "There are no serial ports; is the adapter plugged in?\n")
    assert list_ports(Path("/nonexistent")) == []
