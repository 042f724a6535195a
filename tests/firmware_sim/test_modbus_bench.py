"""Arm, photometer and pH sensor in a bench process, met by clients that are not ours."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import asyncua
import pytest
from pymodbus.client import ModbusSerialClient, ModbusTcpClient

from firmware_sim.pytest_plugin import RunningBench

# Taken as untyped: what asyncua publishes of its types contradicts what it does.
ua: Any = asyncua.ua
Client: Any = cast(Any, asyncua).Client

LADS = "http://opcfoundation.org/UA/LADS/"
FRAME_1 = [[-300, -300, 100], [-201, -300, 100], [-300, -363, 100]]
FRAME_2 = [[300, -300, 100], [399, -300, 100], [300, -363, 100]]
BENCH: dict[str, Any] = {
    "bench": "cell",
    "speed": 20.0,
    "instruments": {
        "ph": {"model": "hamilton-arc-ph", "link": "pty", "in": "flask/A1", "noise": 0},
        "arm": {"model": "universal-robots", "link": "tcp:127.0.0.1:0", "dashboard": "127.0.0.1:0"},
        "reader": {"model": "lads-photometer", "link": "opc.tcp://127.0.0.1:0", "at": "nest-2", "noise": 0},
    },
    "positions": {"nest-1": {"frame": FRAME_1}, "nest-2": {"frame": FRAME_2}, "bench": None},
    "labware": {
        "plate-1": {"type": "sbs-96", "at": "nest-1", "contents": {"A1": {"red": 100}}},
        "flask": {"type": "tube-1", "at": "bench", "contents": {"A1": {"acid": 1000}}},
    },
    "liquids": {"red": {"absorbance": {450: 2.0}}, "acid": {"ph": 3.0}},
}
DEADLINE_S = 30.0


def until(what: Callable[[], Any]) -> Any:
    """Ask until the answer is true; a generous deadline only keeps a broken test from hanging."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if answer := what():
            return answer
        time.sleep(0.01)
    raise AssertionError("it never came")


class Edge:
    """The edge's side of the handshake."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self.client: Any = cast(Any, ModbusTcpClient)(host, port=int(port), timeout=5)
        assert self.client.connect()

    def get(self, first: int, count: int = 1) -> list[int]:
        return list(self.client.read_holding_registers(first, count=count).registers)

    def put(self, first: int, *values: int) -> None:
        assert not self.client.write_registers(first, [value & 0xFFFF for value in values]).isError()

    def ask(self, job_id: int, pick: list[int], place: list[int], speed: int = 500) -> None:
        tenths = [value * 10 for value in pick] + [0] + [value * 10 for value in place] + [0]
        self.put(129, 1, 0, job_id, *tenths, 600, speed)
        self.put(128, 1)

    def await_accepted(self, job_id: int) -> None:
        until(lambda: self.get(162) == [1] and self.get(166, 2) == [0, job_id])
        self.put(128, 0)

    def await_done(self, job_id: int) -> None:
        until(lambda: self.get(163) == [0] and self.get(168, 2) == [0, job_id])


@contextmanager
def dashboard(address: str) -> Iterator[Callable[[str], str]]:
    host, port = address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        stream = connection.makefile("rw", newline="\n")
        assert stream.readline() == "Connected: Universal Robots Dashboard Server\n"

        def say(command: str) -> str:
            stream.write(command + "\n")
            stream.flush()
            return stream.readline().rstrip("\n")

        yield say


class Ending:
    """Waits for a state after Running in which a unit stays."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended
        self._began = False

    def datachange_notification(self, _node: Any, value: Any, _data: Any) -> None:
        self._began = self._began or value.Text == "Running"
        if self._began and value.Text in ("Stopped", "Aborted"):
            self._ended.set()


