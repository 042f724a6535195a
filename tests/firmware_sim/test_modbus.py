"""The Modbus slaves as pure values, and against two clients that are not ours: pymodbus and mbpoll."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from pymodbus.client import ModbusSerialClient, ModbusTcpClient

from firmware_sim.api import IllegalAddress, IllegalValue, RegisterSimulator
from firmware_sim.hosts.modbus import RtuSlave, TcpSlave, crc16
from firmware_sim.log import nowhere
from firmware_sim.world import World

MBPOLL = shutil.which("mbpoll")
needs_mbpoll = pytest.mark.skipif(MBPOLL is None, reason="mbpoll is not installed")


class Memory(RegisterSimulator):
    """Registers 0-99 and bits 0-99; register 66 takes nothing above 1000."""

    model: ClassVar[str] = "memory"

    def __init__(self, unit: int = 1) -> None:
        super().__init__("memory", {}, World({}), nowhere)
        self.unit = unit
        self.words = [0] * 100
        self.bits = [0] * 100

    def _space(self, function: int, address: int, count: int) -> list[int]:
        if address + count > 100:
            raise IllegalAddress
        return self.bits if function in (1, 2, 5, 15) else self.words

    def read(self, function: int, address: int, count: int) -> list[int]:
        return self._space(function, address, count)[address : address + count]

    def write(self, function: int, address: int, values: list[int]) -> None:
        space = self._space(function, address, len(values))
        if space is self.words and address <= 66 < address + len(values) and values[66 - address] > 1000:
            raise IllegalValue
        space[address : address + len(values)] = values

    def tick(self, dt: float) -> None:
        """Nothing here takes time."""

    def reboot(self) -> None:
        self.words = [0] * 100


def rtu(text: str) -> bytes:
    body = bytes.fromhex(text)
    return body + crc16(body)


def tcp(text: str, transaction: int = 1, unit: int = 0) -> bytes:
    pdu = bytes.fromhex(text)
    return transaction.to_bytes(2, "big") + bytes([0, 0, 0, len(pdu) + 1, unit]) + pdu


# Checksums printed by a vendor: Applent AT381x manual, page 109.
@pytest.mark.parametrize(
    "frame", ["01 03 30 0c 00 01 4b 09", "01 03 02 00 01 79 84", "01 10 30 0c 00 01 ce ca"]
)
def test_checksum_of_a_manual(frame: str) -> None:
    data = bytes.fromhex(frame)
    assert crc16(data[:-2]) == data[-2:]


# Shaped like the examples of MODBUS Application Protocol V1.1b3, sections 6.1 to 6.12, at our addresses.
@pytest.mark.parametrize(
    ("request_pdu", "response_pdu"),
    [
        ("03 00 0a 00 03", "03 06 02 2b 00 00 00 64"),
        ("04 00 0a 00 01", "04 02 02 2b"),
        ("01 00 13 00 13", "01 03 cd 6b 05"),
        ("02 00 13 00 08", "02 01 cd"),
        ("05 00 20 ff 00", "05 00 20 ff 00"),
        ("06 00 01 00 03", "06 00 01 00 03"),
        ("0f 00 13 00 0a 02 cd 01", "0f 00 13 00 0a"),
        ("10 00 01 00 02 04 00 0a 01 02", "10 00 01 00 02"),
        ("07", "87 01"),
        ("03 00 63 00 02", "83 02"),
        ("03 00 00 00 00", "83 03"),
        ("03 00 00 00 7e", "83 03"),
        ("03 ff ff 00 02", "83 02"),
        ("05 00 20 12 34", "85 03"),
        ("06 00 42 03 e9", "86 03"),
        ("10 00 01 00 02 03 00 0a 01", "90 03"),
        ("10 00 01 00 02", "90 03"),
        ("03", "83 03"),
    ],
)
def test_each_function_and_exception(request_pdu: str, response_pdu: str) -> None:
    memory = Memory()
    memory.words[10:13] = [555, 0, 100]
    memory.bits[0x13 : 0x13 + 19] = [int(bit) for bit in "1011001111010110101"]
    assert TcpSlave(memory).receive(tcp(request_pdu)) == tcp(response_pdu)


def test_writes_arrive() -> None:
    memory = Memory()
    slave = TcpSlave(memory)
    slave.receive(
        tcp("10 00 01 00 02 04 00 0a 01 02") + tcp("0f 00 13 00 0a 02 cd 01") + tcp("05 00 20 ff 00")
    )
    assert memory.words[1:3] == [10, 258]
    assert memory.bits[0x13 : 0x13 + 10] == [1, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    assert memory.bits[0x20] == 1


@pytest.mark.parametrize("cut", range(1, 8))
def test_rtu_request_in_two_pieces(cut: int) -> None:
    slave = RtuSlave([Memory()])
    request = rtu("01 03 00 0a 00 01")
    assert slave.receive(request[:cut]) == b""
    assert slave.receive(request[cut:]) == rtu("01 03 02 00 00")


def test_rtu_each_unit_answers_for_itself_and_strangers_hear_nothing() -> None:
    one, two = Memory(1), Memory(2)
    two.words[0] = 7
    slave = RtuSlave([one, two])
    assert slave.receive(rtu("02 03 00 00 00 01")) == rtu("02 03 02 00 07")
    assert slave.receive(rtu("03 03 00 00 00 01")) == b""
    assert slave.receive(rtu("01 03 00 00 00 01")) == rtu("01 03 02 00 00")


def test_rtu_broadcast_is_executed_by_all_and_answered_by_none() -> None:
    one, two = Memory(1), Memory(2)
    assert RtuSlave([one, two]).receive(rtu("00 06 00 05 00 2a")) == b""
    assert (one.words[5], two.words[5]) == (42, 42)


def test_rtu_wrong_checksum_is_silence_and_changes_nothing() -> None:
    memory = Memory()
    bad = bytearray(rtu("01 06 00 05 00 2a"))
    bad[-1] ^= 1
    slave = RtuSlave([memory])
    assert slave.receive(bytes(bad)) == b""
    assert memory.words[5] == 0
    assert slave.receive(rtu("01 03 00 05 00 01")) == rtu("01 03 02 00 00")


@pytest.mark.parametrize(
    "before",
    [
        b"\x00",
        b"\xff\xfe garbage",
        b"\x01\x03\x00",
        b"\x01\x10\x00\x01\x00\x7b\xf6\x00",
        bytes(300),
        b"\x01\x10" * 200,
    ],
)
def test_rtu_finds_the_request_behind_garbage(before: bytes) -> None:
    slave = RtuSlave([Memory()])
    slave.receive(before)
    assert slave.receive(rtu("01 03 00 00 00 01")) == rtu("01 03 02 00 00")


def test_rtu_refuses_a_function_nobody_has() -> None:
    assert RtuSlave([Memory()]).receive(rtu("01 2b 0e 01 00")) == rtu("01 ab 01")


def test_rtu_split_keeps_what_concerns_its_slaves() -> None:
    slave = RtuSlave([Memory(2)])
    mine, other, everyone = rtu("02 03 00 00 00 01"), rtu("01 03 00 00 00 01"), rtu("00 06 00 00 00 01")
    assert slave.split(b"\xff" + other + mine[:3]) == []
    assert slave.split(mine[3:] + everyone + mine) == [mine, everyone, mine]


def test_tcp_pipelined_requests_keep_their_transactions_and_units() -> None:
    slave = TcpSlave(Memory())
    both = tcp("03 00 00 00 01", 7, 9) + tcp("06 00 00 00 05", 8, 255)
    assert slave.receive(both[:9]) == b""
    assert slave.receive(both[9:]) == tcp("03 02 00 00", 7, 9) + tcp("06 00 00 00 05", 8, 255)


@pytest.mark.parametrize("header", ["00 01 00 01 00 06 00", "00 01 00 00 00 01 00", "00 01 00 00 01 00 00"])
def test_tcp_hangs_up_on_what_is_not_modbus(header: str) -> None:
    slave = TcpSlave(Memory())
    assert slave.receive(bytes.fromhex(header) + b"\x03\x00\x00\x00\x01") == b""
    assert slave.closed


def test_tcp_split_gives_one_request_each() -> None:
    slave = TcpSlave(Memory())
    one, two = tcp("03 00 00 00 01", 1), tcp("10 00 01 00 01 02 00 0a", 2)
    assert slave.split(one + two[:8]) == [one]
    assert slave.split(two[8:]) == [two]


# The clients.


@contextmanager
def on_tcp(memory: Memory) -> Iterator[int]:
    """A slave on a loopback port, for as many clients as come one after the other."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            slave = TcpSlave(memory)
            with connection:
                while data := connection.recv(4096):
                    connection.sendall(slave.receive(data))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


