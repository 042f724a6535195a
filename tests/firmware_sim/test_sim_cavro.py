"""The pump's wire: framing, sequence and repeat, errors, reports. Expected bytes are those of the manual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.errors import BenchError
from tests.firmware_sim.sims import PumpBench, oem

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "tecan_cavro_xcalibur.yaml"
FRAMES = {v["id"][-2:]: bytes.fromhex(v["hex"]) for v in yaml.safe_load(VECTORS.read_text())["vectors"]}


def test_vectors_initialize_and_poll() -> None:
    bench = PumpBench()
    assert bench.pump.receive(FRAMES["01"]) == FRAMES["02"]
    assert bench.pump.receive(FRAMES["03"]) == FRAMES["02"], "busy while it initialises"
    bench.settle()
    assert bench.pump.receive(FRAMES["03"]) == FRAMES["04"]


def test_vectors_move_and_position() -> None:
    bench = PumpBench()
    bench.initialize()
    assert bench.pump.receive(FRAMES["06"]) == FRAMES["02"]
    bench.settle()
    assert bench.pump.receive(FRAMES["08"]) == FRAMES["09"]
    assert bench.pump.receive(FRAMES["05"]) == FRAMES["02"]
    bench.settle()
    assert bench.ask("?") == (0x60, "0")


def test_vectors_not_initialized_and_terminate() -> None:
    bench = PumpBench()
    assert bench.pump.receive(FRAMES["06"]) == FRAMES["10"]
    bench.initialize()
    bench.ask("A3000R")
    bench.pump.tick(1.0)
    assert bench.pump.receive(FRAMES["14"]) == FRAMES["04"], "ready at once after T"


def test_vectors_of_the_terminal_protocol() -> None:
    bench = PumpBench()
    assert bench.pump.receive(FRAMES["16"]) == FRAMES["17"]
    bench.settle()
    assert bench.pump.receive(FRAMES["18"]) == FRAMES["19"]


def test_every_vector_is_used() -> None:
    used = {"01", "02", "03", "04", "05", "06", "08", "09", "10", "14", "16", "17", "18", "19"}
    assert set(FRAMES) == used


def test_terminal_protocol_is_dead_after_oem_until_power_cycle() -> None:
    bench = PumpBench()
    assert bench.pump.receive(b"/1?\r") == b"/0`0\x03\r\n"
    bench.ask("Q")
    assert bench.pump.receive(b"/1?\r") == b""
    bench.pump.reboot()
    assert bench.pump.receive(b"/1?\r") == b"/0`0\x03\r\n"


def test_a_repeated_command_is_acknowledged_and_not_executed() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("A1000R", 3)
    bench.settle()
    assert bench.ask("P500R", 4)[0] == 0x40
    bench.settle()
    assert bench.ask("P500R", 4, repeated=True) == (0x60, "")
    bench.settle()
    assert bench.ask("?", 5) == (0x60, "1500")


def test_a_command_that_was_never_received_is_executed_when_repeated() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("Q", 2)
    bench.ask("P500R", 3, repeated=True)
    bench.settle()
    assert bench.ask("?", 4) == (0x60, "500")


def test_without_the_repeat_flag_the_same_number_is_executed_again() -> None:
    bench = PumpBench()
    bench.initialize()
    for _ in range(2):
        bench.ask("P500R", 3)
        bench.settle()
    assert bench.ask("?", 3) == (0x60, "1000")


def test_a_repeated_report_reports_again() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("?", 3)
    assert bench.ask("?", 3, repeated=True) == (0x60, "0")


def test_power_cycle_forgets_the_sequence_number() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("Q", 3)
    bench.pump.reboot()
    bench.ask("ZR", 3, repeated=True)
    bench.settle()
    assert bench.ask("Q", 4) == (0x60, "")


@pytest.mark.parametrize(
    "junk", [b"", b"\x00\xff\x80", b"\x0211A30", b"\x80\x80\x80\x03\x00", b"\x0211A3\x03", b"/1Z"]
)
def test_whatever_came_before_a_block_is_understood(junk: bytes) -> None:
    bench = PumpBench()
    assert bench.pump.receive(junk + oem("?6")) == b"\x020\x60i\x03" + bytes(
        [0x02 ^ 0x30 ^ 0x60 ^ 0x69 ^ 0x03]
    )


def test_bytes_may_come_one_by_one() -> None:
    bench = PumpBench()
    replies = [bench.pump.receive(bytes([byte])) for byte in oem("Q")]
    assert replies[:-1] == [b""] * (len(replies) - 1)
    assert replies[-1] == FRAMES["10"]


def test_wrong_checksum_and_wrong_address_are_silence() -> None:
    bench = PumpBench(address=2)
    good = oem("ZR", address=0x32)
    assert bench.pump.receive(good[:-1] + bytes([good[-1] ^ 1])) == b""
    assert bench.pump.receive(oem("ZR", address=0x31)) == b""
    assert bench.pump.due() is None
    assert bench.pump.receive(oem("ZR", address=0x5F)) == b"", "a broadcast is obeyed in silence"
    assert bench.pump.due() is not None


def test_messages_are_cut_for_faults() -> None:
    pump = PumpBench(address=2).pump
    mine, other = oem("Q", address=0x32), oem("Q", address=0x31)
    assert pump.split(b"\xff" + mine[:3]) == []
    assert pump.split(mine[3:] + other + mine) == [mine, mine]


@pytest.mark.parametrize("command", ["JR", "A1000!R", "A100J5R", "A1,2R", "HR", "g" * 11 + "R", "A1R2"])
def test_invalid_command_is_refused_at_once_and_nothing_runs(command: str) -> None:
    bench = PumpBench()
    bench.initialize()
    assert bench.ask(command) == (0x62, "")
    assert bench.pump.due() is None
    assert bench.ask("Q") == (0x60, "")
    assert bench.ask("?") == (0x60, "0")


def test_an_unknown_report_is_refused() -> None:
    assert PumpBench().ask("?99") == (0x63, "")


def test_a_bad_operand_stops_the_string_there_and_shows_in_q() -> None:
    bench = PumpBench()
    bench.initialize()
    assert bench.ask("A3000A3500A0R") == (0x40, "")
    bench.settle()
    assert bench.ask("?") == (0x60, "3000")
    assert bench.ask("Q") == (0x63, "")
    assert bench.ask("Q") == (0x60, "")


@pytest.mark.parametrize(
    "command",
    [
        "A3001R",
        "P3001R",
        "D1R",
        "AR",
        "V4R",
        "V6001R",
        "v49R",
        "c2701R",
        "L21R",
        "S41R",
        "N3R",
        "M30001R",
        "G30001R",
        "K32R",
        "Z5R",
        "I3R",
        "k81R",
    ],
)
def test_operands_have_ranges(command: str) -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask(command)
    bench.settle()
    assert bench.ask("Q") == (0x63, "")


def test_moves_in_bypass_are_refused() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("BA1000R")
    bench.settle()
    assert bench.ask("Q") == (0x6B, "")
    assert bench.ask("?6") == (0x60, "b")


def test_while_moving_only_reports_stop_and_speed_are_taken() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("A3000R")
    assert bench.ask("A0R") == (0x4F, "")
    assert bench.ask("IR") == (0x4F, "")
    assert bench.ask("v100R") == (0x4F, "")
    assert bench.ask("?2") == (0x40, "1400")
    slow = bench.pump.due()
    assert bench.ask("V5600R") == (0x40, "")
    assert slow is not None
    assert bench.pump.due() == pytest.approx(slow / 4)
    bench.settle()
    assert bench.ask("Q") == (0x60, "")
    assert bench.ask("?") == (0x60, "3000")


def test_lower_case_moves_show_ready() -> None:
    bench = PumpBench()
    bench.initialize()
    assert bench.ask("a3000R") == (0x60, "")
    assert bench.ask("A0R") == (0x6F, "")
    bench.settle()
    assert bench.ask("?") == (0x60, "3000")


def test_a_string_without_r_waits_in_the_buffer() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("A700")
    assert bench.ask("F") == (0x60, "1")
    assert bench.ask("?10") == (0x60, "1")
    bench.ask("R")
    bench.settle()
    assert bench.ask("?") == (0x60, "700")
    assert bench.ask("F") == (0x60, "0")
    bench.ask("R")
    assert bench.pump.due() is None, "R does not repeat what has run"


def test_x_repeats_the_last_string() -> None:
    bench = PumpBench()
    bench.initialize()
    for command in ("P200R", "X", "XR"):
        bench.ask(command)
        bench.settle()
    assert bench.ask("?") == (0x60, "600")


def test_loops_nest() -> None:
    bench = PumpBench()
    bench.initialize()
    # 3 × (50 + 2 × (100 − 90)) = 210
    bench.ask("gP50gP100D90G2G3R")
    bench.settle()
    assert bench.ask("?") == (0x60, "210")


def test_an_endless_loop_ends_with_t() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("V6000P100D100G0R")
    bench.pump.tick(60.0)
    assert bench.ask("Q") == (0x40, "")
    bench.ask("T")
    assert bench.ask("Q") == (0x60, "")
    bench.ask("V1000G0R")
    bench.pump.tick(0.5)
    assert bench.ask("T") == (0x60, "")


def test_a_string_of_more_than_255_characters_overflows() -> None:
    bench = PumpBench()
    bench.initialize()
    assert bench.ask("P1" * 128 + "R") == (0x6F, "")
    assert bench.ask("P1" * 127 + "R")[0] == 0x40


def test_overload_needs_a_new_initialization() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("A3000R")
    bench.pump.tick(1.0)
    bench.pump.stick(1)
    assert bench.ask("Q") == (0x69, "")
    assert bench.ask("Q") == (0x61, ""), "told once; then that it needs to be initialised"
    assert bench.ask("A0R") == (0x69, "")
    assert bench.ask("?")[1] == "700", "1 s at 1400 pulses a second"
    bench.initialize()


def test_a_stuck_valve_is_a_valve_overload() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.pump.stick(None)
    bench.ask("IA100R")
    assert bench.ask("Q") == (0x6A, "")
    bench.ask("ZR")
    assert bench.ask("Q")[0] == 0x61, "still stuck"
    bench.pump.stick(0)
    bench.initialize()


def test_error_fault_and_its_limits() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.pump.fail(9)
    assert bench.ask("Q") == (0x69, "")
    assert bench.ask("Q") == (0x61, "")
    with pytest.raises(BenchError, match="1 to 15"):
        bench.pump.fail(16)


def test_reports() -> None:
    bench = PumpBench(serial="SN-7", firmware="1.2", ports={1: "reservoir/A1", 4: "plate-1/A1"})
    bench.initialize()
    bench.ask("S1v800c700L7K3I4P10R")
    bench.settle()
    answers = {
        q: bench.ask(q)[1]
        for q in ("?1", "?2", "?3", "?4", "?6", "?12", "?13", "?16", "?17", "?23", "&", "?202", "?20", "*")
    }
    assert answers == {
        "?1": "800", "?2": "5600", "?3": "700", "?4": "10", "?6": "4", "?12": "3", "?13": "1", "?16": "2",
        "?17": "1", "?23": "1.2", "&": "1.2", "?202": "SN-7", "?20": "0000", "*": "240",
    }  # fmt: skip
    assert bench.ask("?76")[1] == "XCalibur 4-port-distribution 1000ul"
    assert (bench.ask("?18")[1], bench.ask("?18")[1]) == ("1", "0")
    assert bench.ask("?15")[1] == "1"
    assert bench.ask("?29") == (0x60, "")


def test_microstep_modes() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("N1A24000R")
    assert bench.settle() == pytest.approx(24000 / (1400 * 4), abs=0.01)
    assert bench.ask("?") == (0x60, "24000")
    bench.ask("N2V48000A0R")
    assert bench.settle() == pytest.approx(0.5, abs=0.01)
    bench.ask("N0A1R")
    bench.settle()
    assert bench.ask("?") == (0x60, "1")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"address": 16}, "whole number from 1 to 15"),
        ({"syringe_ul": "1 ml"}, "must be a number"),
        ({"serial": 7}, "put it in quotes"),
        ({"ports": {0: "reservoir/A1"}}, "no port number"),
        ({"ports": {1: "nowhere/A1"}}, "no labware 'nowhere'"),
        ({"ports": {1: {"over": "nowhere"}}}, "must be a well or"),
        ({"ports": ["reservoir/A1"]}, "must map port numbers"),
        ({"valve": "5-way"}, "is not known"),
        ({"valve": "3-port", "ports": {3: "reservoir/A1"}}, "has no port 3"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        PumpBench(**options)
