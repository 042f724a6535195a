"""The Arc pH driver against the manual's frames and a scripted sensor on a real PTY."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU

from drivers.api import operations_of
from drivers.errors import Fault, Lost, Refused
from drivers.sensors.hamilton_arc_ph import (
    ArcOptions,
    HamiltonArcPh,
    Nothing,
    channel,
    errors_of,
    text_of,
)
from protocols.links import Links
from protocols.modbus import frame_read_holding
from tests.drivers.attempts import Try
from tests.protocols.peers import PtyPeer

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "hamilton_arc_ph.yaml"


def vector(name: str) -> bytes:
    found = yaml.safe_load(VECTORS.read_text())["vectors"]
    return bytes.fromhex(next(entry["hex"] for entry in found if entry["id"] == f"hamilton_arc_ph-{name}"))


def low_first(value: float) -> list[int]:
    high, low = struct.unpack(">HH", struct.pack(">f", value))
    return [low, high]


def block(unit: int, value: float, status: int = 0) -> list[int]:
    return [unit, 0, *low_first(value), status, 0, *low_first(0.0), *low_first(14.0)]


def text(words: str, high_first: bool = True) -> list[int]:
    pairs = words.encode().ljust(16, b"\0")
    order = ">8H" if high_first else "<8H"
    return list(struct.unpack(order, pairs))


class Sensor:
    """Answers whole blocks only, as the manual says, at the register numbers of the manual."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[int]] = {
            2090: block(0x1000, 7.25),
            2410: block(0x04, 24.35834),
            1032: text("EPHUM011"),
            1280: text("242111/01"),
            1312: text("1234"),
        }
        self.framer = FramerRTU(DecodePDU(True))
        self.asked: list[tuple[int, int]] = []

    def __call__(self, data: bytes) -> bytes | None:
        unit, function, address, count = struct.unpack(">BBHH", data[:6])
        assert data == frame_read_holding(unit, address, count)
        self.asked.append((address, count))
        words = self.blocks.get(address + 1)
        if words is None or len(words) != count:
            return self._frame(bytes([unit, function | 0x80, 2]))
        return self._frame(struct.pack(f">BBB{count}H", unit, function, 2 * count, *words))

    def _frame(self, body: bytes) -> bytes:
        return body + self.framer.compute_CRC(body).to_bytes(2, "big")


@asynccontextmanager
async def arc(sensor: Any, **options: Any) -> AsyncIterator[HamiltonArcPh]:
    links = Links()
    with PtyPeer(sensor) as peer:
        given = ArcOptions(driver="hamilton-arc-ph", port=peer.path, **options)
        device = HamiltonArcPh("ph", given, links)
        await device.open()
        try:
            yield device
        finally:
            await device.close()
            await links.close()


def test_request_is_the_manuals_frame() -> None:
    assert frame_read_holding(1, channel(2090).address, channel(2090).count) == vector("01")


def test_manuals_reply_is_ph_4_025() -> None:
    words = struct.unpack(">10H", vector("02")[3:-2])
    values = channel(2090).decode(words)
    assert values["unit"] == 0x1000
    assert values["value"] == pytest.approx(4.02503, abs=1e-5)
    assert (values["status"], values["minimum"], values["maximum"]) == (0, 0.0, 14.0)


async def test_measure_reads_both_channels_whole() -> None:
    sensor, attempt = Sensor(), Try()
    async with arc(sensor) as device:
        reading = await device.measure(Nothing(), attempt)
    assert reading.ph == pytest.approx(7.25)
    assert reading.temperature_c == pytest.approx(24.3583, abs=1e-4)
    assert reading.warning is False
    assert sensor.asked == [(2089, 10), (2409, 10)]
    assert attempt.intents == [(vector("01"), {})]


async def test_golden_reply_on_the_wire() -> None:
    sensor = Sensor()
    async with arc(lambda data: vector("02") if data == vector("01") else sensor(data)) as device:
        assert (await device.read()).ph == pytest.approx(4.02503, abs=1e-5)


@pytest.mark.parametrize("status", [0x01, 0x02, 0x04, 0x08])
async def test_reservations_become_a_warning(status: int) -> None:
    sensor = Sensor()
    sensor.blocks[2090] = block(0x1000, 7.0, status)
    async with arc(sensor) as device:
        assert (await device.read()).warning is True


