"""Cell files: what a good one gives, and every mistake of bad ones, with its line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from drivers.api import FixedWell, Options
from edge.config import Cell, Mqtt, load_cell
from edge.errors import Mistakes, Problem
from tests.edge import toys

DATA = Path(__file__).parent / "data"

GOOD = """\
cell: bench-1
mqtt: {url: "mqtt://localhost:1884"}
devices:
  red: {driver: toy-pump, port: ports/line, syringe_ul: 1000, ports: {1: tank/A1, 2: {over: nozzle-1}}}
  blue: {driver: toy-pump, port: ports/line, address: 2, syringe_ul: 500, identity: SN 7}
  scale: {driver: toy-scale, port: "socket://127.0.0.1:4001"}
  reader: {driver: toy-reader, port: "opc.tcp://127.0.0.1:4840", at: nest-1}
positions:
  nest-1: {frame: [[0, 0, 10], [99, 0, 10], [0, -63, 10]]}
  nozzle-1: {at: nest-1, well: B2}
  shelf:
labware:
  plate-1: {type: sbs-96, at: nest-1, contents: {A1: {water: 100, red-dye: 20.5}}}
  tank: {type: trough-1, well_capacity_ul: 50000}
interlocks:
  - {name: heavy, when: "scale.mass_g > 100 and red.ready", for_s: 2, command: hold}