@contextmanager
def on_pty(simulators: list[RegisterSimulator]) -> Iterator[str]:
    """Slaves on one pseudo terminal."""
    master, end = os.openpty()
    tty.setraw(master)
    tty.setraw(end)
    slave = RtuSlave(simulators)
    hang_up, wake = os.pipe()

    def serve() -> None:
        while True:
            readable, _, _ = select.select([master, hang_up], [], [])
            if hang_up in readable:
                return
            os.write(master, slave.receive(os.read(master, 4096)))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield os.ttyname(end)
    finally:
        os.write(wake, b"x")
        thread.join(5)
        for descriptor in (master, end, hang_up, wake):
            os.close(descriptor)


def exercise(client: Any, unit: int) -> None:
    """Every function of the slave, as pymodbus understands it."""
    assert not client.write_registers(10, [1, 0xFFFF, 3], device_id=unit).isError()
    assert client.read_holding_registers(10, count=3, device_id=unit).registers == [1, 0xFFFF, 3]
    assert client.read_input_registers(11, count=1, device_id=unit).registers == [0xFFFF]
    assert not client.write_register(20, 77, device_id=unit).isError()
    assert client.read_holding_registers(20, count=1, device_id=unit).registers == [77]
    assert not client.write_coils(3, [True, False, True], device_id=unit).isError()
    assert not client.write_coil(4, True, device_id=unit).isError()
    assert client.read_coils(3, count=3, device_id=unit).bits[:3] == [True, True, True]
    assert client.read_discrete_inputs(2, count=2, device_id=unit).bits[:2] == [False, True]
    assert client.read_holding_registers(99, count=2, device_id=unit).exception_code == 2
    assert client.write_register(66, 1001, device_id=unit).exception_code == 3


