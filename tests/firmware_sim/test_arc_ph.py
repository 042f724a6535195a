"""The pH sensor against its manual's frames and register map."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.api import BenchError
from firmware_sim.hosts.modbus import RtuSlave, crc16
from firmware_sim.instruments.hamilton_arc_ph import HamiltonArcPh
from firmware_sim.log import nowhere
from firmware_sim.world import World

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "hamilton_arc_ph.yaml"
BENCH = {
    "labware": {"flask": {"type": "tube-1"}},
    "liquids": {"buffer": {"ph": 4.02503}, "acid": {"ph": 3.0}, "base": {"ph": 9.0}},
}


def sensor(world: World | None = None, **options: Any) -> HamiltonArcPh:
    return HamiltonArcPh("ph", {"in": "flask/A1", "noise": 0, **options}, world or World(BENCH), nowhere)


def read(arc: HamiltonArcPh, register: int, count: int, function: int = 3) -> bytes:
    """The data of a read, or the exception PDU, asked for by the number the manual gives the register."""
    request = struct.pack(">BBHH", arc.unit, function, register - 1, count)
    reply = RtuSlave([arc]).receive(request + crc16(request))
    return reply[3:-2] if reply[1] == function else reply[1:-2]


def write(arc: HamiltonArcPh, register: int, data: bytes) -> bytes:
    request = struct.pack(">BBHHB", arc.unit, 16, register - 1, len(data) // 2, len(data)) + data
    return RtuSlave([arc]).receive(request + crc16(request))[1:-2]


def block(data: bytes) -> tuple[int, float, int, float, float]:
    """Unit, value, status, lowest, highest; low word first."""
    words = [data[i + 2 : i + 4] + data[i : i + 2] for i in range(0, 20, 4)]
    unit, value, status, low, high = struct.unpack(">IfIff", b"".join(words))
    return unit, value, status, low, high


def test_vectors_of_the_manual() -> None:
    vectors = yaml.safe_load(VECTORS.read_text())["vectors"]
    asked = [bytes.fromhex(v["hex"]) for v in vectors if v["direction"] == "host->device"]
    answered = [bytes.fromhex(v["hex"]) for v in vectors if v["direction"] == "device->host"]
    arc = sensor()
    arc.world.put("flask/A1", {"buffer": 1000.0})
    assert [RtuSlave([arc]).receive(frame) for frame in asked] == answered


@pytest.mark.parametrize("function", [3, 4])
def test_temperature_block_is_that_of_the_manual(function: int) -> None:
    # Figure 2.5.3.3.2: 24.35834 degC, status 0, -20 to 130.
    unit, value, status, low, high = block(read(sensor(temperature_c=24.35834), 2410, 10, function))
    assert (unit, status, low, high) == (0x04, 0, -20.0, 130.0)
    assert value == pytest.approx(24.35834)


def test_a_block_is_read_whole_or_not_at_all() -> None:
    arc = sensor()
    assert read(arc, 2092, 2) == b"\x83\x02"
    assert read(arc, 2090, 4) == b"\x83\x02"
    assert read(arc, 2089, 10) == b"\x83\x02"


def test_other_functions_are_refused() -> None:
    arc = sensor()
    request = bytes.fromhex("01 06 08 29 00 01")
    assert RtuSlave([arc]).receive(request + crc16(request))[1:-2] == b"\x86\x01"


def test_identity() -> None:
    arc = sensor(serial="0001001")
    assert read(arc, 1032, 8) == b"EPHUM011        "
    assert read(arc, 1280, 8) == b"242111/01       "
    assert read(arc, 1312, 8) == b"0001001         "


def test_a_sensor_in_nothing_or_in_an_empty_well_reads_seven() -> None:
    assert block(read(sensor(), 2090, 10))[1] == 7.0
    alone = HamiltonArcPh("ph", {"noise": 0}, World({}), nowhere)
    assert block(read(alone, 2090, 10))[1] == 7.0


def test_a_mixture_has_the_mean_hydrogen_ion_concentration() -> None:
    arc = sensor()
    arc.world.put("flask/A1", {"acid": 100.0, "base": 900.0})
    assert block(read(arc, 2090, 10))[1] == pytest.approx(4.0, abs=1e-4)


def test_ph_in_millivolt_and_temperature_in_kelvin() -> None:
    arc = sensor()
    arc.world.put("flask/A1", {"acid": 100.0})
    assert write(arc, 2090, b"\x00\x00\x00\x20") == struct.pack(">BHH", 16, 2089, 2)
    assert write(arc, 2410, b"\x00\x02\x00\x00") == struct.pack(">BHH", 16, 2409, 2)
    unit, value, _, low, high = block(read(arc, 2090, 10))
    # Nernst at 25 degC: 59.16 mV for each pH below 7.
    assert unit == 0x200000
    assert value == pytest.approx(4 * 59.16, abs=0.05)
    assert [low, high] == pytest.approx([-7 * 59.16, 7 * 59.16], abs=0.05)
    assert block(read(arc, 2410, 10))[1] == pytest.approx(298.15)
    assert write(arc, 2410, b"\x10\x00\x00\x00") == b"\x90\x03"


def test_user_space_keeps_what_is_written_and_identity_does_not() -> None:
    arc = sensor()
    write(arc, 1536, b"Hello World     ")
    assert read(arc, 1536, 8) == b"Hello World     "
    assert write(arc, 1312, b"0000000000000000") == b"\x90\x02"


def test_drift_goes_on_until_it_is_stopped_and_stays_until_reboot() -> None:
    arc = sensor()
    arc.drift(0.5)
    arc.tick(2.0)
    assert block(read(arc, 2090, 10))[1] == pytest.approx(8.0)
    arc.drift(0.0)
    arc.tick(10.0)
    assert block(read(arc, 2090, 10))[1] == pytest.approx(8.0)
    arc.reboot()
    assert block(read(arc, 2090, 10))[1] == pytest.approx(7.0)


def test_an_error_stands_in_the_status_and_in_its_register() -> None:
    arc = sensor()
    arc.fail(0x20)
    assert block(read(arc, 2090, 10))[2] == 0x10
    assert read(arc, 4800, 8)[:4] == b"\x00\x20\x00\x00"
    arc.fail(0)
    assert block(read(arc, 2090, 10))[2] == 0


def test_a_temperature_out_of_range_is_said() -> None:
    assert block(read(sensor(temperature_c=140), 2410, 10))[2] == 0x01


def test_power_ups_are_counted() -> None:
    arc = sensor()
    before = read(arc, 4682, 6)
    arc.reboot()
    assert (before[:4], read(arc, 4682, 6)[:4]) == (b"\x00\x01\x00\x00", b"\x00\x02\x00\x00")


def test_operating_hours_are_physical_time() -> None:
    arc = sensor()
    arc.tick(5400.0)
    data = read(arc, 4676, 6)
    assert struct.unpack(">f", data[2:4] + data[:2])[0] == pytest.approx(1.5)


def test_noise_is_that_of_the_seed() -> None:
    def values(seed: int) -> list[float]:
        arc = sensor(World({**BENCH, "seed": seed}), noise=0.05)
        return [block(read(arc, 2090, 10))[1] for _ in range(5)]

    assert values(1) == values(1)
    assert values(1) != values(2)
    assert len(set(values(1))) == 5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"address": 33}, "address"),
        ({"address": "1"}, "address"),
        ({"in": "bottle/A1"}, "bottle"),
        ({"noise": -1}, "noise"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BenchError, match=named):
        sensor(**options)


def test_stuck_is_no_fault_of_a_sensor() -> None:
    with pytest.raises(BenchError, match="no axis"):
        sensor().stick(1)
