"""Drivers without instruments, installed as a package of their own would be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest

from drivers.api import (
    Attempt,
    Device,
    Effect,
    FixedWell,
    Identity,
    LineUse,
    Options,
    Outlet,
    OverPosition,
    Position,
    Well,
    operation,
)
from drivers.errors import Lost
from protocols.serial_port import SerialSettings


class Over(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    over: Position


class PumpOptions(Options, frozen=True, kw_only=True):
    address: Annotated[int, msgspec.Meta(ge=1, le=15)] = 1
    syringe_ul: Annotated[float, msgspec.Meta(gt=0)]
    ports: dict[int, Well | Over] = msgspec.field(default_factory=dict)
    baudrate: Literal[9600, 38400] = 9600


class PumpReadings(msgspec.Struct, frozen=True):
    ready: bool
    plunger_ul: float
    valve: str


class PushArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    volume_ul: Annotated[float, msgspec.Meta(gt=0)]


class PushResult(msgspec.Struct, frozen=True):
    moved_ul: float


class Toy(Device):
    """Answers as its port says: `lost`, `mute` and `broken` at the end of it are three ways not to."""

    safe_state = "It stands still."
    closed: ClassVar[list[str]] = []

    @classmethod
    def line(cls, options: Any) -> LineUse:
        return LineUse(cls.driver, SerialSettings(baudrate=getattr(options, "baudrate", 9600)))

    async def open(self) -> None:
        if self.options.port.endswith("lost"):
            raise Lost(f"There is no port {self.options.port}.", sent=False)
        if self.options.port.endswith("broken"):
            raise KeyError("speed")

    async def identify(self) -> Identity:
        if self.options.port.endswith("mute"):
            await asyncio.Event().wait()
        return Identity(self.title, serial="1234")

    async def read(self) -> Any:
        return self.Readings()

    def halt(self) -> None:
        return

    async def halted(self) -> bool:
        return True

    async def close(self) -> None:
        self.closed.append(self.name)


class ToyPump(Toy):
    driver = "toy-pump"
    title = "Toy pump"
    Options = PumpOptions
    Readings = PumpReadings

    @operation(settles=Effect.QUERY, estimate_s=1.0)
    async def push(self, args: PushArgs, attempt: Attempt) -> PushResult:
        """Push a volume out."""
        await attempt.intend(b"push")
        return PushResult(args.volume_ul)

    @classmethod
    def outlets(cls, options: PumpOptions) -> tuple[Outlet, ...]:
        return tuple(
            OverPosition(where.over) if isinstance(where, Over) else FixedWell(where)
            for where in options.ports.values()
        )


class ScaleReadings(msgspec.Struct, frozen=True):
    mass_g: float = 0.0
    stable: bool = True


class ToyScale(Toy):
    driver = "toy-scale"
    title = "Toy scale"
    Options = Options
    Readings = ScaleReadings


class ReaderOptions(Options, frozen=True, kw_only=True):
    at: Position | None = None


class ToyReader(ToyScale):
    driver = "toy-reader"
    title = "Toy reader"
    Options = ReaderOptions

    @classmethod
    def line(cls, options: Any) -> LineUse:
        return LineUse("opcua")

    @classmethod
    def sees(cls, options: ReaderOptions) -> str | None:
        return options.at


class ToyArm(ToyScale):
    driver = "toy-arm"
    title = "Toy arm"

    @classmethod
    def line(cls, options: Any) -> LineUse:
        return LineUse("modbus-tcp")


class Unfinished(Device):
    """Does nothing."""


class Silent(Device):
    """Does everything and declares nothing."""

    line = ToyScale.line
    open = ToyScale.open
    identify = ToyScale.identify
    read = ToyScale.read
    halt = ToyScale.halt
    halted = ToyScale.halted
    close = ToyScale.close


class Optionless(ToyScale):
    driver = "toy-optionless"
    Options: ClassVar[Any] = dict


class OddOptions(Options, frozen=True, kw_only=True):
    speed: Annotated[int | str, msgspec.Meta(pattern="^a$", ge=1)] = 1


class Contradictory(ToyScale):
    driver = "toy-odd"
    Options = OddOptions


class Impostor(ToyScale):
    """Registered under another name than its own."""


NOT_A_CLASS = 3

ENTRIES = {
    "toy-pump": "ToyPump",
    "toy-scale": "ToyScale",
    "toy-reader": "ToyReader",
    "toy-arm": "ToyArm",
}
BROKEN_ENTRIES = {
    "toy-unfinished": "Unfinished",
    "toy-silent": "Silent",
    "toy-optionless": "Optionless",
    "toy-odd": "Contradictory",
    "toy-impostor": "Impostor",
    "toy-number": "NOT_A_CLASS",
    "toy-absent": "Nowhere",
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, broken: bool = False) -> None:
    """Make the toys known as installed drivers, for this test."""
    info = folder / "site" / "toys-1.0.dist-info"
    info.mkdir(parents=True)
    entries = ENTRIES | (BROKEN_ENTRIES if broken else {})
    lines = [f"{name} = tests.edge.toys:{attribute}" for name, attribute in entries.items()]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(["[labedge.drivers]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(info.parent))