async def test_error_is_a_fault_that_names_it() -> None:
    sensor = Sensor()
    sensor.blocks[2090] = block(0x1000, 7.0, 0x18)
    sensor.blocks[4800] = [0x40, 0x0200, 0x2, 0, 0, 0, 0, 0]
    async with arc(sensor) as device:
        with pytest.raises(Fault, match=r"broken; the temperature sensor is defective; its quality"):
            await device.measure(Nothing(), Try())


async def test_error_without_details_is_still_a_fault() -> None:
    sensor = Sensor()
    sensor.blocks[2410] = block(0x04, 20.0, 0x10)
    async with arc(sensor) as device:
        with pytest.raises(Fault, match="does not say which"):
            await device.read()


@pytest.mark.parametrize(
    ("unit", "value", "celsius"), [(0x04, 37.0, 37.0), (0x02, 310.15, 37.0), (0x08, 98.6, 37.0)]
)
async def test_temperature_comes_in_celsius(unit: int, value: float, celsius: float) -> None:
    sensor = Sensor()
    sensor.blocks[2410] = block(unit, value)
    async with arc(sensor) as device:
        assert (await device.read()).temperature_c == pytest.approx(celsius, abs=1e-3)


async def test_millivolts_are_not_taken_for_ph() -> None:
    sensor = Sensor()
    sensor.blocks[2090] = block(0x20_0000 & 0xFFFF, 12.0)
    sensor.blocks[2090][1] = 0x20
    async with arc(sensor) as device:
        with pytest.raises(Fault, match="another unit than pH"):
            await device.read()


async def test_unknown_temperature_unit_and_no_number_are_faults() -> None:
    sensor = Sensor()
    sensor.blocks[2410] = block(0x01, 20.0)
    async with arc(sensor) as device:
        with pytest.raises(Fault, match="unknown unit"):
            await device.read()
        sensor.blocks[2410] = block(0x04, float("nan"))
        with pytest.raises(Fault, match="no temperature"):
            await device.read()


@pytest.mark.parametrize("high_first", [True, False])
async def test_identify_in_either_order_of_characters(high_first: bool) -> None:
    sensor = Sensor()
    for register, words in ((1032, "EPHUM011"), (1280, "242111/01"), (1312, "1234")):
        sensor.blocks[register] = text(words, high_first)
    async with arc(sensor) as device:
        assert str(await device.identify()) == "Hamilton Arc pH 242111/01, SN 1234, firmware EPHUM011"


async def test_sensor_without_serial_number_has_none() -> None:
    sensor = Sensor()
    sensor.blocks[1312] = text("not available")
    async with arc(sensor) as device:
        assert (await device.identify()).serial is None


async def test_other_kind_of_sensor_is_refused() -> None:
    sensor = Sensor()
    sensor.blocks[1032] = text("ODOUM043")
    async with arc(sensor) as device:
        with pytest.raises(Refused, match="begins with EPH"):
            await device.identify()


async def test_damaged_answer_is_lost_not_data() -> None:
    sensor = Sensor()

    def damaged(data: bytes) -> bytes | None:
        reply = sensor(data)
        return reply and reply[:7] + bytes([reply[7] ^ 1]) + reply[8:]

    async with arc(damaged) as device:
        with pytest.raises(Lost):
            await device.read()


async def test_modbus_tcp_port_is_refused() -> None:
    links = Links()
    device = HamiltonArcPh("ph", ArcOptions(driver="hamilton-arc-ph", port="tcp://127.0.0.1:502"), links)
    with pytest.raises(Refused, match="socket://"):
        await device.open()
    await links.close()


async def test_nothing_to_stop() -> None:
    async with arc(Sensor()) as device:
        device.halt()
        assert await device.halted()
        assert (await device.read()).ph == pytest.approx(7.25)


def test_error_bits_without_a_name_keep_their_number() -> None:
    assert errors_of([1, 0, 0, 0, 0, 0, 0, 0]) == ["error bit 0 of group 1"]


def test_text_ends_where_it_ends() -> None:
    assert text_of(text("1234"), True) == "1234"
    assert text_of(text("12345", False), False) == "12345"


def test_declaration() -> None:
    options = ArcOptions(driver="hamilton-arc-ph", port="x", baudrate=9600)
    assert str(HamiltonArcPh.line(options).settings) == "9600 baud 8N2"
    measure = operations_of(HamiltonArcPh)["measure"]
    assert measure.estimate_s(options, Nothing()) > 0
    assert measure.schema()["properties"] == {}
