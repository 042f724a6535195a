"""Modbus TCP and RTU: golden frames, an independent server, and answers that must not be taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from protocols import modbus as wire
from protocols.errors import BadFrame, BadRequest, LinkDown, LinkTimeout, WireError
from protocols.modbus import Modbus
from protocols.modbus_frames import ModbusRefusal
from protocols.registers import Field, WordOrder, blocks
from protocols.serial_port import SerialPort, SerialSettings
from protocols.tcp import TcpStream
from tests.protocols.peers import Answer, PtyPeer, TcpPeer, mute
from tests.protocols.rigs import rtu

# ---- frames ----


# ---- an independent server ----


@asynccontextmanager
async def server(framer: FramerType) -> AsyncIterator[int]:
    """pymodbus's server: 16 of each kind of bit, holding registers 0, 10, 20 …, input registers 0, 7, 14 …"""
    device = SimDevice(
        1,
        simdata=(
            [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)],
            [SimData(0, values=[False, True] * 8, datatype=DataType.BITS)],
            [SimData(0, values=[10 * n for n in range(10)], datatype=DataType.REGISTERS)],
            [SimData(0, values=[7 * n for n in range(10)], datatype=DataType.REGISTERS)],
        ),
    )
    made = ModbusTcpServer(device, framer=framer, address=("127.0.0.1", 0))
    await made.listen()
    try:
        listening: Any = made.transport
        yield listening.sockets[0].getsockname()[1]
    finally:
        await made.shutdown()  # type: ignore[no-untyped-call]  # pymodbus gives it no types


@pytest.fixture(params=[FramerType.SOCKET, FramerType.RTU])
async def master(request: pytest.FixtureRequest) -> AsyncIterator[Modbus]:
    async with server(request.param) as port:
        made = Modbus(TcpStream("127.0.0.1", port), tcp=request.param is FramerType.SOCKET)
        yield made
        await made.close()


async def test_everything_is_read_from_an_independent_server(master: Modbus) -> None:
    assert await master.read_holding(1, 2, 4) == [20, 30, 40, 50]
    assert await master.read_input(1, 1, 2) == [7, 14]
    assert await master.read_coils(1, 0, 3) == [True, False, True]
    assert await master.read_discrete(1, 0, 9) == [False, True] * 4 + [False]


async def test_everything_is_written_to_an_independent_server(master: Modbus) -> None:
    await master.write_register(1, 0, 65535)
    await master.write_registers(1, 1, [1, 2, 3])
    assert await master.read_holding(1, 0, 5) == [65535, 1, 2, 3, 40]
    await master.write_coil(1, 0, False)
    await master.write_coils(1, 1, [True, True])
    assert await master.read_coils(1, 0, 4) == [False, True, True, False]


async def test_a_block_is_read_at_once(master: Modbus) -> None:
    (block,) = blocks([Field("a", 1), Field("pair", 4, "uint32", WordOrder.LOW_FIRST)])
    assert await master.read_block(1, block) == {"a": 10, "pair": 50 * 65536 + 40}
    (inputs,) = blocks([Field("b", 1)], table="input")
    assert await master.read_block(1, inputs) == {"b": 7}


async def test_an_address_that_is_not_there_is_our_mistake(master: Modbus) -> None:
    with pytest.raises(
        ModbusRefusal, match="unit 1 refuses with exception 2, illegal data address"
    ) as caught:
        await master.read_holding(1, 500, 1)
    assert caught.value.code == 2
    assert caught.value.sent
    assert await master.read_holding(1, 0, 1) == [0]


# ---- answers that must not be taken ----


@asynccontextmanager
async def on_tcp(answer: Answer = mute) -> AsyncIterator[tuple[Modbus, TcpPeer]]:
    async with TcpPeer(answer) as peer:
        made = Modbus(TcpStream("127.0.0.1", peer.port), tcp=True)
        try:
            yield made, peer
        finally:
            await made.close()


