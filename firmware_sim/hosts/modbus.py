"""Modbus servers as pure values: bytes in, bytes out.

PDUs: MODBUS Application Protocol Specification V1.1b3, section 6. RTU framing: MODBUS over Serial Line V1.02,
section 2.5.1; TCP framing: MODBUS Messaging on TCP/IP Implementation Guide V1.0b, section 3.1.3.

A real RTU slave finds the end of a frame by silence on the line. There is no time here, so frames are found
by their length and checksum instead, wherever they begin: garbage or half a request in front of a request
does not hide it.
"""

from __future__ import annotations

from collections.abc import Sequence

from firmware_sim.api import IllegalAddress, IllegalValue, RegisterSimulator

READ_COILS, READ_DISCRETE, READ_HOLDING, READ_INPUT = 1, 2, 3, 4
WRITE_COIL, WRITE_REGISTER, WRITE_COILS, WRITE_REGISTERS = 5, 6, 15, 16
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3

BROADCAST = 0
_COIL_STATES = {0xFF00: 1, 0x0000: 0}
_MAX_READ = {READ_COILS: 2000, READ_DISCRETE: 2000, READ_HOLDING: 125, READ_INPUT: 125}
_LONGEST_RTU = 256
_SHORTEST_RTU = 4
_TCP_HEADER = 7
_LONGEST_TCP = 254


def answer(simulator: RegisterSimulator, pdu: bytes) -> bytes:
    """The response PDU to a request PDU (function code first, 1..253 bytes); an exception PDU if refused."""
    function = pdu[0]
    serve = _SERVE.get(function)
    if serve is None or function not in simulator.functions:
        return bytes([function | 0x80, ILLEGAL_FUNCTION])
    try:
        return serve(simulator, pdu)
    except IllegalAddress:
        return bytes([function | 0x80, ILLEGAL_ADDRESS])
    except IllegalValue:
        return bytes([function | 0x80, ILLEGAL_VALUE])


def _read(simulator: RegisterSimulator, pdu: bytes) -> bytes:
    function, address, count = pdu[0], _word(pdu, 1), _word(pdu, 3)
    if len(pdu) != 5 or not 1 <= count <= _MAX_READ[function]:
        raise IllegalValue
    _within(address, count)
    values = simulator.read(function, address, count)
    data = _pack_bits(values) if function in (READ_COILS, READ_DISCRETE) else _pack_words(values)
    return bytes([function, len(data)]) + data


def _write_one(simulator: RegisterSimulator, pdu: bytes) -> bytes:
    function, address, value = pdu[0], _word(pdu, 1), _word(pdu, 3)
    if len(pdu) != 5 or (function == WRITE_COIL and value not in _COIL_STATES):
        raise IllegalValue
    simulator.write(function, address, [_COIL_STATES[value] if function == WRITE_COIL else value])
    return pdu


def _write_many(simulator: RegisterSimulator, pdu: bytes) -> bytes:
    function, address, count = pdu[0], _word(pdu, 1), _word(pdu, 3)
    bits = function == WRITE_COILS
    size = (count + 7) // 8 if bits else count * 2
    longest = 1968 if bits else 123
    if len(pdu) != 6 + size or pdu[5] != size or not 1 <= count <= longest:
        raise IllegalValue
    _within(address, count)
    data = pdu[6:]
    values = _unpack_bits(data, count) if bits else [_word(data, 2 * i) for i in range(count)]
    simulator.write(function, address, values)
    return pdu[:5]


_SERVE = {
    **dict.fromkeys(_MAX_READ, _read),
    **dict.fromkeys((WRITE_COIL, WRITE_REGISTER), _write_one),
    **dict.fromkeys((WRITE_COILS, WRITE_REGISTERS), _write_many),
}


