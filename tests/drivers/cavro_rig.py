"""Frames of a scripted Cavro pump, and the driver in front of it."""

from __future__ import annotations

from typing import Any

import msgspec

from drivers.liquid.cavro_xcalibur.declared import Aspirate, CavroOptions
from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur
from protocols.links import Links
from tests.drivers.scripted import ScriptedPeer, Turn

READY, BUSY = b"`", b"@"


def frame(sequence: int, command: str, *, repeat: bool = False, address: int = 1) -> bytes:
    body = bytes([2, 0x30 + address, 0x30 + 8 * repeat + sequence]) + command.encode() + b"\x03"
    check = 0
    for byte in body:
        check ^= byte
    return body + bytes([check])


def answer(status: bytes = READY, data: str = "") -> bytes:
    body = b"\x020" + status + data.encode() + b"\x03"
    check = 0
    for byte in body:
        check ^= byte
    return body + bytes([check])


def error(code: int, status: bytes = READY) -> bytes:
    return answer(bytes([status[0] | code]))


def at(increments: int) -> bytes:
    return answer(READY, str(increments))


def make(peer: ScriptedPeer, links: Links, name: str = "red", **keys: Any) -> CavroXCalibur:
    ports = {1: "reservoir/A1", 2: {"over": "nozzle-1"}}
    given = {
        "driver": "cavro-xcalibur",
        "port": peer.path,
        "syringe_ul": 1000,
        "ports": ports,
        "top_speed": 6000,
    }
    return CavroXCalibur(name, msgspec.convert({**given, **keys}, CavroOptions), links)


def beginning(before: int) -> list[Turn]:
    """The two questions before a move."""
    return [Turn(frame(1, "Q"), answer()), Turn(frame(2, "?"), at(before))]


DRAW = "V6000IA30R"
"""10 µl with a syringe of 1000 µl and 3000 increments."""
draw = Aspirate("reservoir/A1", 10.0)


def stop(sequence: int, address: int = 1) -> bytes:
    return bytes.fromhex("8080800300") + frame(sequence, "T", address=address) + bytes(10)
