"""Modbus frames: golden ones, the examples of the specification, and rubbish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from protocols import modbus as wire
from protocols.codec import Malformed
from protocols.errors import BadRequest
from protocols.modbus_frames import Adu, RtuDecoder, TcpDecoder
from tests.protocols.rigs import rtu

VECTORS: dict[str, dict[str, Any]] = {
    vector["id"]: vector
    for vector in yaml.safe_load(
        (Path(__file__).parent.parent / "data" / "vectors" / "modbus.yaml").read_text()
    )["vectors"]
}


def golden(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


def rtu_decoder(unit: int = 1, function: int = 3, size: int = 7) -> RtuDecoder:
    decoder = RtuDecoder(wire._has_good_crc)
    decoder.expect(unit, function, size)
    return decoder


def test_requests_are_the_golden_ones() -> None:
    assert wire.frame_read_holding(1, 0x300C, 1) == golden("modbus_rtu_crc-01")
    assert wire.frame_read_holding(1, 2089, 10) == golden("hamilton_arc_ph-01")
    assert wire.frame_read_holding(0, 400, 1, tid=4) == golden("universal_robots-01")
    assert wire.frame_read_holding(0, 258, 1, tid=5) == golden("universal_robots-03")


def test_every_golden_answer_is_understood() -> None:
    decoder = rtu_decoder(size=25)
    assert decoder.feed(golden("hamilton_arc_ph-02")) == [Adu(1, 0, golden("hamilton_arc_ph-02")[1:-2])]
    for name in ("modbus_rtu_crc-02", "modbus_rtu_crc-03"):
        assert decoder.feed(golden(name)) == [Adu(1, 0, golden(name)[1:-2])]
    for name, tid in (("universal_robots-02", 4), ("universal_robots-04", 5)):
        assert TcpDecoder().feed(golden(name)) == [Adu(0, tid, golden(name)[7:])]


@pytest.mark.parametrize(
    ("made", "pdu"),
    [
        # The examples of Modbus Application Protocol V1.1b3, 6.1 to 6.12.
        (wire.frame_read_coils(7, 19, 19, 1), "01 00 13 00 13"),
        (wire.frame_read_discrete(7, 196, 22, 1), "02 00 C4 00 16"),
        (wire.frame_read_holding(7, 107, 3, 1), "03 00 6B 00 03"),
        (wire.frame_read_input(7, 8, 1, 1), "04 00 08 00 01"),
        (wire.frame_write_coil(7, 172, True, 1), "05 00 AC FF 00"),
        (wire.frame_write_coil(7, 172, False, 1), "05 00 AC 00 00"),
        (wire.frame_write_register(7, 1, 3, 1), "06 00 01 00 03"),
        (
            wire.frame_write_coils(7, 19, [c == "1" for c in "1011001110"], 1),
            "0F 00 13 00 0A 02 CD 01",
        ),
        (wire.frame_write_registers(7, 1, [10, 0x0102], 1), "10 00 01 00 02 04 00 0A 01 02"),
    ],
)
def test_requests_are_those_of_the_specification(made: bytes, pdu: str) -> None:
    body = bytes.fromhex(pdu)
    assert made == b"\x00\x01\x00\x00" + (len(body) + 1).to_bytes(2, "big") + b"\x07" + body


def test_rtu_requests_carry_the_check_of_the_specification() -> None:
    assert wire.frame_write_register(17, 1, 3) == rtu("11 06 00 01 00 03")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: wire.frame_read_holding(256, 0, 1),
        lambda: wire.frame_read_holding(1, -1, 1),
        lambda: wire.frame_read_holding(1, 65535, 2),
        lambda: wire.frame_read_holding(1, 0, 126),
        lambda: wire.frame_read_coils(1, 0, 2001),
        lambda: wire.frame_read_input(1, 0, 0),
        lambda: wire.frame_write_register(1, 0, -1),
        lambda: wire.frame_write_registers(1, 0, [65536]),
        lambda: wire.frame_write_registers(1, 0, [0] * 124),
        lambda: wire.frame_write_registers(1, 0, []),
        lambda: wire.frame_write_coils(1, 0, [True] * 1969),
    ],
)
def test_what_modbus_does_not_have_is_refused_before_it_is_sent(ask: Callable[[], bytes]) -> None:
    with pytest.raises(BadRequest) as caught:
        ask()
    assert not caught.value.sent


@given(st.lists(st.binary(max_size=300)))
def test_no_bytes_break_the_decoders_or_make_them_grow(pieces: list[bytes]) -> None:
    for decoder in (TcpDecoder(), rtu_decoder()):
        for piece in pieces:
            decoder.feed(piece)
            assert len(decoder._buffer) <= 260
        decoder.reset()
        assert not decoder._buffer


@given(st.binary(max_size=30), st.integers(0, 40))
def test_an_rtu_answer_is_found_behind_noise_however_it_is_cut(noise: bytes, place: int) -> None:
    answer = rtu("01 03 02 12 34")
    data = noise + answer
    decoder = rtu_decoder()
    found = [*decoder.feed(data[:place]), *decoder.feed(data[place:])]
    # Noise that looks like the beginning of the same answer may cost it, never change it.
    assert Adu(1, 0, answer[1:-2]) in found or b"\x01" in noise


def test_noise_that_looks_like_a_long_answer_of_another_unit_does_not_hold_up_ours() -> None:
    decoder = rtu_decoder()
    assert decoder.feed(b"\x05\x03\xfa" + rtu("01 03 02 12 34")) == [Adu(1, 0, b"\x03\x02\x12\x34")]
    assert decoder.skipped == 3


def test_values_that_happen_to_form_a_frame_are_values() -> None:
    answer = rtu("01 03 06" + rtu("01 83 02").hex() + "00")
    for place in range(1, len(answer)):
        decoder = rtu_decoder(size=len(answer))
        found = [*decoder.feed(answer[:place]), *decoder.feed(answer[place:])]
        assert found == [Adu(1, 0, answer[1:-2])]


def test_a_wrong_check_is_malformed_only_where_the_answer_was_due() -> None:
    bad = rtu("01 03 02 12 34")[:-1] + b"\x00"
    (item,) = rtu_decoder().feed(bad)
    assert isinstance(item, Malformed)
    assert rtu_decoder(unit=2).feed(bad) == []


def test_frames_of_other_units_are_frames() -> None:
    decoder = rtu_decoder()
    frames = decoder.feed(rtu("02 03 02 00 07") + rtu("01 83 02") + rtu("01 06 00 01 00 03"))
    assert frames == [
        Adu(2, 0, b"\x03\x02\x00\x07"),
        Adu(1, 0, b"\x83\x02"),
        Adu(1, 0, b"\x06\x00\x01\x00\x03"),
    ]


@pytest.mark.parametrize(
    "header", ["00 01 00 02 00 03 0B 08 01", "00 01 00 00 00 01 00", "00 01 00 00 01 00 00"]
)
def test_what_is_no_tcp_header_is_malformed(header: str) -> None:
    (item,) = TcpDecoder().feed(bytes.fromhex(header))
    assert isinstance(item, Malformed)
