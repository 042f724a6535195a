"""The balance against its manual's lines, and its weight against the world."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.errors import BenchError
from firmware_sim.instruments.mt_sics import MtSics
from firmware_sim.log import nowhere
from firmware_sim.world import World
from tests.firmware_sim.sims import BENCH

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "mettler_mtsics.yaml"
FRAMES = {v["id"][-2:]: bytes.fromhex(v["hex"]) for v in yaml.safe_load(VECTORS.read_text())["vectors"]}
VESSEL = {"labware": {"cup": {"type": "tube-1", "contents": {"A1": {"water": 10000.0}}, "tare_g": 90.0}}}


class Weighing:
    """A balance of 10 mg with a cup of 100 g on it."""

    def __init__(self, world: dict[str, Any] | None = None, **options: Any) -> None:
        self.world = World(VESSEL if world is None else world)
        defaults = {"readability_g": 0.01, "noise_g": 0}
        self.balance = MtSics("scale", {**defaults, **options}, self.world, nowhere)

    def ask(self, line: str) -> str:
        return self.balance.receive(line.encode() + b"\r\n").decode()

    def pour(self, ul: float) -> None:
        self.world.put("cup/A1", {"water": ul})


def test_vectors_stable_and_dynamic_weight() -> None:
    scale = Weighing()
    assert scale.balance.receive(FRAMES["01"]) == FRAMES["02"]
    scale.world.labware["cup"].tare_g = 119.07
    scale.balance.tick(0.9)
    assert scale.balance.receive(FRAMES["09"]) == b"S D     129.00 g\r\n", "on its way to 129.07 g"
    scale.balance.tick(0.09)
    scale.world.labware["cup"].tare_g += 0.02
    assert scale.balance.receive(FRAMES["09"])[:6] == FRAMES["10"][:6]
    assert len(scale.balance.receive(FRAMES["09"])) == len(FRAMES["10"])


def test_vectors_zero_tare_and_tare_value() -> None:
    scale = Weighing()
    assert scale.balance.receive(FRAMES["19"]) == FRAMES["20"]
    assert scale.balance.receive(FRAMES["17"]) == FRAMES["18"]
    assert scale.balance.receive(FRAMES["11"]) == FRAMES["12"]
    assert scale.ask("S") == "S S       0.00 g\r\n"
    assert scale.ask("TA") == "TA A       0.00 g\r\n", "zeroing clears the tare"


def test_vectors_identity_and_unknown_command() -> None:
    scale = Weighing(serial="1234567", type="ICS469 OU 60.18 kg")
    assert scale.balance.receive(FRAMES["21"]) == FRAMES["22"]
    assert scale.balance.receive(FRAMES["23"]) == FRAMES["24"]
    assert scale.balance.receive(FRAMES["27"]) == FRAMES["28"]


def test_every_vector_is_used() -> None:
    used = {"01", "02", "09", "10", "11", "12", "17", "18", "19", "20", "21", "22", "23", "24", "27", "28"}
    assert set(FRAMES) == used


def test_s_waits_until_nothing_changes() -> None:
    scale = Weighing()
    scale.pour(2000)
    assert scale.ask("S") == ""
    scale.balance.tick(0.5)
    scale.pour(1000)
    scale.balance.tick(0.6)
    assert scale.balance.unasked() == b"", "a change begins the waiting anew"
    due = scale.balance.due()
    assert due is not None
    assert due == pytest.approx(0.4)
    scale.balance.tick(due)
    assert scale.balance.unasked() == b"S S     103.00 g\r\n"
    assert scale.balance.due() is None


def test_s_gives_up_after_its_own_time() -> None:
    scale = Weighing({**VESSEL, "speed": 10.0}, timeout_s=2.0)
    scale.pour(100)
    assert scale.ask("S") == ""
    for _ in range(39):
        scale.pour(100)
        scale.balance.tick(0.5)
    assert scale.balance.unasked() == b"", "1.95 s of the balance's clock at ten times speed"
    scale.pour(100)
    scale.balance.tick(0.5)
    assert scale.balance.unasked() == b"S I\r\n"


@pytest.mark.parametrize(
    ("command", "done"), [("Z", "Z A"), ("T", "T S     105.00 g"), ("S", "S S     105.00 g")]
)
def test_one_weighing_command_at_a_time(command: str, done: str) -> None:
    scale = Weighing()
    scale.pour(5000)
    scale.ask(command)
    replies = [scale.ask(other) for other in ("S", "SI", "SIR", "Z", "ZI", "T", "TI", "TA", "TAC")]
    assert replies == [f"{word} I\r\n" for word in ("S", "S", "S", "Z", "ZI", "T", "TI", "TA", "TAC")]
    assert scale.ask("I4") != ""
    scale.balance.tick(2.0)
    assert scale.balance.unasked().decode() == f"{done}\r\n"


def test_at_sign_cancels_and_keeps_the_zero() -> None:
    scale = Weighing(serial="77")
    scale.ask("Z")
    scale.pour(5000)
    scale.ask("T")
    assert scale.ask("@") == 'I4 A "77"\r\n'
    scale.balance.tick(5.0)
    assert scale.balance.unasked() == b""
    assert scale.ask("S") == "S S       5.00 g\r\n"


def test_immediate_zero_and_tare() -> None:
    scale = Weighing()
    assert scale.ask("TI") == "TI S     100.00 g\r\n"
    assert scale.ask("SI") == "S S       0.00 g\r\n"
    scale.pour(1000)
    assert scale.ask("ZI") == "ZI D\r\n"
    assert scale.ask("TAC") == "TAC A\r\n"


def test_tare_by_value() -> None:
    scale = Weighing()
    assert scale.ask("TA 90.004 g") == "TA A      90.00 g\r\n"
    assert scale.ask("S") == "S S      10.00 g\r\n"
    assert [scale.ask(f"TA {wrong}") for wrong in ("x", "5 kg", "-3 g", "9999 g")] == ["TA L\r\n"] * 4
    scale.ask("TAC")
    assert scale.ask("S") == "S S     100.00 g\r\n"


def test_limits() -> None:
    scale = Weighing(capacity_g=99.0, zero_range_g=5.0)
    assert (scale.ask("S"), scale.ask("SI"), scale.ask("T")) == ("S +\r\n", "S +\r\n", "T +\r\n")
    assert scale.ask("Z") == "Z +\r\n"
    scale = Weighing()
    scale.ask("Z")
    scale.world.labware["cup"].tare_g = 0.0
    scale.balance.tick(5.0)
    assert (scale.ask("S"), scale.ask("T")) == ("S -\r\n", "T -\r\n")


def test_repeating_goes_on_until_another_command() -> None:
    scale = Weighing({**VESSEL, "speed": 2.0})
    assert scale.ask("SIR") == "S S     100.00 g\r\n"
    assert scale.balance.due() == pytest.approx(0.4)
    scale.balance.tick(1.3)
    assert scale.balance.unasked() == b"S S     100.00 g\r\n" * 3
    scale.ask("S")
    assert scale.balance.due() is None


def test_bad_lines() -> None:
    scale = Weighing()
    assert scale.ask("s") == "ES\r\n"
    assert scale.ask("S now") == "EL\r\n"
    assert scale.balance.receive(b"S\xff\r\n") == b"ET\r\n"
    assert scale.balance.receive(b"x" * 100) == b"ET\r\n"
    assert scale.balance.receive(b"I") == b""
    assert scale.balance.receive(b"2\r\nI3\r\n").count(b"\r\n") == 2


def test_commands_implemented_ends_with_a() -> None:
    lines = Weighing().ask("I0").splitlines()
    assert all(line.startswith("I0 B ") for line in lines[:-1])
    assert lines[-1].startswith("I0 A 1 ")
    assert {line.split('"')[1] for line in lines} == {
        "@", "I0", "I1", "I2", "I3", "I4", "S", "SI", "SIR", "Z", "ZI", "T", "TI", "TA", "TAC"
    }  # fmt: skip


def test_messages_are_cut_for_faults() -> None:
    balance = Weighing().balance
    assert balance.split(b"S\r\nSI") == [b"S\r\n"]
    assert balance.split(b"\r\nZ\r\n") == [b"SI\r\n", b"Z\r\n"]
    assert balance.split(b"x" * 100) == [b"x" * 100]


def test_faults_of_the_balance() -> None:
    scale = Weighing(serial="77")
    scale.balance.drift(0.5)
    scale.balance.tick(2.0)
    assert scale.ask("SI") == "S S     101.00 g\r\n"
    scale.balance.fail(10)
    assert (scale.ask("S"), scale.ask("Z"), scale.ask("T")) == ("S S Error 10b\r\n", "Z I\r\n", "T I\r\n")
    scale.balance.reboot()
    assert scale.balance.unasked() == b'I4 A "77"\r\n'
    scale.balance.tick(5.0)
    assert scale.ask("S") == "S S     100.00 g\r\n", "neither error nor drift outlives a restart"
    with pytest.raises(BenchError, match="1 to 99"):
        scale.balance.fail(100)
    with pytest.raises(BenchError, match="no axis"):
        scale.balance.stick(1)


def test_noise_comes_from_the_seed() -> None:
    def readings(seed: int) -> list[str]:
        scale = Weighing({**VESSEL, "seed": seed}, noise_g=0.05)
        return [scale.ask("SI") for _ in range(8)]

    assert readings(1) == readings(1)
    assert readings(1) != readings(2)
    assert len(set(readings(1))) > 1


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("scale", {"at": "nest-1"}, 1.0),
        ("scale", {"weighs": "reservoir"}, 40.0),
        ("scale", {}, 1.0),
        ("nest-1", {}, 1.0),
    ],
)
def test_what_stands_on_the_pan(name: str, options: dict[str, Any], expected: float) -> None:
    world = copy.deepcopy(BENCH)
    world["labware"]["plate-1"]["tare_g"] = 1.0
    w = World(world)
    balance = MtSics(name, {"noise_g": 0, **options}, w, nowhere)
    assert balance.state()["mass_g"] == expected
    w.pick(w.pose_of("nest-1"))
    assert balance.state()["mass_g"] == (expected if "weighs" in options else 0.0)


@pytest.mark.parametrize(
    "options", [{"at": "nowhere"}, {"weighs": "nothing"}, {"at": "nest-1", "weighs": "plate-1"}]
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BenchError):
        MtSics("scale", options, World(BENCH), nowhere)