def _within(address: int, count: int) -> None:
    if address + count > 0x10000:
        raise IllegalAddress


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _pack_words(values: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def _pack_bits(values: Sequence[int]) -> bytes:
    packed = bytearray((len(values) + 7) // 8)
    for i, value in enumerate(values):
        packed[i // 8] |= bool(value) << (i % 8)
    return bytes(packed)


def _unpack_bits(data: bytes, count: int) -> list[int]:
    return [data[i // 8] >> (i % 8) & 1 for i in range(count)]


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def crc16(data: bytes) -> bytes:
    """CRC of MODBUS over Serial Line V1.02, section 6.2.2, as it stands on the wire (low byte first)."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


class RtuFrames:
    """Finds requests in the bytes of a serial line: address, PDU and a right checksum."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes in any pieces; return the requests now complete. Whatever lies before one is lost."""
        self._buffer += data
        frames = []
        while (found := self._next()) is not None:
            frames.append(found)
        self._buffer = self._buffer[-(_LONGEST_RTU - 1) :]
        return frames

    def _next(self) -> bytes | None:
        for start in range(len(self._buffer) - _SHORTEST_RTU + 1):
            size = _request_size(self._buffer[start : start + 7])
            if size is None:
                # A function we do not know has no known length; only silence could end it. What came in one
                # piece from the first byte on is taken as one frame, so that it is refused and not ignored.
                size = len(self._buffer) if start == 0 else 0
            end = start + size
            if _SHORTEST_RTU <= size <= _LONGEST_RTU and end <= len(self._buffer):
                frame = self._buffer[start:end]
                if crc16(frame[:-2]) == frame[-2:]:
                    self._buffer = self._buffer[end:]
                    return frame
        return None


def _request_size(head: bytes) -> int | None:
    """Length with checksum of the request that begins with these bytes; None for a function not known here.

    More than a frame can have while its byte count has not come yet.
    """
    function = head[1]
    if function in (WRITE_COILS, WRITE_REGISTERS):
        return 9 + head[6] if len(head) > 6 else _LONGEST_RTU + 1
    if function in _MAX_READ or function in (WRITE_COIL, WRITE_REGISTER):
        return 8
    return None


class RtuSlave:
    """Slaves on one serial line: silent to other addresses, bad checksums and broadcasts."""

    def __init__(self, simulators: Sequence[RegisterSimulator]) -> None:
        self._units = {simulator.unit: simulator for simulator in simulators}
        self._line = RtuFrames()
        self._heard = RtuFrames()

    def split(self, data: bytes) -> list[bytes]:
        """Cut the line's bytes into the requests that are for these slaves; each goes to `receive`."""
        return [frame for frame in self._line.feed(data) if frame[0] in self._units or frame[0] == BROADCAST]

    def receive(self, data: bytes) -> bytes:
        """Take bytes in any pieces; return the answers to the requests now complete."""
        return b"".join(self._serve(frame[0], frame[1:-2]) for frame in self._heard.feed(data))

    def _serve(self, unit: int, pdu: bytes) -> bytes:
        if unit == BROADCAST:
            for simulator in self._units.values():
                answer(simulator, pdu)
            return b""
        if unit not in self._units:
            return b""
        reply = bytes([unit]) + answer(self._units[unit], pdu)
        return reply + crc16(reply)


class TcpSlave:
    """One client's Modbus TCP connection to an instrument alone behind it: every unit id is answered.

    A header that cannot be Modbus TCP leaves no way to find the next request: `closed` becomes true, and the
    host hangs up.
    """

    def __init__(self, simulator: RegisterSimulator) -> None:
        self.closed = False
        self._simulator = simulator
        self._stream = b""
        self._heard = b""

    def split(self, data: bytes) -> list[bytes]:
        """Cut the stream into requests; each goes to `receive`."""
        messages, self._stream = _cut(self._stream + data)
        return messages

    def receive(self, data: bytes) -> bytes:
        """Take bytes in any pieces; return the answers to the requests now complete."""
        messages, self._heard = _cut(self._heard + data)
        return b"".join(self._serve(message) for message in messages)

    def _serve(self, message: bytes) -> bytes:
        if self.closed or _tcp_size(message) != len(message):
            self.closed = True
            return b""
        reply = answer(self._simulator, message[7:])
        return message[:4] + (len(reply) + 1).to_bytes(2, "big") + message[6:7] + reply


def _cut(stream: bytes) -> tuple[list[bytes], bytes]:
    """Complete requests, and what is left; everything from an impossible header on is one last message."""
    messages = []
    while len(stream) >= _TCP_HEADER:
        size = _tcp_size(stream) or len(stream)
        if size > len(stream):
            break
        messages.append(stream[:size])
        stream = stream[size:]
    return messages, stream


def _tcp_size(stream: bytes) -> int | None:
    """Length of the request that begins here; None if its header (MBAP) cannot be one."""
    protocol, length = _word(stream, 2), _word(stream, 4)
    return 6 + length if protocol == 0 and 2 <= length <= _LONGEST_TCP else None
