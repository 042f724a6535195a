"""What an instrument of the bench is: bytes or registers in and out, and time as an argument.

A simulator knows its instrument's manual and the world, and nothing of the host that carries its bytes.
Physical time comes in through `tick`; the host multiplies real time by the bench's `speed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from firmware_sim.errors import BenchError
from firmware_sim.log import Log
from firmware_sim.world import World

__all__ = [
    "BenchError",
    "ByteSimulator",
    "Connection",
    "Endpoint",
    "Factory",
    "IllegalAddress",
    "IllegalValue",
    "Log",
    "RegisterSimulator",
    "Simulator",
]


class Connection(Protocol):
    """One client's connection to a TCP server of an instrument; the host makes one for each client."""

    greeting: bytes
    """Sent as soon as the client has connected."""

    closed: bool
    """True once the instrument has hung up; the host sends what it has and closes."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes in any pieces; return what the instrument answers at once."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP server beside the instrument's own link: where it listens, and what makes a connection."""

    address: str
    """`host:port`; port 0 lets the system choose."""

    connect: Callable[[], Connection]


class Simulator(ABC):
    """One instrument of the bench.

    `options` are the instrument's keys in the bench file without `model` and `link`.
    A wrong option raises `BenchError` with a sentence.
    """

    model: ClassVar[str]
    """Name in the bench file, and of the entry point in `labedge.simulators`."""

    transport: ClassVar[str] = "bytes"
    """Which host carries it: `bytes` (PTY or TCP), `modbus-rtu`, `modbus-tcp`, `opcua`."""

    def __init__(self, name: str, options: Mapping[str, Any], world: World, log: Log) -> None:
        self.name = name
        self.options = options
        self.world = world
        self.log = log

    def action(self, what: str, **details: Any) -> None:
        """Record that matter or an axis has really moved."""
        self.log(self.name, "action", what, **details)

    @abstractmethod
    def tick(self, dt: float) -> None:
        """Let `dt` seconds of physical time pass (dt >= 0)."""

    def due(self) -> float | None:
        """Physical seconds until something happens by itself; None while nothing is under way."""
        return None

    @abstractmethod
    def reboot(self) -> None:
        """Lose what the instrument loses when its power is cycled."""

    def endpoints(self) -> dict[str, Endpoint]:
        """Further servers of the instrument by name; the bench announces each as `INSTRUMENT.NAME`."""
        return {}

    def fault(self, kind: str, details: Mapping[str, Any]) -> None:
        """Suffer `stuck`, `drift` or `error` until `mend`; `details` are the further keys of the fault.

        `BenchError` if this instrument has no such fault.
        """
        raise BenchError(f"{self.name} ({self.model}) has no fault {kind!r}.")

    def mend(self, kind: str) -> None:
        """The cause of a fault is gone; what the instrument latched stays latched until it is cleared there."""

    def state(self) -> dict[str, Any]:
        """What `firmware-sim world` shows of this instrument: axis positions, temperatures, and so on."""
        return {}


class ByteSimulator(Simulator):
    """An instrument that speaks bytes on a PTY or a TCP connection."""

    @abstractmethod
    def receive(self, data: bytes) -> bytes:
        """Take bytes from the line, in any pieces; return what the instrument answers at once."""

    def unasked(self) -> bytes:
        """Bytes that became due since the last call (delayed answers, unsolicited lines)."""
        return b""


class RegisterSimulator(Simulator):
    """An instrument that serves Modbus registers, as (function code, address on the wire)."""

    unit: int = 1

    @abstractmethod
    def read(self, function: int, address: int, count: int) -> list[int]:
        """Values of `count` registers or bits; raises `IllegalAddress` outside the map."""

    @abstractmethod
    def write(self, function: int, address: int, values: list[int]) -> None:
        """Write registers or bits; raises `IllegalAddress` or `IllegalValue`."""


class IllegalAddress(Exception):
    """Modbus exception 2: no such register."""


class IllegalValue(Exception):
    """Modbus exception 3: the register refuses this value or length."""


Factory = Callable[[str, Mapping[str, Any], World, Log], Simulator]
