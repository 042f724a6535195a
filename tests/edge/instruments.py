"""One instrument without a wire that does whatever a test tells it, and the small cell around it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec

from drivers.api import (
    Attempt,
    Device,
    Draws,
    Effect,
    Empties,
    FixedWell,
    Identity,
    Intent,
    Labware,
    LineUse,
    Looks,
    Options,
    Outcome,
    Outlet,
    OverPosition,
    Places,
    Position,
    Puts,
    Well,
    WellName,
    operation,
)
from drivers.errors import Fault, Lost, Refused
from edge.cell import Cell, DeviceConfig, InterlockConfig, LabwareConfig, Mqtt, PositionConfig
from protocols.links import Links

Volume = Annotated[float, msgspec.Meta(gt=0, le=5000)]


class BotOptions(Options, frozen=True, kw_only=True):
    draws_from: tuple[str, ...] = ()
    over: str | None = None
    vessel_ul: float = 0.0
    sees: str | None = None
    reaches: tuple[str, ...] | None = None


class Draw(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: Well
    volume_ul: Volume


class Put(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: Well
    volume_ul: Volume


class Empty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    expel: bool = False


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labware: Labware
    to: Position
    well: WellName | None = None


class Look(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    well: Well | None = None
    times: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1


class Poke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    depth_mm: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
    note: str = ""


class Moved(msgspec.Struct, frozen=True):
    volume_ul: float


class Seen(msgspec.Struct, frozen=True):
    absorbance: float
    label: str = "ok"
    spectrum: list[float] = []


class BotReadings(msgspec.Struct, frozen=True):
    temperature_c: float = 20.0
    lid: str = "closed"
    ready: bool = True


Answer = Callable[["Bot", Attempt], Awaitable[Any]]
"""What an operation does once its intent is durable."""


class Bot(Device):
    """Does the next of `answers` at each operation, or succeeds at once; keeps a `log` of what was asked."""

    driver = "bot"
    title = "Bot"
    safe_state = "It stands still."
    Options: ClassVar[type[Options]] = BotOptions
    Readings = BotReadings
    options: BotOptions

    def __init__(self, name: str, options: BotOptions, links: Links) -> None:
        super().__init__(name, options, links)
        self.log: list[str] = []
        self.answers: deque[Answer] = deque()
        self.readings = BotReadings()
        self.serial = "1234"
        self.absent: Exception | None = None
        """Raised by `open` and `read` while set."""
        self.moving = False
        self.settles: deque[Outcome | Exception] = deque()

    @classmethod
    def line(cls, options: BotOptions) -> LineUse:
        return LineUse("bot")

    @classmethod
    def outlets(cls, options: BotOptions) -> tuple[Outlet, ...]:
        fixed = tuple(FixedWell(well) for well in options.draws_from)
        return (*fixed, OverPosition(options.over)) if options.over is not None else fixed

    @classmethod
    def vessel_ul(cls, options: BotOptions) -> float:
        return options.vessel_ul

    @classmethod
    def sees(cls, options: BotOptions) -> str | None:
        return options.sees

    @classmethod
    def reaches(cls, options: BotOptions) -> tuple[str, ...] | None:
        return options.reaches

    async def open(self) -> None:
        self.log.append("open")
        if self.absent is not None:
            raise self.absent

    async def identify(self) -> Identity:
        self.log.append("identify")
        return Identity("Bot", serial=self.serial, firmware="1")

    async def read(self) -> BotReadings:
        self.log.append("read")
        if self.absent is not None:
            raise self.absent
        return self.readings

    async def prepare(self) -> None:
        self.log.append("prepare")

    def halt(self) -> None:
        self.log.append("halt")
        self.moving = False

    async def halted(self) -> bool:
        self.log.append("halted")
        return not self.moving

    async def settle(self, intent: Intent) -> Outcome:
        self.log.append(f"settle {intent.operation}")
        if not self.settles:
            return await super().settle(intent)
        said = self.settles.popleft()
        if isinstance(said, Exception):
            raise said
        return said

    async def close(self) -> None:
        self.log.append("close")

    async def _act(self, name: str, attempt: Attempt, result: Any = None) -> Any:
        answer = self.answers.popleft() if self.answers else done
        if answer in (refuses, never_sent):
            await answer(self, attempt)
        await attempt.intend(name.encode())
        self.log.append(name)
        said = await answer(self, attempt)
        return result if said is None else said

    @operation(settles=Effect.QUERY, estimate_s=1.0, touches=(Draws("source", "volume_ul"),))
    async def draw(self, args: Draw, attempt: Attempt) -> Moved:
        """Draw a volume."""
        return await self._act("draw", attempt, Moved(args.volume_ul))  # type: ignore[no-any-return]  # as told

    @operation(settles=Effect.QUERY, estimate_s=1.0, touches=(Puts("target", "volume_ul"),))
    async def put(self, args: Put, attempt: Attempt) -> Moved:
        """Give a volume."""
        return await self._act("put", attempt, Moved(args.volume_ul))  # type: ignore[no-any-return]  # as told

    @operation(settles=Effect.REPEAT, estimate_s=1.0, touches=(Empties("expel"),))
    async def empty(self, args: Empty, attempt: Attempt) -> None:
        """Push out what there is."""
        await self._act("empty", attempt)

    @operation(settles=Effect.QUERY, estimate_s=2.0, touches=(Places("labware", "to", "well"),))
    async def place(self, args: Place, attempt: Attempt) -> None:
        """Move labware."""
        await self._act("place", attempt)

    @operation(settles=Effect.REPEAT, estimate_s=0.5, touches=(Looks("well"),))
    async def look(self, args: Look, attempt: Attempt) -> Seen:
        """Look at a well."""
        return await self._act("look", attempt, Seen(0.25))  # type: ignore[no-any-return]  # as told

    @operation(settles=Effect.QUERY, estimate_s=lambda options, args: args.depth_mm)
    async def poke(self, args: Poke, attempt: Attempt) -> Moved:
        """Poke something; the device knows whether it has."""
        return await self._act("poke", attempt, Moved(args.depth_mm))  # type: ignore[no-any-return]  # as told

    @operation(settles=Effect.ASK, estimate_s=1.0)
    async def stir(self, args: Poke, attempt: Attempt) -> None:
        """Stir; nobody can tell afterwards whether it has."""
        await self._act("stir", attempt)

    @operation(settles=Effect.REPEAT, estimate_s=1.0)
    async def heat(self, args: Poke, attempt: Attempt) -> Moved:
        """Heat; doing it twice is doing it once."""
        return await self._act("heat", attempt, Moved(args.depth_mm))  # type: ignore[no-any-return]  # as told


async def done(bot: Bot, attempt: Attempt) -> Any:
    return None


async def refuses(bot: Bot, attempt: Attempt) -> Any:
    """Before its intent."""
    raise Refused("not now")


async def fails(bot: Bot, attempt: Attempt) -> Any:
    raise Fault("the plunger is stuck")


async def loses(bot: Bot, attempt: Attempt) -> Any:
    raise Lost("no answer")


async def never_sent(bot: Bot, attempt: Attempt) -> Any:
    """Before its intent."""
    raise Lost("the port is closed", sent=False)


async def hangs(bot: Bot, attempt: Attempt) -> Any:
    bot.moving = True
    await asyncio.Event().wait()


class Gate:
    """An answer that waits until it is let through; `reached` tells that the operation is under way."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, bot: Bot, attempt: Attempt) -> Any:
        self.reached.set()
        await self.open.wait()


