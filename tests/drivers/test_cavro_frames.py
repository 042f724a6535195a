"""Frames of the Cavro XCalibur: golden ones, and a stop that is understood wherever the line was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from drivers.api import FixedWell, OverPosition
from drivers.liquid.cavro_xcalibur.declared import CavroOptions
from drivers.liquid.cavro_xcalibur.frames import STOP_LEAD_IN, Answer, decode, encode
from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur
from protocols.codec import Malformed
from protocols.framed import FramedDecoder
from protocols.links import Links

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "tecan_cavro_xcalibur.yaml"
OEM = [v for v in yaml.safe_load(VECTORS.read_text())["vectors"] if v["hex"].startswith("02")]


@pytest.mark.parametrize("vector", OEM, ids=[v["id"] for v in OEM])
def test_golden_frames(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["hex"])
    (payload,) = FramedDecoder().feed(wire)
    assert isinstance(payload, bytes)
    if vector["direction"] == "host->device":
        address, sequence = payload[0] - 0x30, payload[1] & 0x07
        assert encode(address, sequence, payload[2:].decode()) == wire
    else:
        answer = decode(payload)
        assert answer is not None
        assert answer == GOLDEN_ANSWERS[vector["id"]]


GOLDEN_ANSWERS = {
    "tecan_cavro_xcalibur-02": Answer(False, 0, ""),
    "tecan_cavro_xcalibur-04": Answer(True, 0, ""),
    "tecan_cavro_xcalibur-09": Answer(True, 0, "3000"),
    "tecan_cavro_xcalibur-10": Answer(True, 7, ""),
}


def test_repeat_flag_and_check_worked_by_hand() -> None:
    # 02 ^ 31 ^ 3b ^ 54 ^ 03 = 33^3b=08, ^54=5c, ^03=5f
    assert encode(1, 3, "T", repeat=True) == bytes.fromhex("02 31 3b 54 03 5f")
    assert encode(15, 7, "Q")[:3] == bytes.fromhex("02 3f 37")


@pytest.mark.parametrize("payload", [b"", b"0", b"1@", b"0\x20", b"0\xc0", b"0\x50", b"0@\xff"])
def test_no_pump_sends_this(payload: bytes) -> None:
    assert decode(payload) is None


@given(st.binary(max_size=80))
def test_any_payload_is_an_answer_or_none(payload: bytes) -> None:
    answer = decode(payload)
    assert answer is None or 0 <= answer.error <= 15


def by_position(wire: bytes) -> list[bytes]:
    """Commands that a pump executes which, inside a frame, takes bytes as they come."""
    done, at = [], 0
    while (at := wire.find(b"\x02", at)) >= 0:
        end = wire.find(b"\x03", at + 3)
        if end < 0 or end + 1 >= len(wire):
            break
        check = 0
        for byte in wire[at : end + 1]:
            check ^= byte
        if check == wire[end + 1] and wire[at + 1] == 0x31:
            done.append(wire[at + 3 : end])
        at = end + 2
    return done


def by_restart(wire: bytes) -> list[bytes]:
    """Commands that a pump executes which begins anew at every STX."""
    frames = (item for item in FramedDecoder().feed(wire) if not isinstance(item, Malformed))
    return [frame[2:] for frame in frames if frame[0] == 0x31]


@pytest.mark.parametrize("baudrate", [9600, 38400])
@pytest.mark.parametrize("executes", [by_position, by_restart])
def test_a_stop_is_understood_wherever_the_frame_before_was_cut(executes: Any, baudrate: int) -> None:
    pump_options = options(baudrate=baudrate)
    pump = CavroXCalibur("red", pump_options, Links())
    for sequence in range(1, 8):
        cut_off = encode(1, sequence, f"V1400IA{1000 + sequence}R")
        for stop in pump._stops:
            for length in range(len(cut_off)):
                assert executes(cut_off[:length] + stop) == [b"T"], (length, stop)
            # Two devices on one line are stopped one after the other.
            assert executes(cut_off[:5] + stop + stop) == [b"T", b"T"]


def test_the_lead_in_never_completes_a_command() -> None:
    # The check that an unlucky frame would need: every command whose own check is one of the lead-in's bytes.
    for number in range(3000):
        frame = encode(1, 1, f"A{number}R")
        assert by_position(frame[:-1] + STOP_LEAD_IN) == []
        assert by_position(frame[:-2] + STOP_LEAD_IN) == []


def options(**keys: Any) -> CavroOptions:
    given = {"driver": "cavro-xcalibur", "port": "/dev/x", "syringe_ul": 1000, "ports": {1: "reservoir/A1"}}
    return msgspec.convert({**given, **keys}, CavroOptions)


def test_ports_become_outlets_and_the_expelling_one_comes_last() -> None:
    three_way = options(ports={2: {"over": "nozzle-1"}, 1: "reservoir/A1"})
    assert three_way.three_way
    assert CavroXCalibur.outlets(three_way) == (FixedWell("reservoir/A1"), OverPosition("nozzle-1"))
    many = options(ports={1: "waste/A1", 4: "reservoir/A1", 6: {"over": "nozzle-1"}}, expel_port=1)
    assert not many.three_way
    assert CavroXCalibur.outlets(many)[-1] == FixedWell("waste/A1")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"ports": {1: "a/A1", 3: "b/A1"}, "valve": "three-way"}, "ports 1 .input. and 2 .output. only"),
        ({"ports": {1: {"over": "n-1"}, 2: {"over": "n-2"}}}, "only one valve port can end in a nozzle"),
        ({"ports": {1: "a/A1", 3: "b/A1"}, "expel_port": 2}, "expel_port 2 is not among the ports"),
        ({"ports": {1: "a/A1"}, "expel_port": 1}, "initialises through port 2"),
        ({"ports": {}}, "length >= 1"),
        ({"ports": {0: "a/A1"}}, ">= 1"),
        ({"address": 16}, "<= 15"),
        ({"baudrate": 19200}, "19200"),
        ({"syringe_ul": 0}, ">= 25"),
        ({"color": "red"}, "unknown field `color`"),
    ],
)
def test_options_that_no_pump_has(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        options(**keys)
