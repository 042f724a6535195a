r"""Protocols whose frames have a start byte, an end byte and a check: STX … ETX XOR and its cousins.

start │ payload …                    │ end │ check
02    │ 30 40                        │ 03  │ 71          Tecan Cavro XCalibur, OEM protocol
      └── what `feed` gives back ────┘
└── what `check` is computed over ─────────┘
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import xor as _xor

from protocols.codec import Malformed

Check = Callable[[bytes], bytes]


def xor8(data: bytes) -> bytes:
    """The exclusive or of all bytes, as one byte (0 for no data)."""
    return bytes([reduce(_xor, data, 0)])


def sum8(data: bytes) -> bytes:
    """The sum of all bytes modulo 256, as one byte."""
    return bytes([sum(data) & 0xFF])


class FramedDecoder:
    """Cuts bytes into frames `start payload end check`; a frame is the payload.

    `check` computes the check over start, payload and end; None where the protocol has none. A start inside
    a frame begins the frame anew (the payload of such protocols is text and has no start byte in it), so
    a truncated frame costs nothing but itself. Bytes between frames are skipped and counted in `skipped`.
    A wrong check, or a payload of more than `max_length` bytes, is given back as `Malformed`.
    """

    def __init__(
        self,
        start: bytes = b"\x02",
        end: bytes = b"\x03",
        check: Check | None = xor8,
        max_length: int = 512,
    ) -> None:
        if len(start) != 1 or len(end) != 1 or start == end:
            raise ValueError("start and end of a frame are two different single bytes")
        self.kind = (start, end, check, max_length)
        self.skipped = 0
        self._start = start
        self._end = end
        self._check = check
        self._check_length = len(check(b"")) if check else 0
        self._max_length = max_length
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes | Malformed]:
        """Take bytes in any pieces; return the payloads they complete."""
        self._buffer += data
        frames: list[bytes | Malformed] = []
        while self._align() and (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def reset(self) -> None:
        """Forget a half-received frame."""
        self._buffer.clear()

    def _align(self) -> bool:
        """Throw away what stands before the last start of the frame that comes next."""
        begin = self._buffer.find(self._start)
        if begin < 0:
            self._skip(len(self._buffer))
            return False
        end = self._buffer.find(self._end, begin)
        restart = self._buffer.rfind(self._start, begin, end if end >= 0 else len(self._buffer))
        self._skip(restart)
        return True

    def _next(self) -> bytes | Malformed | None:
        end = self._buffer.find(self._end)
        if end < 0:
            return self._overlong() if len(self._buffer) > self._max_length + 1 else None
        if end > self._max_length + 1:
            return self._overlong()
        total = end + 1 + self._check_length
        if len(self._buffer) < total:
            return None
        covered, check = bytes(self._buffer[: end + 1]), bytes(self._buffer[end + 1 : total])
        if self._check and self._check(covered) != check:
            # Only up to the end byte: what stood where the check should be may begin the next frame.
            del self._buffer[: end + 1]
            expected = self._check(covered).hex()
            return Malformed(covered + check, f"its check is {check.hex()} where {expected} was due")
        del self._buffer[:total]
        return covered[1:-1]

    def _overlong(self) -> Malformed:
        raw = bytes(self._buffer[:64])
        del self._buffer[:1]
        return Malformed(raw, f"a frame of more than {self._max_length} bytes without its end")

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]