def test_pymodbus_over_tcp() -> None:
    with on_tcp(Memory()) as port:
        client: Any = ModbusTcpClient("127.0.0.1", port=port, timeout=5)
        assert client.connect()
        try:
            exercise(client, 1)
        finally:
            client.close()


def test_pymodbus_over_a_serial_line_with_two_slaves() -> None:
    with on_pty([Memory(1), Memory(2)]) as path:
        client: Any = ModbusSerialClient(path, baudrate=19200, timeout=5)
        assert client.connect()
        try:
            exercise(client, 2)
            exercise(client, 1)
        finally:
            client.close()


def mbpoll(*arguments: str) -> str:
    """Run mbpoll once, with addresses from 0; what it printed."""
    done = subprocess.run(
        [str(MBPOLL), "-1", "-0", "-o", "5", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout + done.stderr


@needs_mbpoll
def test_mbpoll_over_tcp() -> None:
    memory = Memory()
    with on_tcp(memory) as port:
        where = ("-m", "tcp", "-p", str(port), "-a", "1", "-r", "30")
        assert "Written 2 references" in mbpoll(*where, "-t", "4", "127.0.0.1", "4660", "22136")
        read = mbpoll(*where, "-t", "4:hex", "-c", "2", "127.0.0.1")
        refused = mbpoll("-m", "tcp", "-p", str(port), "-a", "1", "-r", "200", "-t", "4", "127.0.0.1")
    assert memory.words[30:32] == [4660, 22136]
    assert re.findall(r"\[\d+\]:\s+(0x[0-9A-F]+)", read) == ["0x1234", "0x5678"]
    assert "Illegal data address" in refused


@needs_mbpoll
def test_mbpoll_over_a_serial_line() -> None:
    memory = Memory(5)
    memory.words[30] = 4321
    with on_pty([Memory(4), memory]) as path:
        read = mbpoll(
            "-m", "rtu", "-b", "19200", "-P", "none", "-a", "5", "-r", "30", "-t", "4", "-c", "1", path
        )
    assert re.findall(r"\[\d+\]:\s+(\d+)", read) == ["4321"]
