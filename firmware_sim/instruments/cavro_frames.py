"""Framing of the Cavro XCalibur: OEM and DT blocks cut out of a byte stream.

Tecan Cavro XCalibur operating manual 733085-B, sections 3.2 (OEM and DT protocol) and 3.6 (status byte).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import xor

STX, ETX, CR = 0x02, 0x03, 0x0D
DT_START = 0x2F
BROADCAST = 0x5F
REPEATED = 0x08
LONGEST_STRING = 255
_LONGEST_BLOCK = 4 * LONGEST_STRING


@dataclass(frozen=True, slots=True)
class Block:
    """One command block. `sequence` is 0..7 in OEM framing, None in DT; `raw` is what stood on the wire."""

    raw: bytes
    address: int
    text: str
    sequence: int | None = None
    repeated: bool = False
    valid: bool = True


class Deframer:
    """Finds blocks in bytes that arrive in any pieces; everything outside a block is ignored (3.2.1)."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, data: bytes) -> list[Block]:
        """Blocks completed by these bytes, those with a wrong checksum included (`valid` is False)."""
        blocks = []
        for byte in data:
            block = self._take(byte)
            if block is not None:
                blocks.append(block)
        return blocks

    def _take(self, byte: int) -> Block | None:
        raw = self._raw
        if not raw:
            if byte in (STX, DT_START):
                raw.append(byte)
            return None
        if raw[0] == DT_START:
            return self._take_dt(byte)
        if raw[-1] == ETX and len(raw) > 1:
            return self._end_oem(byte)
        if byte == STX:
            # A new block begins inside one that was cut off: only the new one can be complete.
            raw.clear()
        raw.append(byte)
        self._forget_endless()
        return None

    def _take_dt(self, byte: int) -> Block | None:
        raw = self._raw
        if byte in (STX, DT_START):
            raw.clear()
        raw.append(byte)
        self._forget_endless()
        if byte != CR:
            return None
        whole = bytes(raw)
        raw.clear()
        return Block(whole, whole[1], whole[2:-1].decode("latin-1")) if len(whole) > 3 else None

    def _end_oem(self, checksum: int) -> Block | None:
        raw = self._raw
        valid = reduce(xor, raw) == checksum
        if not valid and checksum == STX:
            raw[:] = bytes([STX])
            return None
        whole = bytes(raw) + bytes([checksum])
        raw.clear()
        if len(whole) < 5:
            return None
        text = whole[3:-2].decode("latin-1")
        return Block(whole, whole[1], text, whole[2] & 0x07, bool(whole[2] & REPEATED), valid)

    def _forget_endless(self) -> None:
        if len(self._raw) > _LONGEST_BLOCK:
            self._raw.clear()


def oem_answer(status: int, data: str = "") -> bytes:
    """`02 30 status data 03 xor`: the answer block to the master, address 30h."""
    body = bytes([STX, 0x30, status]) + data.encode("latin-1") + bytes([ETX])
    return body + bytes([reduce(xor, body)])


def dt_answer(status: int, data: str = "") -> bytes:
    """`/0 status data 03 0D 0A`."""
    return b"/0" + bytes([status]) + data.encode("latin-1") + b"\x03\r\n"
