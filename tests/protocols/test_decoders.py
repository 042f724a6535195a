"""Lines and framed protocols, byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.codec import Decoder, Malformed, same_language
from protocols.framed import FramedDecoder, sum8, xor8
from protocols.lines import LineDecoder

# Tecan 733085-B, 3.2.1: STX, host address 30, status 40 (busy, no error), ETX, XOR of all of it.
BUSY = bytes.fromhex("02 30 40 03 71")
READY = bytes.fromhex("02 30 60 03 51")


def fed(decoder: Decoder[bytes], pieces: Sequence[bytes]) -> list[bytes | Malformed]:
    return [item for piece in pieces for item in decoder.feed(piece)]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def test_a_line_is_given_back_without_its_terminator() -> None:
    assert LineDecoder().feed(b"S S     100.00 g\r\nS D") == [b"S S     100.00 g"]


def test_an_empty_line_is_a_line() -> None:
    assert LineDecoder(b"\n").feed(b"\n\nok\n") == [b"", b"", b"ok"]


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\r" not in line)), st.lists(st.integers(0)))
def test_lines_do_not_depend_on_how_they_are_cut(lines: list[bytes], places: list[int]) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    assert fed(LineDecoder(), cut(data, places)) == lines


def test_a_line_too_long_is_reported_once_and_skipped_to_its_end() -> None:
    decoder = LineDecoder(b"\r\n", max_length=8)
    items = fed(decoder, [b"x" * 30, b"y" * 30 + b"\r", b"\nS S 1\r\n"])
    assert [type(item) for item in items] == [Malformed, bytes]
    assert items[1] == b"S S 1"


def test_a_line_of_the_greatest_length_is_whole_wherever_it_is_cut() -> None:
    for place in range(11):
        decoder = LineDecoder(b"\r\n", max_length=8)
        assert fed(decoder, cut(b"12345678\r\n", [place])) == [b"12345678"]
    assert isinstance(LineDecoder(b"\r\n", max_length=8).feed(b"123456789\r\n")[0], Malformed)


def test_reset_forgets_half_a_line() -> None:
    decoder = LineDecoder()
    decoder.feed(b"S S  ")
    decoder.reset()
    assert decoder.feed(b"Z A\r\n") == [b"Z A"]


@pytest.mark.parametrize(("terminator", "length"), [(b"", 10), (b"\n", 0)])
def test_a_line_decoder_that_could_never_work_is_refused(terminator: bytes, length: int) -> None:
    with pytest.raises(ValueError, match="terminator"):
        LineDecoder(terminator, length)


def test_a_frame_is_given_back_as_its_payload() -> None:
    assert FramedDecoder().feed(BUSY + READY) == [b"0@", b"0`"]


def test_bytes_between_frames_are_skipped_and_counted() -> None:
    decoder = FramedDecoder()
    assert decoder.feed(b"\xff\x00" + BUSY + b"\r\n" + READY) == [b"0@", b"0`"]
    assert decoder.skipped == 4


def test_a_start_inside_a_frame_begins_it_anew() -> None:
    decoder = FramedDecoder()
    assert fed(decoder, [BUSY[:3], BUSY[:2], BUSY]) == [b"0@"]


def test_a_wrong_check_is_never_data_and_costs_only_its_own_frame() -> None:
    garbled = BUSY[:2] + b"\x60" + BUSY[3:]
    first, second = FramedDecoder().feed(garbled + READY)
    assert isinstance(first, Malformed)
    assert "71" in first.why
    assert second == b"0`"


def test_a_check_that_never_came_does_not_swallow_the_next_frame() -> None:
    # The 02 of the next frame stands where the check of the first should be.
    first, second = FramedDecoder().feed(BUSY[:-1] + READY)
    assert isinstance(first, Malformed)
    assert second == b"0`"


def test_a_check_that_looks_like_start_or_end_is_a_check() -> None:
    for payload in range(0x20, 0x100):
        frame = bytes([2, payload, 3])
        assert FramedDecoder().feed(frame + xor8(frame)) == [bytes([payload])]


def test_a_frame_without_end_is_given_up() -> None:
    decoder = FramedDecoder(max_length=16)
    items = fed(decoder, [b"\x02" + b"a" * 40, BUSY])
    assert isinstance(items[0], Malformed)
    assert items[-1] == b"0@"


def test_other_starts_ends_and_checks() -> None:
    plain = FramedDecoder(b"<", b">", None)
    assert plain.feed(b"<Idle><Run") == [b"Idle"]
    summed = FramedDecoder(b"{", b"\r", sum8)
    frame = b"{S0004DA\r"
    assert summed.feed(frame + bytes([sum(frame) % 256])) == [b"S0004DA"]


@pytest.mark.parametrize(("start", "end"), [(b"", b"\x03"), (b"ab", b"\x03"), (b"\x02", b"\x02")])
def test_a_frame_without_two_different_marks_is_refused(start: bytes, end: bytes) -> None:
    with pytest.raises(ValueError, match="start and end"):
        FramedDecoder(start, end)


@given(st.lists(st.binary(max_size=12).filter(lambda p: not {2, 3} & set(p))), st.lists(st.integers(0)))
def test_frames_do_not_depend_on_how_they_are_cut(payloads: list[bytes], places: list[int]) -> None:
    data = b""
    for payload in payloads:
        covered = b"\x02" + payload + b"\x03"
        data += covered + xor8(covered)
    assert fed(FramedDecoder(), cut(data, places)) == payloads


@given(st.lists(st.binary(max_size=200)))
def test_no_input_breaks_a_decoder_or_makes_it_grow(pieces: list[bytes]) -> None:
    for decoder in (LineDecoder(b"\r\n", 32), FramedDecoder(max_length=32)):
        for piece in pieces:
            decoder.feed(piece)
            assert len(decoder._buffer) <= 40
        decoder.reset()
        assert not decoder._buffer


@given(st.lists(st.sampled_from([b"\x02", b"\x03", b"0", BUSY, BUSY[:3], BUSY[2:]])))
def test_after_any_rubbish_a_second_good_frame_is_understood(rubbish: list[bytes]) -> None:
    decoder = FramedDecoder(max_length=32)
    fed(decoder, rubbish)
    assert b"0`" in fed(decoder, [READY, READY])


def test_decoders_speak_the_same_language_if_type_and_settings_agree() -> None:
    assert same_language(FramedDecoder(), FramedDecoder())
    assert same_language(LineDecoder(b"\r"), LineDecoder(b"\r"))
    assert not same_language(LineDecoder(b"\r"), LineDecoder(b"\n"))
    assert not same_language(LineDecoder(), FramedDecoder())