@asynccontextmanager
async def on_rtu(answer: Answer = mute) -> AsyncIterator[tuple[Modbus, PtyPeer]]:
    settings = SerialSettings(115200)
    with PtyPeer(answer) as peer:
        made = Modbus(SerialPort(peer.path, settings), tcp=False, character_s=settings.character_s)
        try:
            yield made, peer
        finally:
            await made.close()


def value(request: bytes, number: int) -> bytes:
    """The MBAP answer to a read of one register."""
    return request[:2] + bytes.fromhex("00 00 00 05") + request[6:8] + b"\x02" + number.to_bytes(2, "big")


@pytest.mark.parametrize("way", ["timeout", "cancel"])
async def test_a_late_tcp_answer_is_not_the_next_ones(way: str) -> None:
    async with on_tcp() as (master, peer):
        first = asyncio.create_task(master.read_holding(1, 0, 1, 0.02 if way == "timeout" else 5))
        await peer.heard(12)
        if way == "cancel":
            first.cancel()
        with pytest.raises((LinkTimeout, asyncio.CancelledError)):
            await first
        late = value(bytes(peer.received), 111)
        peer.answer = lambda request: late + value(request, 222)
        assert await master.read_holding(1, 0, 1) == [222]
        assert master.exchange.strays == 1
        assert peer.accepted == 1


@pytest.mark.parametrize("way", ["timeout", "cancel"])
async def test_a_late_rtu_answer_is_not_the_next_ones(way: str) -> None:
    async with on_rtu() as (master, peer):
        first = asyncio.create_task(master.read_holding(1, 0, 1, 0.02 if way == "timeout" else 5))
        await peer.heard(8)
        if way == "cancel":
            first.cancel()
        with pytest.raises((LinkTimeout, asyncio.CancelledError)):
            await first
        second = asyncio.create_task(master.read_holding(1, 0, 1))
        await asyncio.sleep(0.08)
        assert len(peer.received) == 8
        peer.answer = lambda _: rtu("01 03 02 00 DE")
        peer.say(rtu("01 03 02 00 6F"))
        assert await second == [0xDE]


async def test_a_late_rtu_answer_does_not_keep_other_units_waiting() -> None:
    async with on_rtu(lambda data: rtu("02 03 02 00 02") if data[0] == 2 else None) as (master, peer):
        with pytest.raises(LinkTimeout):
            await master.read_holding(1, 0, 1, 0.02)
        waiting = asyncio.create_task(master.read_holding(1, 0, 1))
        await asyncio.sleep(0)
        assert await master.read_holding(2, 0, 1) == [2]
        assert [chunk[0] for chunk in peer.chunks] == [1, 2]
        waiting.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        "02 03 02 00 01",  # another unit
        "01 04 02 00 01",  # another function
        "01 03 04 00 01 00 02",  # another byte count
        "01 06 00 00 00 01",  # an echo
    ],
)
async def test_an_rtu_answer_that_does_not_fit_is_not_taken(answer: str) -> None:
    async with on_rtu(lambda _: rtu(answer)) as (master, _):
        with pytest.raises(LinkTimeout):
            await master.read_holding(1, 0, 1, 0.05)
        assert master.exchange.strays == 1


@pytest.mark.parametrize("echo", ["01 06 00 01 00 03", "01 06 00 00 00 04", "01 10 00 00 00 01"])
async def test_a_write_is_done_only_when_its_own_echo_says_so(echo: str) -> None:
    async with on_rtu(lambda _: rtu(echo)) as (master, peer):
        with pytest.raises(LinkTimeout) as caught:
            await master.write_register(1, 0, 3, 0.05)
        assert caught.value.sent
        assert len(peer.chunks) == 1


async def test_a_wrong_crc_is_a_damaged_answer_and_the_line_recovers() -> None:
    answers = iter([rtu("01 03 02 00 01")[:-1] + b"\x00", rtu("01 03 02 00 02")])
    async with on_rtu(lambda _: next(answers)) as (master, _):
        with pytest.raises(BadFrame, match="CRC"):
            await master.read_holding(1, 0, 1, 0.05)
        assert await master.read_holding(1, 0, 1) == [2]


