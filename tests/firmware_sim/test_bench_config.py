"""The bench file: every mistake at once, each with its line, its path and what to do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.bench import Bench
from firmware_sim.config import Link, load_bench
from firmware_sim.errors import BenchError
from tests.firmware_sim.sims import BENCH

GOOD: dict[str, Any] = {
    **BENCH,
    "bench": "demo",
    "speed": 2.5,
    "links": "./ports",
    "log": "./bench.jsonl",
    "instruments": {
        "red": {"model": "cavro-xcalibur", "link": "pty:rs485", "address": 1, "ports": {1: "reservoir/A1"}},
        "blue": {"model": "cavro-xcalibur", "link": "pty:rs485", "address": 2, "ports": {1: "reservoir/A1"}},
        "scale": {"model": "mt-sics", "link": "tcp:127.0.0.1:0"},
    },
    "faults": [{"instrument": "red", "kind": "drop-reply", "after": 12, "count": 1}],
}


def write(tmp_path: Path, content: Any) -> Path:
    file = tmp_path / "bench.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return file


def mistakes(tmp_path: Path, content: Any) -> list[str]:
    """Every sentence about a file, without the file's name."""
    file = write(tmp_path, content)
    try:
        config, found = load_bench(file)
        Bench(config, found)
    except BenchError as error:
        return [line.replace(str(file), "file") for line in str(error).splitlines()]
    return []


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good file with one thing in it changed (... : taken away)."""
    content = copy.deepcopy(GOOD)
    *outer, last = path.split("/")
    inner: Any = content
    for key in outer:
        inner = inner[int(key) if isinstance(inner, list) else key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return content


def test_a_good_file(tmp_path: Path) -> None:
    config, found = load_bench(write(tmp_path, GOOD))
    assert found.found == []
    assert (config.name, config.speed, config.seed) == ("demo", 2.5, 7)
    assert config.links == tmp_path / "ports"
    assert config.log == tmp_path / "bench.jsonl"
    assert [item.link for item in config.instruments][1:] == [
        Link("pty", "rs485"),
        Link("tcp", "127.0.0.1:0"),
    ]
    assert config.faults[0].after == 12


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("sped", 2, "sped: there is no such key (did you mean speed?)."),
        ("bench", "a b", "bench: 'a b' is no bench name"),
        ("speed", 0, "speed: 0 must be a number from 0.001 to 1000."),
        ("seed", "x", "seed: 'x' must be a whole number."),
        ("links", 5, "links: 5 must be text; put it in quotes."),
        ("instruments", {}, "instruments: a bench needs at least one instrument"),
        ("instruments", [1], "instruments: this must be a mapping"),
        ("instruments/Red", {}, "instruments.Red: a name begins with a small letter"),
        ("instruments/red", "pump", "instruments.red: this must be {model"),
        ("instruments/red/model", "cavro-xcaliber", "(did you mean cavro-xcalibur?)"),
        ("instruments/red/link", "usb", "instruments.red.link: 'usb' is no link"),
        ("instruments/red/link", ..., "instruments.red.link: None is no link"),
        ("instruments/red/link", "tcp:localhost", "'localhost' is no host:port"),
        (
            "instruments/red/link",
            "opc.tcp://127.0.0.1:4840",
            "a cavro-xcalibur hangs on pty or tcp, not on opc.tcp.",
        ),
        (
            "instruments/red/adress",
            1,
            "instruments.red.adress: there is no such key (did you mean address?).",
        ),
        ("instruments/red/address", 99, "instruments.red: address is 99 and must be a whole number"),
        ("instruments/blue/address", 1, "instruments.blue.address: red on line rs485 already answers to 1."),
        ("instruments/red/link", "pty:scale", "line scale has the name of another instrument."),
        ("instruments/scale/link", "pty:rs485", "instruments.scale.link: a mt-sics cannot share line rs485"),
        ("positions/Nest", {}, "positions.Nest: a name begins with a small letter"),
        ("positions/nest-1", 5, "positions.nest-1: this must be {frame"),
        ("positions/nest-1/at", "nest-1", "positions.nest-1: frame and at exclude each other"),
        ("positions/nest-1/frame", [[0, 0, 0]], "positions.nest-1.frame: frame needs three points"),
        ("positions/nest-1/frame", [["a", 0, 0]] * 3, "positions.nest-1.frame: this must be three points"),
        ("positions/nozzle-1/at", "nest-2", "'nest-2' is no nest to be above (did you mean nest-1?)."),
        ("positions/nozzle-1/well", "first", "positions.nozzle-1.well: 'first' is no well name"),
        ("positions/nozzle-1/height", 5, "positions.nozzle-1.height: there is no such key"),
        ("labware/plate-1", None, "labware.plate-1: this must be {type"),
        (
            "labware/plate-1/type",
            "sbs-97",
            "labware.plate-1.type: 'sbs-97' is no labware type (did you mean sbs-96?)",
        ),
        (
            "labware/plate-1/at",
            "nest-7",
            "labware.plate-1.at: there is no position 'nest-7' (did you mean nest-1?).",
        ),
        ("labware/plate-1/at", "nozzle-1", "labware.plate-1.at: nozzle-1 is a nozzle above nest-1"),
        ("labware/reservoir/at", "nest-1", "labware.reservoir.at: nest-1 already holds plate-1."),
        ("labware/plate-1/tare_g", -1, "labware.plate-1.tare_g: -1 must be a number"),
        ("labware/plate-1/well_capacity_ul", "x", "labware.plate-1.well_capacity_ul: 'x' must be a number"),
        (
            "labware/plate-1/contents",
            {"A13": {"dye": 1}},
            "labware.plate-1.contents.A13: sbs-96 has no well A13.",
        ),
        ("labware/plate-1/contents", {"A1": 5}, "labware.plate-1.contents.A1: this must be {LIQUID"),
        ("labware/plate-1/contents", {"A1": {"dye": 361}}, "361 µl do not fit into 360 µl."),
        ("labware/plate-1/contents", ["A1"], "labware.plate-1.contents: this must be {A1"),
        ("liquids/red-dye", "red", "liquids.red-dye: this must be {density_g_ml"),
        ("liquids/red-dye/density_g_ml", 0, "liquids.red-dye.density_g_ml: 0 must be a number"),
        ("liquids/red-dye/ph", 50, "liquids.red-dye.ph: 50 must be a number"),
        ("liquids/red-dye/absorbance", [450], "liquids.red-dye.absorbance: this must map wavelengths"),
        (
            "liquids/red-dye/absorbance",
            {"blue": 1},
            "liquids.red-dye.absorbance.blue: 'blue' must be a number",
        ),
        ("faults", {}, "faults: this must be a list"),
        ("faults", ["x"], "faults.0: this must be {instrument"),
        (
            "faults",
            [{"instrument": "rad", "kind": "hang"}],
            "there is no instrument 'rad' on this bench (did you mean red?).",
        ),
        ("faults", [{"instrument": "scale", "kind": "stuck"}], "faults.0: a mt-sics cannot suffer stuck."),
        (
            "faults",
            [{"instrument": "red", "kind": "hangs"}],
            "faults.0: kind 'hangs' is not a fault (did you mean hang?)",
        ),
    ],
)
def test_one_mistake(tmp_path: Path, path: str, value: Any, sentence: str) -> None:
    found = mistakes(tmp_path, changed(path, value))
    assert any(sentence in line for line in found), found
    assert all(line.startswith("file, line ") for line in found), found


def test_all_mistakes_come_at_once_with_their_lines(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        "bench: demo\n"
        "speed: fast\n"
        "instruments:\n"
        "  red:\n"
        "    model: cavro-xcalibur\n"
        "    link: pty\n"
        "    syringe: 5\n"
        "  scale: {model: mt-scis, link: pty}\n"
        "labware: {plate-1: {type: plate}}\n",
    )
    assert [line.split(":")[0] for line in found] == [
        "file, line 9",
        "file, line 2",
        "file, line 7",
        "file, line 8",
    ]


def test_mistakes_of_options_come_together_too(tmp_path: Path) -> None:
    content = changed("instruments/red/address", 99)
    content["instruments"]["scale"]["capacity_g"] = -5
    found = mistakes(tmp_path, content)
    assert ["instruments.red" in line for line in found] == [True, False]
    assert "instruments.scale: capacity_g is -5" in found[1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("bench: no\ninstruments: {}", "line 1: bench: YAML does not read no as it looks"),
        ("bench: a\nseed: 12:30\ninstruments: {}", "line 2: seed: YAML does not read 12:30 as it looks"),
        ("bench: a\nseed: 010\ninstruments: {}", "line 2: seed: YAML does not read 010 as it looks"),
        ("bench: a\nbench: b\ninstruments: {}", "line 2: bench: this key is there twice; keep one."),
    ],
)
def test_traps_of_yaml(tmp_path: Path, text: str, sentence: str) -> None:
    assert any(sentence in line for line in mistakes(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML"),
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("!!python/none", "is no YAML"),
    ],
)
def test_no_bench_file_at_all(tmp_path: Path, text: str, sentence: str) -> None:
    assert any(sentence in line for line in mistakes(tmp_path, text))


def test_wavelengths_may_be_text(tmp_path: Path) -> None:
    assert mistakes(tmp_path, changed("liquids/red-dye/absorbance", {"450": 2.0})) == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read: No such file"):
        load_bench(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"bench: \xff")
    with pytest.raises(BenchError, match="it is not UTF-8 text"):
        load_bench(tmp_path / "latin.yaml")
