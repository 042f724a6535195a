"""OEM frames of the Cavro XCalibur: bytes to values and back. Pure. Tecan 733085-B, 3.2.1, table 3-9."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import NamedTuple

STOP_LEAD_IN = bytes.fromhex("80 80 80 03 00")
"""Closes a frame that was cut off anywhere. Our frames are 7-bit, so a check after one, three or no bytes
of 80 can never be right, and the cut-off command is not executed; between frames it is ignored (3.2.1)."""

OVERLOADED = {9: "the plunger was blocked (overload)", 10: "the valve was blocked (overload)"}
UNINITIALIZED = {1: "its initialisation failed", 7: "it was switched on or restarted"}
DECLINED = {
    2: "it does not know the command",
    3: "the value is out of its range",
    4: "the commands are in an order it does not allow",
    11: "the plunger must not move while the valve is in bypass",
    15: "it is still busy with another command",
}
ERRORS = {**OVERLOADED, **UNINITIALIZED, **DECLINED, 6: "its EEPROM is faulty; it needs service"}


class Answer(NamedTuple):
    """A pump's reply. Only that to `Q` has a valid `ready`; `error` as in table 3-9."""

    ready: bool
    error: int
    data: str

    @property
    def says(self) -> str:
        return ERRORS.get(self.error, f"it reports error {self.error}") if self.error else ""


def encode(address: int, sequence: int, command: str, *, repeat: bool = False) -> bytes:
    """The frame of `command` for the pump `address` (1…15), with `sequence` (1…7)."""
    body = bytes([0x02, 0x30 + address, 0x30 | repeat << 3 | sequence]) + command.encode("ascii") + b"\x03"
    return body + bytes([reduce(xor, body)])


def decode(payload: bytes) -> Answer | None:
    """The answer in a frame's payload (between STX and ETX); None if no pump can have sent it."""
    if len(payload) < 2 or payload[0] != 0x30 or payload[1] & 0xD0 != 0x40 or not payload.isascii():
        return None
    return Answer(bool(payload[1] & 0x20), payload[1] & 0x0F, payload[2:].decode("ascii"))
