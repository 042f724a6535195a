"""Modbus frames as they come off the wire, TCP and RTU, and what a device's refusal means. Pure.

Sources: Modbus Application Protocol V1.1b3; Modbus Messaging on TCP/IP V1.0b; Modbus over Serial Line V1.02.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocols.codec import Malformed
from protocols.errors import BadRequest, LinkDown, LinkTimeout, WireError

_READS = (1, 2, 3, 4)
_WRITES = (5, 6, 15, 16)
_MBAP = 7
_EXCEPTIONS = {
    1: "illegal function: it doesn't know this kind of request",
    2: "illegal data address: it has no such register",
    3: "illegal data value: the register refuses the value, or the number of registers",
    4: "server device failure: it failed while it carried out the request",
    5: "acknowledge: it has taken the request and needs a long time for it",
    6: "server device busy: it works on something else; ask again later",
    7: "negative acknowledge: it cannot do what was asked",
    8: "memory parity error: its memory is damaged",
    10: "gateway path unavailable: the gateway is badly set up or overloaded",
    11: "gateway target failed to respond: nobody answered behind the gateway",
}


class ModbusRefusal(BadRequest):
    """The device answered with a Modbus exception; `code` is its number (V1.1b3, 7)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, sent=True)
        self.code = code


@dataclass(frozen=True, slots=True)
class Adu:
    """A frame without its envelope: who, which transaction (0 on RTU), and function code with data."""

    unit: int
    transaction: int
    pdu: bytes


class TcpDecoder:
    """Cuts Modbus TCP frames by the length in their header (TCP/IP V1.0b, 3.1.3).

    After a header that cannot be one, the frame boundaries are lost: everything is given back as `Malformed`.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Adu | Malformed]:
        """Take bytes in any pieces; return the frames they complete."""
        self._buffer += data
        frames: list[Adu | Malformed] = []
        while len(self._buffer) >= _MBAP:
            length = int.from_bytes(self._buffer[4:6], "big")
            if self._buffer[2:4] != b"\0\0" or not 2 <= length <= 254:
                frames.append(Malformed(bytes(self._buffer), "this is not a Modbus TCP header"))
                self._buffer.clear()
                break
            if len(self._buffer) < 6 + length:
                break
            frame = bytes(self._buffer[: 6 + length])
            frames.append(Adu(frame[6], int.from_bytes(frame[:2], "big"), frame[7:]))
            del self._buffer[: 6 + length]
        return frames

    def reset(self) -> None:
        """Forget a half-received frame."""
        self._buffer.clear()


class RtuDecoder:
    """Finds Modbus RTU answers by function code, length and CRC among whatever else is on the line.

    RTU frames have no mark of their own. `expect` names the answer that is waited for: for the rest of what
    could be its beginning the decoder waits, and if its CRC is wrong it is given back as `Malformed`; all
    else that is no whole frame is skipped, counted in `skipped`.
    """

    def __init__(self, has_good_crc: Callable[[bytes], bool]) -> None:
        self.skipped = 0
        self._has_good_crc = has_good_crc
        self._buffer = bytearray()
        self._expected = (-1, -1, 0)

    def expect(self, unit: int, function: int, size: int) -> None:
        """The answer waited for: from `unit`, `size` bytes with CRC (5 if it is an exception)."""
        self._expected = (unit, function, size)

    def feed(self, data: bytes) -> list[Adu | Malformed]:
        """Take bytes in any pieces; return the frames they complete."""
        self._buffer += data
        frames: list[Adu | Malformed] = []
        while (found := self._next()) is not None:
            frames.append(found)
        return frames

    def reset(self) -> None:
        """Forget a half-received frame."""
        self._buffer.clear()

    def _next(self) -> Adu | Malformed | None:
        keep = len(self._buffer)
        for at in range(len(self._buffer)):
            size = _reply_size(self._buffer, at)
            if size is None:
                continue
            end = at + size
            if end > len(self._buffer):
                keep = min(keep, at)
                if self._is_expected(at, size):
                    break
            elif self._has_good_crc(bytes(self._buffer[at:end])):
                self._skip(at)
                return self._take(size)
            elif self._is_expected(at, size):
                raw = bytes(self._buffer[at:end])
                self._skip(at + 1)
                return Malformed(raw, "its CRC is wrong")
        self._skip(keep)
        return None

    def _take(self, size: int) -> Adu:
        frame = bytes(self._buffer[:size])
        del self._buffer[:size]
        return Adu(frame[0], 0, frame[1:-2])

    def _is_expected(self, at: int, size: int) -> bool:
        unit, function, expected = self._expected
        head = self._buffer[at : at + 3]
        if head[0] != unit:
            return False
        if len(head) < 2 or head[1] == function | 0x80:
            return True
        return head[1] == function and (len(head) < 3 or size == expected)

    def _skip(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]


def refusal(who: str, code: int) -> WireError:
    """The error for exception `code` of `who`; sent=True."""
    sentence = (
        f"{who} refuses with exception {code}, {_EXCEPTIONS.get(code, 'which Modbus does not define')}."
    )
    if code == 10:
        return LinkDown(sentence, sent=True)
    if code == 11:
        return LinkTimeout(sentence, sent=True)
    return ModbusRefusal(sentence, code)


def _reply_size(buffer: bytearray, at: int) -> int | None:
    """Length of the RTU answer that could begin at `at`; None if none can. Too few bytes: the shortest."""
    left = len(buffer) - at
    if left < 2:
        return 5
    function = buffer[at + 1]
    if function & 0x7F not in _READS + _WRITES:
        return None
    if function & 0x80:
        return 5
    if function in _WRITES:
        return 8
    return 5 + buffer[at + 2] if left > 2 else 5
