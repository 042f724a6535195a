"""What an instrument of the bench is: bytes or registers in and out, and time as an argument.

A simulator knows its instrument's manual and the world, and nothing of the host that carries its bytes.
Physical time comes in through `tick`; the bench multiplies real time by its `speed`. The bench ticks every
instrument up to the present before it hands bytes to any of them.
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
    "Factory",
    "IllegalAddress",
    "IllegalValue",
    "Log",
    "Receiver",
    "RegisterSimulator",
    "Service",
    "Simulator",
]


class Receiver(Protocol):
    """Whatever answers bytes: one per connection where a connection has a state of its own."""

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the line, in any pieces; return what is answered at once."""


@dataclass(frozen=True, slots=True)
class Service:
    """A further TCP door of an instrument, printed as `NAME.SERVICE`: for example an arm's dashboard.

    `address` is `host:port` (port 0: any free one); `connect` gives each new connection its receiver;
    `greeting` is sent when a connection opens. Faults of the wire do not reach a service; `disconnect`
    and `hang` do.
    """

    address: str
    connect: Callable[[], Receiver]
    greeting: bytes = b""


class Simulator(ABC):
    """One instrument of the bench.

    `options` are the instrument's keys in the bench file without `model` and `link`.
    A wrong option raises `BenchError` with a sentence.
    """

    model: ClassVar[str]
    """Name in the bench file, and of the entry point in `labedge.simulators`."""

    transport: ClassVar[str] = "bytes"
    """Which host carries it: `bytes` (PTY or TCP), `modbus-rtu`, `modbus-tcp`, `opcua`."""

    option_names: ClassVar[frozenset[str] | None] = None
    """The options this model knows, so that the bench file's others are refused; None: not declared."""

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

    def stick(self, movements: int | None) -> None:
        """Fault `stuck`: the next `movements` movements do not happen and the instrument says so as it does.

        None: every movement until `stick(0)` frees the axis. A movement under way stops where it is.
        """
        raise BenchError(f"{self.name} ({self.model}) has no axis that could be stuck for {movements} moves.")

    def drift(self, per_s: float) -> None:
        """Fault `drift`: from now on the sensor's value goes off by `per_s` of its unit each physical second.

        0 stops the drifting and what has been drifted stays, until a reboot.
        """
        raise BenchError(f"{self.name} ({self.model}) has no sensor that could drift by {per_s} a second.")

    def fail(self, code: int) -> None:
        """Fault `error`: the instrument reports this error code as it reports its own."""
        raise BenchError(f"{self.name} ({self.model}) has no error code {code} that could be set.")

    def services(self) -> Mapping[str, Service]:
        """Further TCP doors by name; asked once, when the bench starts."""
        return {}

    def state(self) -> dict[str, Any]:
        """What `firmware-sim world` shows of this instrument: axis positions, temperatures, and so on."""
        return {}


class ByteSimulator(Simulator):
    """An instrument that speaks bytes on a PTY or a TCP connection."""

    @abstractmethod
    def receive(self, data: bytes) -> bytes:
        """Take bytes from the line, in any pieces; return what the instrument answers at once."""

    def split(self, data: bytes) -> list[bytes]:
        """Cut arriving bytes into messages for this instrument, so that faults hit one message each.

        Bytes of an unfinished message may be kept for the next call; bytes that cannot matter to this
        instrument may be left out. Each message goes to `receive`.
        """
        return [data] if data else []

    def unasked(self) -> bytes:
        """Bytes that became due since the last call (delayed answers, unsolicited lines)."""
        return b""


class RegisterSimulator(Simulator):
    """An instrument that serves Modbus registers, as (function code, address on the wire)."""

    unit: int = 1

    functions: ClassVar[frozenset[int]] = frozenset({1, 2, 3, 4, 5, 6, 15, 16})
    """Function codes it serves; the others are refused with exception 1."""

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