async def absorbance(address: str, well: str) -> list[float]:
    """Run a program for one well and wait for its result."""
    async with Client(address) as client:
        await client.load_data_type_definitions()
        lads = await client.get_namespace_index(LADS)
        own = await client.get_namespace_index("urn:labedge:firmware-sim")
        path = [f"{lads}:FunctionalUnitSet", f"{own}:PhotometricUnit"]
        di = await client.get_namespace_index("http://opcfoundation.org/UA/DI/")
        device = await client.nodes.objects.get_child([f"{di}:DeviceSet", f"{own}:reader"])
        unit = await device.get_child(path)
        machine = await unit.get_child(f"{lads}:FunctionalUnitState")
        ended = asyncio.Event()
        subscription = await client.create_subscription(10, Ending(ended))
        await subscription.subscribe_data_change(await machine.get_child("0:CurrentState"), queuesize=20)
        samples = ua.Variant([ua.SampleInfoType(Position=well)], ua.VariantType.ExtensionObject)
        run_id = await machine.call_method(f"{lads}:StartProgram", "Absorbance", None, "job", "task", samples)
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()
        names = [f"{lads}:ProgramManager", f"{lads}:ResultSet", f"{own}:{run_id}", f"{lads}:VariableSet"]
        return list(await (await unit.get_child([*names, f"{own}:Absorbance"])).read_value())


@pytest.mark.bench(BENCH)
def test_a_plate_carried_to_the_photometer_and_read(bench: RunningBench) -> None:
    edge = Edge(bench.addresses["arm"])
    edge.ask(7, [-300, -300, 100], [300, -300, 100])
    edge.await_accepted(7)
    edge.await_done(7)
    assert edge.get(164, 2) == [1, 0]
    assert bench.world()["labware"]["plate-1"]["at"] == "nest-2"
    assert asyncio.run(absorbance(bench.addresses["reader"], "A1")) == pytest.approx([0.625])
    actions = [(line["instrument"], line["what"]) for line in bench.lines("action")]
    assert actions == [("arm", "pick"), ("arm", "place"), ("arm", "move"), ("reader", "measure")]


@pytest.mark.bench(BENCH)
def test_ph_over_a_serial_line_with_replies_lost(bench: RunningBench) -> None:
    client: Any = ModbusSerialClient(bench.addresses["ph"], baudrate=19200, timeout=0.3, retries=0)
    assert client.connect()

    def read() -> float:
        words = client.read_holding_registers(2089, count=10, device_id=1).registers
        return float(struct.unpack(">f", struct.pack(">HH", words[3], words[2]))[0])

    assert read() == pytest.approx(3.0)
    bench.fault("ph", "drop-reply")
    with pytest.raises(Exception, match="No response"):
        read()
    assert read() == pytest.approx(3.0)
    bench.fault("ph", "garble")
    with pytest.raises(Exception, match="No response"):
        read()
    assert read() == pytest.approx(3.0)
    client.close()


@pytest.mark.bench({**BENCH, "speed": 1.0})
def test_stop_on_the_way_keeps_the_plate_in_the_gripper(bench: RunningBench) -> None:
    edge = Edge(bench.addresses["arm"])
    edge.ask(7, [-300, -300, 100], [300, -300, 100])
    edge.await_accepted(7)
    until(lambda: edge.get(170) == [1])
    with dashboard(bench.addresses["arm.dashboard"]) as say:
        assert say("stop") == "Stopped"
        there = edge.get(400, 3)
        assert say("running") == "Program running: false"
        assert edge.get(160, 12) == [0] * 12
        assert edge.get(400, 3) == there
        assert say("quit") == "Disconnected"
    world = bench.world()
    assert world["labware"]["plate-1"]["at"] is None
    assert world["instruments"]["arm"]["holding"] == "plate-1"
    assert [line["what"] for line in bench.lines("action")] == ["pick", "move"]


@pytest.mark.bench(BENCH)
def test_a_stuck_arm_is_a_protective_stop(bench: RunningBench) -> None:
    edge = Edge(bench.addresses["arm"])
    bench.fault("arm", "stuck")
    edge.ask(7, [-300, -300, 100], [300, -300, 100])
    until(lambda: edge.get(261) == [1])
    with dashboard(bench.addresses["arm.dashboard"]) as say:
        assert say("safetystatus") == "Safetystatus: PROTECTIVE_STOP"
        assert say("unlock protective stop").startswith("Cannot unlock")
    assert bench.lines("action") == []


@pytest.mark.bench(BENCH)
def test_an_empty_photometer(bench: RunningBench) -> None:
    with pytest.raises(ua.uaerrors.BadNoMatch):
        asyncio.run(absorbance(bench.addresses["reader"], "A1"))
    reader = bench.world()["instruments"]["reader"]
    assert reader["state"] == "Aborted", json.dumps(reader)
    assert reader["reason"] == "there is no plate in the photometer"
