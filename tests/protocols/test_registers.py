"""Register pairs, signs, strings and blocks."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import BadFrame, BadRequest
from protocols.registers import (
    Block,
    Field,
    WordOrder,
    blocks,
    decode_float32,
    decode_int32,
    decode_string,
    decode_uint32,
    encode_float32,
    encode_int32,
    encode_string,
    encode_uint32,
    signed16,
    unsigned16,
)

LOW, HIGH = WordOrder.LOW_FIRST, WordOrder.HIGH_FIRST
orders = st.sampled_from(WordOrder)


def test_floats_low_word_first_as_the_arc_sensor_sends_them() -> None:
    # Hamilton 624300/01, figure 2.5.2.3.2: the registers CD0C 4080 are pH 4.02503.
    assert decode_float32([0xCD0C, 0x4080], LOW) == pytest.approx(4.02503, abs=5e-6)
    assert decode_float32([0x4080, 0xCD0C], HIGH) == decode_float32([0xCD0C, 0x4080], LOW)


def test_the_order_of_words_is_told_from_a_value_written_out_by_hand() -> None:
    assert encode_uint32(0x12345678, HIGH) == [0x1234, 0x5678]
    assert encode_uint32(0x12345678, LOW) == [0x5678, 0x1234]
    assert encode_float32(1.0, HIGH) == [0x3F80, 0]
    assert encode_int32(-2, LOW) == [0xFFFE, 0xFFFF]


@given(st.floats(width=32, allow_nan=False), orders)
def test_floats_survive(value: float, order: WordOrder) -> None:
    assert decode_float32(encode_float32(value, order), order) == value


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1), orders)
def test_integers_survive(unsigned: int, signed: int, order: WordOrder) -> None:
    assert decode_uint32(encode_uint32(unsigned, order), order) == unsigned
    assert decode_int32(encode_int32(signed, order), order) == signed


@given(st.integers(-32768, 65535))
def test_sixteen_bits_agree_with_struct(value: int) -> None:
    word = unsigned16(value)
    assert 0 <= word <= 65535
    assert signed16(word) == struct.unpack(">h", struct.pack(">H", word))[0]


def test_the_tool_position_of_the_arm_is_signed() -> None:
    # UR article 16377: register 400 reads F060 for -400.0 mm.
    assert signed16(0xF060) == -4000


@pytest.mark.parametrize("value", [-32769, 65536])
def test_what_does_not_fit_into_a_register_is_refused(value: int) -> None:
    with pytest.raises(BadRequest, match="does not fit"):
        unsigned16(value)


def test_what_does_not_fit_into_a_pair_is_refused() -> None:
    for encode in (encode_uint32, encode_int32):
        for value in (-(2**31) - 1, 2**32):
            with pytest.raises(BadRequest, match="32 bits"):
                encode(value, HIGH)
    with pytest.raises(BadRequest, match="floating point"):
        encode_float32(1e39, HIGH)
    assert math.isinf(decode_float32(encode_float32(math.inf, HIGH), HIGH))


def test_strings() -> None:
    assert encode_string("ABC", 3) == [0x4142, 0x4300, 0]
    assert decode_string([0x4142, 0x4300, 0x5858]) == "ABC"
    assert decode_string([0x4120, 0x2020]) == "A"
    with pytest.raises(BadRequest, match="longer"):
        encode_string("ABCDE", 2)
    with pytest.raises(BadRequest, match="Latin-1"):
        encode_string("Ω", 2)


PH = Block(
    2089,
    10,
    (
        Field("unit", 2089, "uint32", LOW),
        Field("ph", 2091, "float32", LOW),
        Field("status", 2093, "uint32", LOW),
        Field("highest", 2097, "float32", LOW),
    ),
)


def test_a_block_is_decoded_into_its_fields() -> None:
    words = [0x1000, 0, 0xCD0C, 0x4080, 0, 0, 0, 0, 0, 0x4160]
    values = PH.decode(words)
    assert values["unit"] == 0x1000
    assert values["ph"] == pytest.approx(4.02503, abs=5e-6)
    assert values["status"] == 0
    assert values["highest"] == 14.0


def test_a_block_with_registers_missing_is_no_data() -> None:
    with pytest.raises(BadFrame, match="9 registers came where 10"):
        PH.decode([0] * 9)
    with pytest.raises(BadFrame, match="two registers"):
        decode_float32([1], HIGH)


def test_other_kinds_of_field() -> None:
    block = Block(
        10,
        6,
        (
            Field("angle_mrad", 10, "int16"),
            Field("x_mm", 11, "int16", scale=0.1),
            Field("name", 12, "string", words=2),
            Field("offset", 14, "int32"),
        ),
    )
    words = [0xFFFF, 0xF060, 0x4142, 0x0000, 0xFFFF, 0xFFFE]
    values = block.decode(words)
    assert values == {"angle_mrad": -1, "x_mm": pytest.approx(-400.0), "name": "AB", "offset": -2}


def test_a_block_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(BadRequest, match="at once"):
        Block(0, 126, ())
    with pytest.raises(BadRequest, match="outside"):
        Block(10, 2, (Field("x", 11, "float32"),))


def test_neighbouring_registers_are_read_together() -> None:
    made = blocks([Field("b", 262), Field("a", 258), Field("far", 400, "float32"), Field("c", 265)])
    assert [(block.address, block.count) for block in made] == [(258, 8), (400, 2)]
    assert made[0].decode([7, 0, 0, 0, 0, 0, 0, 1]) == {"a": 7, "b": 0, "c": 1}


def test_registers_are_not_read_together_over_a_gap_or_the_devices_limit() -> None:
    fields = [Field("a", 0), Field("b", 2), Field("c", 3)]
    assert [block.count for block in blocks(fields, gap=0)] == [1, 2]
    assert [block.count for block in blocks(fields, limit=3)] == [3, 1]
    assert [block.table for block in blocks(fields, table="input")] == ["input"]