@pytest.mark.parametrize(
    ("unit", "pdu"),
    [(1, "04 02 00 01"), (2, "03 02 00 01"), (1, "03 04 00 01 00 02"), (1, "83"), (1, "03 02 00")],
)
async def test_a_tcp_answer_with_our_number_that_does_not_fit_is_the_peers_fault(unit: int, pdu: str) -> None:
    body = bytes([unit]) + bytes.fromhex(pdu)
    async with on_tcp(lambda request: request[:4] + len(body).to_bytes(2, "big") + body) as (master, _):
        with pytest.raises(BadFrame, match="answered"):
            await master.read_holding(1, 0, 1)


async def test_garbage_on_tcp_costs_the_connection_and_is_no_data() -> None:
    async with on_tcp(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as (master, peer):
        with pytest.raises(BadFrame, match="not a Modbus TCP header"):
            await master.read_holding(1, 0, 1)
        peer.answer = lambda request: value(request, 5)
        assert await master.read_holding(1, 0, 1) == [5]
        assert peer.accepted == 2


async def test_half_an_answer_that_is_finished_late_does_not_shift_the_frames() -> None:
    async with on_tcp() as (master, peer):
        first = asyncio.create_task(master.read_holding(1, 0, 1, 0.05))
        await peer.heard(12)
        late = value(bytes(peer.received), 111)
        peer.say(late[:7])
        with pytest.raises(LinkTimeout):
            await first
        peer.answer = lambda request: late[7:] + value(request, 222)
        assert await master.read_holding(1, 0, 1) == [222]
        assert peer.accepted == 1


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        (1, ModbusRefusal, "illegal function"),
        (3, ModbusRefusal, "illegal data value"),
        (4, ModbusRefusal, "device failure"),
        (6, ModbusRefusal, "busy"),
        (10, LinkDown, "gateway path"),
        (11, LinkTimeout, "nobody answered behind the gateway"),
        (99, ModbusRefusal, "does not define"),
    ],
)
async def test_exceptions_say_whose_fault_it_is(code: int, kind: type[WireError], word: str) -> None:
    async with on_rtu(lambda _: rtu(f"01 90 {code:02X}")) as (master, _):
        with pytest.raises(kind, match=word) as caught:
            await master.write_registers(1, 0, [1, 2])
        assert caught.value.sent


async def test_a_cancelled_read_is_cancelled() -> None:
    async with on_tcp() as (master, peer):
        task = asyncio.create_task(master.read_holding(1, 0, 1, 5))
        await peer.heard(12)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()


async def test_broadcasts_are_for_writing_on_rtu_only() -> None:
    async with on_rtu() as (master, peer):
        await master.write_register(0, 1, 3)
        await peer.heard(8)
        assert peer.received == rtu("00 06 00 01 00 03")
        with pytest.raises(BadRequest, match="broadcast"):
            await master.read_holding(0, 0, 1)
    async with on_tcp(lambda request: value(request, 7)) as (tcp_master, _):
        assert await tcp_master.read_holding(0, 258, 1) == [7]


async def test_a_stop_overtakes_the_request_in_flight() -> None:
    async with on_tcp() as (master, peer):
        task = asyncio.create_task(master.read_holding(1, 0, 1, 5))
        await peer.heard(12)
        stop = wire.frame_write_coil(1, 0, False, tid=0)
        assert master.urgent(stop, 1)
        with pytest.raises(LinkDown, match="stop"):
            await task
        await peer.heard(24)
        assert peer.received[12:] == stop
        peer.answer = lambda request: stop + value(request, 9)
        assert await master.read_holding(1, 0, 1) == [9]
        assert peer.accepted == 1


async def test_transaction_numbers_go_round() -> None:
    numbers: list[int] = []

    def answer(request: bytes) -> bytes:
        numbers.append(int.from_bytes(request[:2], "big"))
        return value(request, 0)

    async with on_tcp(answer) as (master, _):
        master._transaction = 0xFFFE
        for _ in range(3):
            await master.read_holding(1, 0, 1)
    assert numbers == [0xFFFF, 1, 2]