"""
FRAME = "frame: [[0, 0, 10], [99, 0, 10], [0, -63, 10]]"


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install(tmp_path, monkeypatch)


def load(folder: Path, text: str) -> Cell:
    path = folder / "cell.yaml"
    path.write_text(text, encoding="utf-8")
    return load_cell(path)


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(Mistakes) as caught:
        load(folder, text)
    return [str(problem).replace(str(folder), "FOLDER") for problem in caught.value.problems]


def with_mqtt(mqtt: str) -> str:
    return GOOD.replace('{url: "mqtt://localhost:1884"}', mqtt)


def test_a_good_file(tmp_path: Path) -> None:
    cell = load(tmp_path, GOOD)
    assert (cell.cell, cell.path, cell.state_dir) == ("bench-1", tmp_path / "cell.yaml", tmp_path / "state")
    assert (cell.autostart, cell.recovery, cell.telemetry.rate_hz) == (True, "hold", 1.0)
    assert cell.mqtt == Mqtt(
        url="mqtt://localhost:1884", host="localhost", port=1884, tls=False, embedded=False
    )
    red = cell.devices["red"]
    assert (red.name, red.driver, red.device) == ("red", "toy-pump", toys.ToyPump)
    assert red.options == toys.PumpOptions(
        driver="toy-pump",
        port=str(tmp_path / "ports/line"),
        syringe_ul=1000.0,
        ports={1: "tank/A1", 2: toys.Over(over="nozzle-1")},
    )
    assert cell.devices["blue"].options.identity == "SN 7"
    assert cell.devices["scale"].options.port == "socket://127.0.0.1:4001"
    nest = cell.positions["nest-1"]
    assert nest.frame == ((0.0, 0.0, 10.0), (99.0, 0.0, 10.0), (0.0, -63.0, 10.0))
    assert (cell.positions["nozzle-1"].at, cell.positions["nozzle-1"].well) == ("nest-1", "B2")
    assert cell.positions["shelf"].frame is None
    plate, tank = cell.labware["plate-1"], cell.labware["tank"]
    assert (plate.at, plate.well_capacity_ul, plate.contents) == (
        "nest-1",
        360.0,
        {"A1": {"water": 100.0, "red-dye": 20.5}},
    )
    assert (tank.at, tank.well_capacity_ul) == (None, 50000.0)
    (lock,) = cell.interlocks
    assert (lock.name, lock.for_s, lock.command, lock.severity) == ("heavy", 2.0, "hold", "high")
    assert not (tmp_path / "state").exists()


def test_other_settings_are_taken(tmp_path: Path) -> None:
    more = (
        "state_dir: deep/down/state\nautostart: false\nrecovery: stop\ntelemetry: {rate_hz: 0.5}\n"
        "security: {plans: unsigned, commands: unsigned}\npolicy: {approval: none, incompatible: []}\n"
    )
    cell = load(tmp_path, GOOD + more)
    assert cell.state_dir == tmp_path / "deep/down/state"
    assert (cell.autostart, cell.recovery, cell.telemetry.rate_hz) == (False, "stop", 0.5)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    shutil.copy(DATA / "awful.yaml", tmp_path / "cell.yaml")
    expected = (DATA / "awful.txt").read_text(encoding="utf-8").splitlines()
    assert len(expected) == 60
    assert mistakes(tmp_path, (DATA / "awful.yaml").read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The file is empty. It has to name `cell`, `mqtt` and `devices`."),
        ("# nothing\n", "The file is empty. It has to name `cell`, `mqtt` and `devices`."),
        ("- a\n", "(line 1): A list of 1 stands where a mapping is needed."),
        ("hello\n", "(line 1): `hello` stands where a mapping is needed."),
    ],
)
def test_files_that_are_no_cell(text: str, said: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, text) == [said]


def test_what_is_missing(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "autostart: true\n") == [
        "(line 1): `cell` is missing (an id: 1 to 64 letters, digits, _ and -). Add `cell:`.",
        "(line 1): `mqtt` is missing (the broker). Add `mqtt:`.",
        "(line 1): `devices` is missing (the instruments). Add `devices:`.",
    ]
    assert mistakes(tmp_path, "cell: a\nmqtt:\ndevices:\n") == [
        "mqtt (line 2): Nothing stands where a mapping is needed.",
        "devices (line 3): The cell has no devices. "
        "Add at least one, as `scale: {driver: mt-sics, port: …}`.",
    ]
    assert mistakes(tmp_path, "cell: a\nmqtt: {}\ndevices: {a: {driver: toy-pump}}\n") == [
        "mqtt (line 2): `url` is missing (the broker, as mqtt://localhost:1883). Add `url:`.",
        "devices.a (line 3): `port` is missing (where the device is connected). Add `port:`.",
        "devices.a (line 3): `syringe_ul` is missing. Add `syringe_ul:`.",
    ]


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "embedded"),
    [
        ("mqtt://localhost", "localhost", 1883, False, False),
        ("mqtt://127.0.0.1:1999", "127.0.0.1", 1999, False, False),
        ("mqtt://[::1]:1999", "::1", 1999, False, False),
        ("mqtts://localhost", "localhost", 8883, True, False),
        ("embedded", "127.0.0.1", 1883, False, True),
        ("embedded://127.0.0.1:2999", "127.0.0.1", 2999, False, True),
    ],
)
def test_brokers(url: str, host: str, port: int, tls: bool, embedded: bool, tmp_path: Path) -> None:
    mqtt = load(tmp_path, with_mqtt(f'{{url: "{url}"}}')).mqtt
    assert (mqtt.url, mqtt.host, mqtt.port, mqtt.tls, mqtt.embedded) == (url, host, port, tls, embedded)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "mqtt://10.0.0.1",
            "An unsigned cell may only use a broker on this machine, and 10.0.0.1 is another",
        ),
        ("embedded://0.0.0.0:1883", "and 0.0.0.0 is another"),
        ("mqtts://example.org", "and example.org is another"),
        ("http://localhost", "is not a broker URL"),
        ("mqtt://localhost:99999", "is not a number from 1 to 65535"),
        ("mqtt://me:secret@localhost", "Put the user name and the password file beside the broker URL"),
        ("mqtt://[::1", "Write mqtt://HOST:PORT"),
        ("mqtt://", "lacks a host"),
    ],
)
def test_brokers_that_are_refused(url: str, said: str, tmp_path: Path) -> None:
    (only,) = mistakes(tmp_path, with_mqtt(f'{{url: "{url}"}}'))
    assert only.startswith("mqtt.url (line 2): ")
    assert said in only
    assert "secret" not in only


@pytest.mark.parametrize(("written", "protocol"), [("5", "5"), ('"5"', "5"), ("3.1.1", "3.1.1")])
def test_mqtt_versions(written: str, protocol: str, tmp_path: Path) -> None:
    cell = load(tmp_path, with_mqtt(f"{{url: embedded, protocol: {written}}}"))
    assert cell.mqtt.protocol == protocol


def test_credentials_are_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "mqtt.pass").write_text("hunter2\n", encoding="utf-8")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("-", encoding="utf-8")
    files = "ca_file: ca.pem, cert_file: ./cert.pem, key_file: key.pem"
    text = with_mqtt(f"{{url: mqtts://localhost, username: bench-1, password_file: mqtt.pass, {files}}}")
    cell = load(tmp_path, text)
    assert (cell.mqtt.username, cell.mqtt.password) == ("bench-1", "hunter2")
    assert (cell.mqtt.ca_file, cell.mqtt.cert_file, cell.mqtt.key_file) == (
        tmp_path / "ca.pem",
        tmp_path / "cert.pem",
        tmp_path / "key.pem",
    )
    assert "hunter2" not in repr(cell)
    assert "bench-1" in repr(cell.mqtt)


def test_files_beside_the_broker(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    (tmp_path / "two").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    (tmp_path / "ca.pem").write_text("-", encoding="utf-8")
    for name, said in (("empty", "not one line"), ("two", "not one line"), ("latin", "not UTF-8 text")):
        (only,) = mistakes(tmp_path, with_mqtt(f"{{url: embedded, username: a, password_file: {name}}}"))
        assert f"FOLDER/{name} is {said}" in only
    assert mistakes(tmp_path, with_mqtt("{url: embedded, ca_file: ca.pem, cert_file: absent}")) == [
        "mqtt (line 2): `cert_file` and `key_file` belong together. Give both or neither.",
        "mqtt.cert_file (line 2): There is no file FOLDER/absent. "
        "Check the name; it is relative to the cell file.",
    ]


def test_a_state_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert mistakes(tmp_path, GOOD + "state_dir: file/state\n") == [
        "state_dir (line 17): FOLDER/file is a file, not a folder. Name another folder."
    ]
    monkeypatch.setattr("edge.config.os.access", lambda path, mode: path != tmp_path)
    assert mistakes(tmp_path, GOOD + "state_dir: deep/state\n") == [
        "state_dir (line 17): FOLDER cannot be written. Name a folder that this user may write."
    ]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("security: {commands: signed}", "security.commands"),
        ("security: {keys: [{file: planner.jwk}]}", "security.keys"),
        ("policy: {incompatible: [[bleach, acid]]}", "policy.incompatible"),
        ("policy: {approval: operator}", "policy.approval"),
        ("panel: {listen: x}", "panel"),
    ],
)
def test_what_is_not_built_is_refused(key: str, path: str, tmp_path: Path) -> None:
    (only,) = mistakes(tmp_path, GOOD + key + "\n")
    assert only.startswith(f"{path} (line 17): ")
    assert "not built yet in this version" in only


@pytest.mark.parametrize("key", ["stale_s: 5", 'clear_when: "red.ready"', "latch: true", 'forbid: ["arm.*"]'])
def test_interlock_keys_that_are_not_built(key: str, tmp_path: Path) -> None:
    text = GOOD.replace("command: hold}", f"command: hold, {key}}}")
    name = key.partition(":")[0]
    assert mistakes(tmp_path, text) == [
        f"interlocks[0].{name} (line 16): `{name}` is not built yet in this version. Leave it out."
    ]


def test_a_port_by_two_names_is_one_port(tmp_path: Path) -> None:
    line = tmp_path / "ttyUSB0"
    line.write_text("", encoding="utf-8")
    (tmp_path / "by-id").symlink_to(line)
    devices = (
        "devices:\n"
        "  a: {driver: toy-pump, port: ttyUSB0, syringe_ul: 1}\n"
        "  b: {driver: toy-pump, port: ./by-id, syringe_ul: 1, address: 2}\n"
        "  c: {driver: toy-pump, port: by-id, syringe_ul: 1, address: 3, baudrate: 38400}\n"
        '  d: {driver: toy-scale, port: "socket://LOCALHOST:40"}\n'
        '  e: {driver: toy-scale, port: "socket://localhost:40"}\n'
    )
    assert mistakes(tmp_path, f"cell: a\nmqtt: {{url: embedded}}\n{devices}") == [
        "devices.c.port (line 6): a sets this port to 9600 baud 8N1, and c to 38400 baud 8N1. "
        "Set both alike, or give one of them its own port.",
        "devices.e.port (line 8): d is already on this port, and neither has an address. "
        "Give one of them its own port.",
    ]


@pytest.mark.parametrize(
    ("driver", "port", "said"),
    [
        ("toy-reader", "tcp://127.0.0.1:4840", "Write it as opc.tcp://"),
        ("toy-arm", "/dev/ttyS0", "Write it as tcp://"),
        ("toy-scale", "opc.tcp://127.0.0.1:4840", "opc.tcp:// is not a port that bytes go through"),
        ("toy-scale", "rfc2217://127.0.0.1:4840", "RFC 2217 ports are not supported"),
        ("toy-scale", "socket://127.0.0.1", "give host and port number"),
    ],
)
def test_a_port_that_the_driver_cannot_use(driver: str, port: str, said: str, tmp_path: Path) -> None:
    text = f'cell: a\nmqtt: {{url: embedded}}\ndevices:\n  a: {{driver: {driver}, port: "{port}"}}\n'
    (only,) = mistakes(tmp_path, text)
    assert only.startswith("devices.a.port (line 4): ")
    assert said in only


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("scale.mass_g > 1 or not red.ready", None),
        ("red.valve == 'open'", None),
        ("scale.mass_g > 'a'", "A string stands where a number is needed"),
        ("scale.mas_g > 1", "scale has no reading mas_g. Did you mean mass_g?"),
        ("scal.mass_g > 1", "There is no device scal. Did you mean scale?"),
        ("mass_g > 1", "`mass_g` is not a reading. Write device.field"),
        ("1 < 2 <", "(at character 7)"),
        ("red.plunger_ul + 1", "The condition gives a number, not true or false"),
        ("open('x')", "There is no function `open`"),
    ],
)
def test_interlock_conditions(when: str, said: str | None, tmp_path: Path) -> None:
    text = GOOD.replace("scale.mass_g > 100 and red.ready", when)
    if said is None:
        assert load(tmp_path, text).interlocks[0].when == when
        return
    (only,) = mistakes(tmp_path, text)
    assert only.startswith("interlocks[0].when (line 16): ")
    assert said in only


@pytest.mark.parametrize(
    ("old", "new", "where", "said"),
    [
        ("1: tank/A1", "1: tank", "devices.red.ports.1 (line 4)", "`tank` is not a well, as labware/A1."),
        (
            "identity: SN 7",
            "identity: 7",
            "devices.blue.identity (line 5)",
            "`7` stands where a text is needed",
        ),
        ("address: 2", "address: 16", "devices.blue.address (line 5)", "it has to be at most 15."),
        ("driver: toy-scale", "driver: 7", "devices.scale.driver (line 6)", "`7` is not a driver's name."),
        (
            "shelf:",
            "shelf: [1]",
            "positions.shelf (line 11)",
            "A list of 1 stands where a mapping is needed.",
        ),
        ("shelf:", "shelf: {at: 2}", "positions.shelf.at (line 11)", "`2` stands where a text is needed."),
        ("type: sbs-96", "type: 96", "labware.plate-1.type (line 13)", "`96` stands where a text is needed."),
        ("A1: {water", "A0: {water", "labware.plate-1.contents.A0 (line 13)", "`A0` is not a well's name"),
        ("water: 100", "water: -1", "contents.A1.water (line 13)", "it has to be at least 0."),
        ("well: B2", "well: 7", "positions.nozzle-1.well (line 10)", "`7` stands where a text is needed."),
        ("at: nest-1, well", "at: nest-9, well", "positions.nozzle-1.at (line 10)", "no position nest-9"),
        ("shelf:", f"shelf: {{{FRAME}, at: nest-1}}", "positions.shelf.at (line 11)", "not both"),
        (
            "shelf:",
            "shelf: {frame: [[0, 0, no]]}",
            "positions.shelf.frame[0][2] (line 11)",
            "`no` is true or",
        ),
        ("for_s: 2", "for_s: true", "interlocks[0].for_s (line 16)", "`true` stands where a number"),
        ("for_s: 2", "for_s: {a: 1}", "interlocks[0].for_s (line 16)", "A mapping stands where a number"),
        ("for_s: 2", "for_s: -1", "interlocks[0].for_s (line 16)", "it has to be at least 0."),
        ("red: {", "red: 7\n  old: {", "devices.red (line 4)", "`7` stands where a mapping is needed."),
        ("reader", "len", "devices.len (line 7)", "a word of the expression language"),
    ],
)
def test_single_mistakes(old: str, new: str, where: str, said: str, tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD.replace(old, new, 1))
    assert any(f"{where}: " in complaint and said in complaint for complaint in found), found


def test_options_that_contradict_each_other_are_the_drivers_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Picky(toys.PumpOptions, frozen=True, kw_only=True):
        def __post_init__(self) -> None:
            if self.syringe_ul > 100 * self.address:
                raise ValueError("the syringe is too large for this address")

    monkeypatch.setattr(toys.ToyPump, "Options", Picky)
    assert mistakes(tmp_path, GOOD) == [
        "devices.red (line 4): The syringe is too large for this address.",
        "devices.blue (line 5): The syringe is too large for this address.",
    ]


def test_outlets_that_are_no_wells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loose(Options, frozen=True, kw_only=True):
        ends: list[str]

    monkeypatch.setattr(toys.ToyScale, "Options", Loose)
    monkeypatch.setattr(
        toys.ToyScale, "outlets", classmethod(lambda cls, options: tuple(map(FixedWell, options.ends)))
    )
    text = "cell: a\nmqtt: {url: embedded}\ndevices:\n  a: {driver: toy-scale, port: /dev/x, ends:\n"
    assert mistakes(tmp_path, text + "    [tank,\n     tank/A1]}\n") == [
        "devices.a.ends[0] (line 5): `tank` is not a well. Write it as labware/A1.",
        "devices.a.ends[1] (line 6): There is no labware tank. The cell has no labware.",
    ]


def test_a_password_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "mqtt.pass"
    secret.write_text("hunter2\n", encoding="utf-8")
    monkeypatch.setattr("edge.config.os.access", lambda path, mode: path != secret)
    (only,) = mistakes(tmp_path, with_mqtt("{url: embedded, username: a, password_file: mqtt.pass}"))
    assert "mqtt.password_file (line 2): FOLDER/mqtt.pass cannot be read." in only


def test_a_problem_reads_as_a_sentence() -> None:
    wrong = "It is wrong"
    assert [
        str(Problem("a.b", wrong, 3, "Mend it.")),
        str(Problem("a.b", wrong + ".")),
        str(Problem("", wrong, 3, "Is it?")),
        str(Problem("", wrong)),
    ] == [
        "a.b (line 3): It is wrong. Mend it.",
        "a.b: It is wrong.",
        "(line 3): It is wrong. Is it?",
        "It is wrong.",
    ]
