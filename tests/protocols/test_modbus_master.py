"""Modbus TCP and RTU: golden frames, an independent server, and answers that must not be taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from protocols import modbus as wire
from protocols.codec import Malformed
from protocols.errors import BadFrame, BadRequest, LinkDown, LinkTimeout, WireError
from protocols.modbus import Modbus
from protocols.modbus_frames import Adu, ModbusRefusal, RtuDecoder, TcpDecoder
from protocols.registers import Field, WordOrder, blocks
from protocols.serial_port import SerialPort, SerialSettings
from protocols.tcp import TcpStream
from tests.protocols.peers import Answer, PtyPeer, TcpPeer, mute

VECTORS: dict[str, dict[str, Any]] = {
    vector["id"]: vector
    for vector in yaml.safe_load(
        (Path(__file__).parent.parent / "data" / "vectors" / "modbus.yaml").read_text()
    )["vectors"]
}


def golden(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


def crc(frame: bytes) -> bytes:
    """CRC-16/MODBUS bit by bit, as V1.02, 6.2.2 describes it."""
    register = 0xFFFF
    for byte in frame:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xA001 if register & 1 else 0)
    return register.to_bytes(2, "little")


def rtu(text: str) -> bytes:
    frame = bytes.fromhex(text)
    return frame + crc(frame)


def rtu_decoder(unit: int = 1, function: int = 3, size: int = 7) -> RtuDecoder:
    decoder = RtuDecoder(wire._has_good_crc)
    decoder.expect(unit, function, size)
    return decoder


# ---- frames ----


def test_requests_are_the_golden_ones() -> None:
    assert wire.frame_read_holding(1, 0x300C, 1) == golden("modbus_rtu_crc-01")
    assert wire.frame_read_holding(1, 2089, 10) == golden("hamilton_arc_ph-01")
    assert wire.frame_read_holding(0, 400, 1, tid=4) == golden("universal_robots-01")
    assert wire.frame_read_holding(0, 258, 1, tid=5) == golden("universal_robots-03")


def test_every_golden_answer_is_understood() -> None:
    decoder = rtu_decoder(size=25)
    assert decoder.feed(golden("hamilton_arc_ph-02")) == [Adu(1, 0, golden("hamilton_arc_ph-02")[1:-2])]
    for name in ("modbus_rtu_crc-02", "modbus_rtu_crc-03"):
        assert decoder.feed(golden(name)) == [Adu(1, 0, golden(name)[1:-2])]
    for name, tid in (("universal_robots-02", 4), ("universal_robots-04", 5)):
        assert TcpDecoder().feed(golden(name)) == [Adu(0, tid, golden(name)[7:])]


@pytest.mark.parametrize(
    ("made", "pdu"),
    [
        # The examples of Modbus Application Protocol V1.1b3, 6.1 to 6.12.
        (wire.frame_read_coils(7, 19, 19, 1), "01 00 13 00 13"),
        (wire.frame_read_discrete(7, 196, 22, 1), "02 00 C4 00 16"),
        (wire.frame_read_holding(7, 107, 3, 1), "03 00 6B 00 03"),
        (wire.frame_read_input(7, 8, 1, 1), "04 00 08 00 01"),
        (wire.frame_write_coil(7, 172, True, 1), "05 00 AC FF 00"),
        (wire.frame_write_coil(7, 172, False, 1), "05 00 AC 00 00"),
        (wire.frame_write_register(7, 1, 3, 1), "06 00 01 00 03"),
        (
            wire.frame_write_coils(7, 19, [c == "1" for c in "1011001110"], 1),
            "0F 00 13 00 0A 02 CD 01",
        ),
        (wire.frame_write_registers(7, 1, [10, 0x0102], 1), "10 00 01 00 02 04 00 0A 01 02"),
    ],
)
def test_requests_are_those_of_the_specification(made: bytes, pdu: str) -> None:
    body = bytes.fromhex(pdu)
    assert made == b"\x00\x01\x00\x00" + (len(body) + 1).to_bytes(2, "big") + b"\x07" + body


def test_rtu_requests_carry_the_check_of_the_specification() -> None:
    assert wire.frame_write_register(17, 1, 3) == rtu("11 06 00 01 00 03")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: wire.frame_read_holding(256, 0, 1),
        lambda: wire.frame_read_holding(1, -1, 1),
        lambda: wire.frame_read_holding(1, 65535, 2),
        lambda: wire.frame_read_holding(1, 0, 126),
        lambda: wire.frame_read_coils(1, 0, 2001),
        lambda: wire.frame_read_input(1, 0, 0),
        lambda: wire.frame_write_register(1, 0, -1),
        lambda: wire.frame_write_registers(1, 0, [65536]),
        lambda: wire.frame_write_registers(1, 0, [0] * 124),
        lambda: wire.frame_write_registers(1, 0, []),
        lambda: wire.frame_write_coils(1, 0, [True] * 1969),
    ],
)
def test_what_modbus_does_not_have_is_refused_before_it_is_sent(ask: Callable[[], bytes]) -> None:
    with pytest.raises(BadRequest) as caught:
        ask()
    assert not caught.value.sent


@given(st.lists(st.binary(max_size=300)))
def test_no_bytes_break_the_decoders_or_make_them_grow(pieces: list[bytes]) -> None:
    for decoder in (TcpDecoder(), rtu_decoder()):
        for piece in pieces:
            decoder.feed(piece)
            assert len(decoder._buffer) <= 260
        decoder.reset()
        assert not decoder._buffer


@given(st.binary(max_size=30), st.integers(0, 40))
def test_an_rtu_answer_is_found_behind_noise_however_it_is_cut(noise: bytes, place: int) -> None:
    answer = rtu("01 03 02 12 34")
    data = noise + answer
    decoder = rtu_decoder()
    found = [*decoder.feed(data[:place]), *decoder.feed(data[place:])]
    # Noise that looks like the beginning of the same answer may cost it, never change it.
    assert Adu(1, 0, answer[1:-2]) in found or b"\x01" in noise


def test_noise_that_looks_like_a_long_answer_of_another_unit_does_not_hold_up_ours() -> None:
    decoder = rtu_decoder()
    assert decoder.feed(b"\x05\x03\xfa" + rtu("01 03 02 12 34")) == [Adu(1, 0, b"\x03\x02\x12\x34")]
    assert decoder.skipped == 3


def test_a_wrong_check_is_malformed_only_where_the_answer_was_due() -> None:
    bad = rtu("01 03 02 12 34")[:-1] + b"\x00"
    (item,) = rtu_decoder().feed(bad)
    assert isinstance(item, Malformed)
    assert rtu_decoder(unit=2).feed(bad) == []


def test_frames_of_other_units_are_frames() -> None:
    decoder = rtu_decoder()
    frames = decoder.feed(rtu("02 03 02 00 07") + rtu("01 83 02") + rtu("01 06 00 01 00 03"))
    assert frames == [
        Adu(2, 0, b"\x03\x02\x00\x07"),
        Adu(1, 0, b"\x83\x02"),
        Adu(1, 0, b"\x06\x00\x01\x00\x03"),
    ]


@pytest.mark.parametrize(
    "header", ["00 01 00 02 00 03 0B 08 01", "00 01 00 00 00 01 00", "00 01 00 00 01 00 00"]
)
def test_what_is_no_tcp_header_is_malformed(header: str) -> None:
    (item,) = TcpDecoder().feed(bytes.fromhex(header))
    assert isinstance(item, Malformed)


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
        await asyncio.sleep(0.01)
        assert len(peer.received) == 8
        peer.answer = lambda _: rtu("01 03 02 00 DE")
        peer.say(rtu("01 03 02 00 6F"))
        assert await second == [0xDE]


async def test_a_late_rtu_answer_does_not_keep_other_units_waiting() -> None:
    async with on_rtu(lambda data: rtu("02 03 02 00 02") if data[0] == 2 else None) as (master, _):
        with pytest.raises(LinkTimeout):
            await master.read_holding(1, 0, 1, 0.02)
        waiting = asyncio.create_task(master.read_holding(1, 0, 1))
        assert await master.read_holding(2, 0, 1) == [2]
        assert not waiting.done()
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