def gives(result: msgspec.Struct) -> Answer:
    async def answer(bot: Bot, attempt: Attempt) -> Any:
        return result

    return answer


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition is true."""
    async with asyncio.timeout(10):
        for _ in count():
            if condition():
                return
            await asyncio.sleep(0.001)


FRAME = ((300.0, 100.0, 50.0), (399.0, 100.0, 50.0), (300.0, 163.0, 50.0))
NEST_2 = ((300.0, 300.0, 50.0), (399.0, 300.0, 50.0), (300.0, 363.0, 50.0))

POSITIONS = {
    "nest-1": PositionConfig(frame=FRAME),
    "nest-2": PositionConfig(frame=NEST_2),
    "nozzle-1": PositionConfig(at="nest-1"),
    "nozzle-b2": PositionConfig(at="nest-2", well="B2"),
    "shelf": PositionConfig(),
}
LABWARE = {
    "plate-1": LabwareConfig(type="sbs-96", at="nest-1", well_capacity_ul=360),
    "trough": LabwareConfig(
        type="trough-1", at="shelf", well_capacity_ul=50_000, contents={"A1": {"dye": 1000.0}}
    ),
    "waste": LabwareConfig(type="trough-1", well_capacity_ul=5_000),
}
DEVICES: dict[str, dict[str, Any]] = {
    "pump": {"draws_from": ("trough/A1",), "over": "nozzle-1", "vessel_ul": 500.0},
    "arm": {},
    "reader": {"sees": "nest-2"},
}


def cell_of(
    tmp_path: Path,
    devices: dict[str, dict[str, Any]] | None = None,
    interlocks: tuple[InterlockConfig, ...] = (),
    **more: Any,
) -> Cell:
    """A cell of bots; `devices` gives their options by name."""
    configs = {
        name: DeviceConfig(
            name=name, driver="bot", device=Bot, options=BotOptions(driver="bot", port="x", **options)
        )
        for name, options in (DEVICES if devices is None else devices).items()
    }
    return Cell(
        cell="bench-1",
        path=tmp_path / "cell.yaml",
        state_dir=tmp_path / "state",
        mqtt=Mqtt(url="mqtt://localhost", host="localhost", port=1883, tls=False, embedded=False),
        devices=configs,
        positions=more.pop("positions", POSITIONS),
        labware=more.pop("labware", LABWARE),
        interlocks=interlocks,
        **more,
    )
