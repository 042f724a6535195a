"""Faults at the wire: what each kind does to a message, when it begins and when it ends."""

from __future__ import annotations

import random
from typing import Any

import pytest

from firmware_sim.faults import KEYS, Fault, Gate, parse_fault
from tests.firmware_sim.sims import Notes


class Wire:
    """A gate with its log, and what it asked to be carried out."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.carried_out: list[Fault] = []
        self.gate = Gate("red", random.Random(3), self.notes, self.carried_out.append)

    def add(self, kind: str, now: float = 0.0, **keys: Any) -> None:
        fault, mistakes = parse_fault({"instrument": "red", "kind": kind, **keys})
        assert fault is not None, mistakes
        self.gate.add(fault, now)

    def replies(self, *messages: bytes, now: float = 0.0) -> list[list[tuple[float, bytes]]]:
        return [self.gate.reply(message, now) for message in messages]


PLAIN = [(0.0, b"abc")]


def test_without_faults_everything_passes() -> None:
    wire = Wire()
    assert wire.gate.request(b"abc", 0.0) == b"abc"
    assert wire.replies(b"abc") == [PLAIN]
    assert wire.notes.lines == []


def test_drop_reply_after_and_count() -> None:
    wire = Wire()
    wire.add("drop-reply", after=1, count=2)
    assert wire.replies(*[b"abc"] * 4) == [PLAIN, [], [], PLAIN]
    assert [(line["before"], line["after"]) for line in wire.notes.of("drop-reply")] == [("61 62 63", "")] * 2


def test_drop_request_hits_once_by_default() -> None:
    wire = Wire()
    wire.add("drop-request")
    assert [wire.gate.request(b"abc", 0.0) for _ in range(2)] == [None, b"abc"]


def test_for_s_hits_everything_in_its_time_and_counts_from_the_first() -> None:
    wire = Wire()
    wire.add("drop-reply", for_s=2.0)
    assert [wire.gate.reply(b"abc", now) for now in (5.0, 6.0, 6.9, 7.1, 7.2)] == [[], [], [], PLAIN, PLAIN]


def test_probability_is_drawn_for_each_message() -> None:
    wire = Wire()
    wire.add("drop-reply", probability=0.3)
    dropped = sum(reply == [] for reply in wire.replies(*[b"abc"] * 1000))
    assert 230 < dropped < 370


def test_delay() -> None:
    wire = Wire()
    wire.add("delay", delay_s=0.25)
    assert wire.replies(b"abc") == [[(0.25, b"abc")]]
    assert wire.notes.of("delay")[0]["delay_s"] == 0.25


def test_garble_changes_one_byte_and_says_which() -> None:
    wire = Wire()
    wire.add("garble", count=50)
    for (reply,) in wire.replies(*[b"abcdef"] * 50):
        changed = [pair for pair in zip(reply[1], b"abcdef", strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1
        assert changed[0][0] & 0x80
    note = wire.notes.of("garble")[-1]
    assert note["before"] == "61 62 63 64 65 66"
    assert note["after"] != note["before"]


def test_truncate_and_sides() -> None:
    wire = Wire()
    wire.add("truncate")
    wire.add("truncate", side="request", keep=1)
    assert wire.gate.request(b"abcd", 0.0) == b"a"
    assert wire.replies(b"abcd") == [[(0.0, b"ab")]]
    wire.add("truncate", keep=99)
    assert wire.replies(b"abcd") == [[(0.0, b"abc")]], "at least one byte goes"


def test_duplicate_reply_and_noise() -> None:
    wire = Wire()
    wire.add("duplicate-reply")
    assert wire.replies(b"abc") == [PLAIN * 2]
    wire.add("noise", length=5)
    ((_, data),) = wire.gate.reply(b"abc", 0.0)
    assert (len(data), data[5:]) == (8, b"abc")


def test_noise_at_once() -> None:
    wire = Wire()
    fault, _ = parse_fault({"instrument": "red", "kind": "noise", "count": 2, "length": 3})
    assert fault is not None
    assert [len(data) for _, data in wire.gate.burst(fault)] == [3, 3]
    assert len(wire.notes.of("noise")) == 2


def test_hang_is_silence_for_its_time() -> None:
    wire = Wire()
    wire.add("hang", now=10.0, for_s=3.0)
    assert wire.gate.wakes() == 13.0
    assert wire.gate.request(b"abc", 12.9) is None
    assert wire.gate.reply(b"abc", 12.9) == []
    assert wire.gate.request(b"abc", 13.0) == b"abc"
    assert wire.gate.wakes() is None


def test_hang_without_end_ends_with_a_reboot() -> None:
    wire = Wire()
    wire.add("hang", now=0.0)
    assert (wire.gate.silent(1e9), wire.gate.wakes()) == (True, None)
    wire.add("reboot", now=20.0)
    assert [fault.kind for fault in wire.carried_out] == ["reboot"]
    assert (wire.gate.silent(20.4), wire.gate.silent(20.6)) == (True, False)


def test_faults_of_the_instrument_wait_for_their_message() -> None:
    wire = Wire()
    wire.add("reboot", after=2)
    assert [wire.gate.request(b"abc", 0.0) for _ in range(3)] == [b"abc", b"abc", None]
    assert [fault.kind for fault in wire.carried_out] == ["reboot"]
    assert wire.gate.request(b"abc", 1.0) == b"abc"
    assert len(wire.carried_out) == 1


@pytest.mark.parametrize("kind", ["disconnect", "stuck", "drift", "error"])
def test_faults_of_the_instrument_happen_at_once_and_are_logged(kind: str) -> None:
    wire = Wire()
    wire.add(kind)
    assert [fault.kind for fault in wire.carried_out] == [kind]
    assert wire.notes.lines[0]["kind"] == "fault"


@pytest.mark.parametrize("kind", sorted(KEYS))
def test_every_kind_takes_exactly_its_keys(kind: str) -> None:
    values = {
        "after": 1, "count": 1, "for_s": 1.0, "probability": 0.5, "delay_s": 0.1, "side": "request",
        "keep": 1, "length": 1, "per_s": -0.1, "code": 3,
    }  # fmt: skip
    for key, value in values.items():
        fault, mistakes = parse_fault({"instrument": "red", "kind": kind, key: value})
        assert (fault is not None) == (key in KEYS[kind]), (key, mistakes)
        assert bool(mistakes) == (key not in KEYS[kind])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"kind": "drop-replies"}, "did you mean drop-reply?"),
        ({"kind": "delay", "delays": 1}, "did you mean delay_s?"),
        ({"kind": "drop-reply", "after": -1}, "whole number from 0"),
        ({"kind": "drop-reply", "count": 0}, "whole number from 1"),
        ({"kind": "drop-reply", "count": True}, "whole number"),
        ({"kind": "hang", "for_s": -2}, "not negative"),
        ({"kind": "drift", "per_s": "fast"}, "must be a number."),
        ({"kind": "garble", "side": "both"}, "must be request or reply"),
        ({"kind": "delay", "probability": 2}, "at most 1"),
    ],
)
def test_mistakes_are_sentences(entry: dict[str, Any], sentence: str) -> None:
    fault, mistakes = parse_fault({"instrument": "red", **entry})
    assert fault is None
    assert any(sentence in mistake for mistake in mistakes), mistakes
