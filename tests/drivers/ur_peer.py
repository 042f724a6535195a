"""A scripted arm: Modbus registers and a dashboard on two sockets, and a program that does as the test says.

It is not the simulator of the bench: it has no motion and no world, only the handshake's registers and some
knobs for everything that can go wrong between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Self

from drivers.api import Pose

GREETING = b"Connected: Universal Robots Dashboard Server\n"


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; fails after 5 s."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


class ArmPeer:
    """Use `async with`. `registers` are the controller's; `log` holds commands and jobs in their order."""

    def __init__(self, own_program: bool = True) -> None:
        self._own_program = own_program
        self.registers: dict[int, int] = {258: 7, 400: 1000, 401: 0xF060, 402: 3000}
        self.log: list[str] = []
        self.writes: list[tuple[int, list[int]]] = []
        self.robot_mode = "RUNNING"
        self.safety = "NORMAL"
        self.playing = True
        self.keeps_registers = False
        """As a real controller may: the program's registers stay when it ends."""
        self.takes_jobs = True
        self.ends_jobs = True
        self.error = 0
        self.mute: dict[int, int] = {}
        """Address of a job's write: how many of them are carried out and not answered."""
        self.lost_writes = 0
        """So many writes from now on are neither carried out nor answered."""
        self.beating = True
        self.swallow_dashboard = False
        self._clients: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._modbus = await asyncio.start_server(self._serve_modbus, "127.0.0.1", 0)
        self._desk = await asyncio.start_server(self._serve_desk, "127.0.0.1", 0)
        self.port = f"tcp://127.0.0.1:{self._modbus.sockets[0].getsockname()[1]}"
        self.dashboard = f"127.0.0.1:{self._desk.sockets[0].getsockname()[1]}"
        if self._own_program:
            self.start_program()
        self._program = asyncio.create_task(self._run_program())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._program.cancel()
        await asyncio.wait([self._program])
        self._modbus.close()
        self._desk.close()
        self.drop()

    def drop(self) -> None:
        """Cut every connection."""
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()

    def start_program(self) -> None:
        self.playing = True
        for register in range(160, 172):
            self.registers[register] = 0
        self.registers[160] = 1

    def end_program(self) -> None:
        self.playing = False
        if not self.keeps_registers:
            for register in range(160, 172):
                self.registers[register] = 0

    def id_at(self, register: int) -> int:
        return self.registers.get(register, 0) << 16 | self.registers.get(register + 1, 0)

    def end_job(self, error: int = 0) -> None:
        """The end of motion, in the page's order."""
        self.registers[165] = error
        self.registers[168], self.registers[169] = self.registers[166], self.registers[167]
        self.registers[164] = 0 if error else 1
        self.registers[163] = 0

    async def until(self, entry: str) -> None:
        """Wait until an entry of the log begins with `entry`; fails after 5 s."""
        await until(lambda: any(line.startswith(entry) for line in self.log))

    async def _run_program(self) -> None:
        beat = 0
        while True:
            await asyncio.sleep(0.02)
            if not self.playing or not self._own_program:
                continue
            if self.beating:
                beat += 1
                self.registers[161] = beat & 0xFFFF
            if self.registers.get(128) == 1 and self.takes_jobs:
                self._take()
            elif self.registers.get(128) == 0:
                self.registers[162] = 0
            if self.registers[163] and self.ends_jobs:
                self.end_job(self.error)

    def _take(self) -> None:
        if self.id_at(130) != self.id_at(166):
            self.log.append(f"job {self.registers[129]} id {self.id_at(130)}")
            self.registers[164] = self.registers[165] = 0
            self.registers[163] = 1
            self.registers[166], self.registers[167] = self.registers[130], self.registers[131]
        self.registers[162] = 1

    async def _serve_modbus(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readexactly(6)
                body = await reader.readexactly(int.from_bytes(head[4:6], "big"))
                reply = self._register_reply(body[1:])
                if reply is not None:
                    writer.write(head[:4] + struct.pack(">HB", len(reply) + 1, body[0]) + reply)

    def _register_reply(self, pdu: bytes) -> bytes | None:
        function, address = pdu[0], int.from_bytes(pdu[1:3], "big")
        if function == 3:
            count = int.from_bytes(pdu[3:5], "big")
            words = [self.registers.get(address + offset, 0) for offset in range(count)]
            return struct.pack(f">BB{count}H", 3, 2 * count, *words)
        words = list(struct.unpack(f">{(len(pdu) - 6) // 2}H", pdu[6:])) if function == 16 else []
        words = words or [int.from_bytes(pdu[3:5], "big")]
        is_job = address in (128, 129)
        if is_job and self.lost_writes:
            self.lost_writes -= 1
            return None
        if is_job:
            self.writes.append((address, words))
        for offset, word in enumerate(words):
            self.registers[address + offset] = word
        if is_job and self.mute.get(address, 0):
            self.mute[address] -= 1
            return None
        return pdu[:5]

    async def _serve_desk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        writer.write(GREETING)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                command = line.decode().rstrip("\n")
                reply = self._desk_reply(command)
                if command not in ("robotmode", "running", "safetystatus", ""):
                    self.log.append(command)
                if not self.swallow_dashboard:
                    writer.write(reply.encode() + b"\n")

    def _desk_reply(self, command: str) -> str:
        if command == "stop":
            ended = self.playing
            self.end_program()
            return "Stopped" if ended else "Failed to execute: stop"
        if command == "play":
            self.start_program()
            return "Starting program"
        if command == "power on":
            self.robot_mode = "IDLE"
            return "Powering on"
        if command == "brake release":
            self.robot_mode, self.registers[258] = "RUNNING", 7
            return "Brake releasing"
        if command.startswith("load "):
            known = command == "load labedge_mover.urp"
            return f"{'Loading program' if known else 'File not found'}: {command[5:]}"
        return {
            "robotmode": f"Robotmode: {self.robot_mode}",
            "safetystatus": f"Safetystatus: {self.safety}",
            "running": f"Program running: {str(self.playing).lower()}",
            "get serial number": "20175500123",
            "get robot model": "UR5",
            "PolyscopeVersion": "URSoftware 5.9.4.1031232 (Jun 22 2022)",
        }.get(command, f"could not understand: '{command}'")


class Table:
    """Two nests and a nozzle; plate-1 stands in nest-1."""

    def __init__(self) -> None:
        self.points = {
            "nest-1": Pose(400.0, -250.5, 120.0, 0.0),
            "nest-2": Pose(-100.0, 300.0, 80.0, 1.5707963),
            "far": Pose(4000.0, 0.0, 0.0, 0.0),
        }
        self.standing: tuple[str, str | None] | None = ("nest-1", None)

    def pose(self, position: str, labware: str, well: str | None) -> Pose:
        point = self.points[position]
        shift = 9.0 if well == "A2" else 0.0
        return Pose(point.x_mm - shift, point.y_mm, point.z_mm, point.rz_rad)

    def where(self, labware: str) -> tuple[str, str | None] | None:
        return self.standing
