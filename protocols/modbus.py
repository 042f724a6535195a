"""Modbus master, TCP and RTU; the only importer of pymodbus.

pymodbus encodes and decodes PDUs and frames and computes the CRC. The link is our own `Exchange`: one request
in flight, and a late or cancelled answer is never taken for the next one. On TCP the transaction number
tells them apart; on RTU an answer must fit unit, function, byte count or echo, and after a timeout the
unit is left alone until its late answer has come or had its time.

Addresses are those on the wire (0 … 65535); many manuals print one more. Nothing is ever sent twice.
Sources: Modbus Application Protocol V1.1b3; Modbus over Serial Line V1.02; Modbus Messaging on TCP/IP V1.0b.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from protocols.errors import BadFrame, BadRequest
from protocols.exchange import Exchange
from protocols.manners import Manners, Replies
from protocols.modbus_frames import Adu, RtuDecoder, TcpDecoder, refusal
from protocols.registers import Block, Value
from protocols.stream import Stream

TIMEOUT_S = 1.0
LATE_S = 1.0
"""How long after a timeout an RTU unit is left alone unless its late answer comes."""
BROADCAST_S = 0.1
"""Time that units get for a broadcast (V1.02, 2.4.1: 100 to 200 ms)."""

_REPLIES = DecodePDU(False)
_RTU = FramerRTU(_REPLIES)
_TCP = FramerSocket(_REPLIES)


class Modbus:
    """The master of one port; every unit behind it is reached through the same object.

    `unit` is 0 … 255; on RTU a write to 0 is a broadcast, which nobody answers. `timeout_s` counts from the
    sending. Every method raises `LinkDown`, `LinkTimeout`, `BadFrame`, and `BadRequest`: with sent=False
    for an argument that Modbus doesn't have, as `ModbusRefusal` (sent=True) when the device answers
    with an exception.
    """

    def __init__(self, stream: Stream, *, tcp: bool, character_s: float = 0.0) -> None:
        self.is_tcp = tcp
        self._rtu = RtuDecoder(_has_good_crc)
        self._transaction = 0
        if tcp:
            self.exchange: Exchange[Adu] = Exchange(stream, TcpDecoder(), Manners(replies=Replies.TAGGED))
        else:
            # V1.02, 2.5.1.1: 3.5 characters, and never less than 1.75 ms above 19200 baud.
            gap_s = max(3.5 * character_s, 0.00175) if character_s else 0.0
            manners = Manners(late_s=LATE_S, replies=Replies.ADDRESSED, gap_s=gap_s, character_s=character_s)
            self.exchange = Exchange(stream, self._rtu, manners)

    async def read_holding(
        self, unit: int, address: int, count: int, timeout_s: float = TIMEOUT_S
    ) -> list[int]:
        """Function 3: `count` (1 … 125) registers of 0 … 65535."""
        return await self._read_registers(ReadHoldingRegistersRequest, (unit, address, count), timeout_s)

    async def read_input(
        self, unit: int, address: int, count: int, timeout_s: float = TIMEOUT_S
    ) -> list[int]:
        """Function 4: `count` (1 … 125) registers of 0 … 65535."""
        return await self._read_registers(ReadInputRegistersRequest, (unit, address, count), timeout_s)

    async def read_coils(
        self, unit: int, address: int, count: int, timeout_s: float = TIMEOUT_S
    ) -> list[bool]:
        """Function 1: `count` (1 … 2000) outputs."""
        return await self._read_bits(ReadCoilsRequest, (unit, address, count), timeout_s)

    async def read_discrete(
        self, unit: int, address: int, count: int, timeout_s: float = TIMEOUT_S
    ) -> list[bool]:
        """Function 2: `count` (1 … 2000) inputs."""
        return await self._read_bits(ReadDiscreteInputsRequest, (unit, address, count), timeout_s)

    async def write_register(self, unit: int, address: int, value: int, timeout_s: float = TIMEOUT_S) -> None:
        """Function 6: one register, 0 … 65535."""
        await self._write(_write_register(unit, address, value), timeout_s)

    async def write_registers(
        self, unit: int, address: int, values: Sequence[int], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Function 16: 1 … 123 registers in one request."""
        await self._write(_write_registers(unit, address, values), timeout_s)

    async def write_coil(self, unit: int, address: int, value: bool, timeout_s: float = TIMEOUT_S) -> None:
        """Function 5: one output."""
        await self._write(_write_coil(unit, address, value), timeout_s)

    async def write_coils(
        self, unit: int, address: int, values: Sequence[bool], timeout_s: float = TIMEOUT_S
    ) -> None:
        """Function 15: 1 … 1968 outputs in one request."""
        await self._write(_write_coils(unit, address, values), timeout_s)

    async def read_block(self, unit: int, block: Block, timeout_s: float = TIMEOUT_S) -> dict[str, Value]:
        """All fields of a block from one request, by name."""
        read = self.read_holding if block.table == "holding" else self.read_input
        return block.decode(await read(unit, block.address, block.count, timeout_s))

    def urgent(self, frame: bytes, unit: int | None = None) -> bool:
        """Send a frame made by `frame_…` as a stop, at once; see `Exchange.urgent`. Its answer is dropped."""
        return self.exchange.urgent(frame, None if unit is None else _party(unit))

    async def close(self) -> None:
        """Close the port for good."""
        await self.exchange.close()

    async def _read_registers(
        self, kind: type[ModbusPDU], where: tuple[int, int, int], timeout_s: float
    ) -> list[int]:
        reply = await self._transact(_read(kind, where), 2 * where[2], timeout_s)
        return list(reply.registers)

    async def _read_bits(
        self, kind: type[ModbusPDU], where: tuple[int, int, int], timeout_s: float
    ) -> list[bool]:
        reply = await self._transact(_read(kind, where), (where[2] + 7) // 8, timeout_s)
        return list(reply.bits[: where[2]])

    async def _write(self, request: ModbusPDU, timeout_s: float) -> None:
        if self.is_tcp or request.dev_id != 0:
            await self._transact(request, None, timeout_s)
            return
        async with self.exchange.converse("broadcast") as talk:
            talk.send(_RTU.buildFrame(request))
            await asyncio.sleep(BROADCAST_S)

    async def _transact(self, request: ModbusPDU, payload: int | None, timeout_s: float) -> ModbusPDU:
        """Send and decode; `payload` is the byte count of the answer to a read, None for a write."""
        if self.is_tcp:
            self._transaction = request.transaction_id = self._transaction % 0xFFFF + 1
        elif request.dev_id == 0:
            raise BadRequest("Unit 0 is the broadcast of Modbus RTU, which nobody answers: give 1 … 247.")
        frame = (_TCP if self.is_tcp else _RTU).buildFrame(request)
        echo = request.encode()[:4]
        head = bytes([request.function_code]) + (echo if payload is None else bytes([payload]))
        size = len(head) + (payload or 0)
        accept = self._acceptance(request, head, size)
        async with self.exchange.converse(_party(request.dev_id)) as talk:
            self._rtu.expect(request.dev_id, request.function_code, size + 3)
            adu = await talk.request(frame, accept=accept, timeout_s=timeout_s)
        return self._decode(adu)

    def _acceptance(self, request: ModbusPDU, head: bytes, size: int) -> Callable[[Adu], bool]:
        exception = request.function_code | 0x80

        def accept(adu: Adu) -> bool:
            if adu.transaction != request.transaction_id:
                return False
            fits = adu.pdu.startswith(head) and len(adu.pdu) == size
            refused = adu.pdu[:1] == bytes([exception]) and len(adu.pdu) == 2
            if adu.unit == request.dev_id and (fits or refused):
                return True
            if self.is_tcp:
                raise BadFrame(
                    f"{self.exchange.name}: unit {adu.unit} answered {adu.pdu[:16].hex(' ')} "
                    f"to function {request.function_code} for unit {request.dev_id}."
                )
            return False

        return accept

    def _decode(self, adu: Adu) -> ModbusPDU:
        reply = _REPLIES.decode(adu.pdu)
        if reply is None:
            raise BadFrame(f"{self.exchange.name}: the answer {adu.pdu[:16].hex(' ')} cannot be decoded.")
        if reply.isError():
            raise refusal(f"{self.exchange.name}: unit {adu.unit}", reply.exception_code)
        return reply


def frame_read_coils(unit: int, address: int, count: int, tid: int | None = None) -> bytes:
    """The frame of function 1; `tid` is the transaction number of Modbus TCP, None makes it RTU."""
    return _frame(_read(ReadCoilsRequest, (unit, address, count)), tid)


def frame_read_discrete(unit: int, address: int, count: int, tid: int | None = None) -> bytes:
    """The frame of function 2; `tid` as in `frame_read_coils`."""
    return _frame(_read(ReadDiscreteInputsRequest, (unit, address, count)), tid)


def frame_read_holding(unit: int, address: int, count: int, tid: int | None = None) -> bytes:
    """The frame of function 3; `tid` as in `frame_read_coils`."""
    return _frame(_read(ReadHoldingRegistersRequest, (unit, address, count)), tid)


def frame_read_input(unit: int, address: int, count: int, tid: int | None = None) -> bytes:
    """The frame of function 4; `tid` as in `frame_read_coils`."""
    return _frame(_read(ReadInputRegistersRequest, (unit, address, count)), tid)


def frame_write_coil(unit: int, address: int, value: bool, tid: int | None = None) -> bytes:
    """The frame of function 5; `tid` as in `frame_read_coils`."""
    return _frame(_write_coil(unit, address, value), tid)


def frame_write_register(unit: int, address: int, value: int, tid: int | None = None) -> bytes:
    """The frame of function 6; `tid` as in `frame_read_coils`."""
    return _frame(_write_register(unit, address, value), tid)


def frame_write_coils(unit: int, address: int, values: Sequence[bool], tid: int | None = None) -> bytes:
    """The frame of function 15; `tid` as in `frame_read_coils`."""
    return _frame(_write_coils(unit, address, values), tid)


def frame_write_registers(unit: int, address: int, values: Sequence[int], tid: int | None = None) -> bytes:
    """The frame of function 16; `tid` as in `frame_read_coils`."""
    return _frame(_write_registers(unit, address, values), tid)


def _frame(request: ModbusPDU, tid: int | None) -> bytes:
    request.transaction_id = tid or 0
    return (_RTU if tid is None else _TCP).buildFrame(request)


def _read(kind: type[ModbusPDU], where: tuple[int, int, int]) -> ModbusPDU:
    unit, address, count = where
    _check(unit, address, count, 2000 if kind in (ReadCoilsRequest, ReadDiscreteInputsRequest) else 125)
    return kind(address=address, count=count, dev_id=unit)


def _write_register(unit: int, address: int, value: int) -> ModbusPDU:
    _check(unit, address, 1, 1)
    _check_values([value])
    return WriteSingleRegisterRequest(address=address, registers=[value], dev_id=unit)


def _write_registers(unit: int, address: int, values: Sequence[int]) -> ModbusPDU:
    _check(unit, address, len(values), 123)
    _check_values(values)
    return WriteMultipleRegistersRequest(address=address, registers=list(values), dev_id=unit)


def _write_coil(unit: int, address: int, value: bool) -> ModbusPDU:
    _check(unit, address, 1, 1)
    return WriteSingleCoilRequest(address=address, bits=[value], dev_id=unit)


def _write_coils(unit: int, address: int, values: Sequence[bool]) -> ModbusPDU:
    _check(unit, address, len(values), 1968)
    return WriteMultipleCoilsRequest(address=address, bits=list(values), dev_id=unit)


def _check(unit: int, address: int, count: int, limit: int) -> None:
    if not 0 <= unit <= 255:
        raise BadRequest(f"A Modbus unit is 0 … 255, not {unit}.")
    if not 1 <= count <= limit:
        raise BadRequest(f"This Modbus request takes 1 … {limit} registers or coils, not {count}.")
    if not 0 <= address <= 0x10000 - count:
        raise BadRequest(f"Modbus has no {count} registers or coils at address {address} (0 … 65535).")


def _check_values(values: Sequence[int]) -> None:
    for value in values:
        if not 0 <= value <= 0xFFFF:
            raise BadRequest(
                f"{value} does not fit into a register (0 … 65535); `registers` encodes negative numbers."
            )


def _party(unit: int) -> str:
    return f"unit {unit}"


def _has_good_crc(frame: bytes) -> bool:
    return FramerRTU.check_CRC(frame[:-2], int.from_bytes(frame[-2:], "big"))
