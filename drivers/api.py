"""What a driver is, without any I/O.

A driver declares: its options, its operations (argument and result structs, what settles a lost reply,
what they touch, how long they take), its readings, its line and its safe state. Validation, capabilities,
help, liquid book-keeping and dry run are derived from these declarations and written nowhere else.

Units stand in field names (`volume_ul`, `temperature_c`); `unit_of` gives them back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Protocol, get_type_hints

import msgspec

from drivers.errors import Lost, Refused
from protocols.errors import BadRequest, WireError
from protocols.links import Links
from protocols.serial_port import SerialSettings

WELL_PATTERN = r"^[a-z][a-z0-9-]*/[A-Z]{1,2}[1-9][0-9]?$"
PLACE_PATTERN = r"^[a-z][a-z0-9-]*$"

Well = Annotated[
    str,
    msgspec.Meta(
        pattern=WELL_PATTERN, description="a well, as labware/A1", extra_json_schema={"x-labedge": "well"}
    ),
]
Labware = Annotated[
    str,
    msgspec.Meta(pattern=PLACE_PATTERN, description="a labware", extra_json_schema={"x-labedge": "labware"}),
]
Position = Annotated[
    str,
    msgspec.Meta(
        pattern=PLACE_PATTERN, description="a position", extra_json_schema={"x-labedge": "position"}
    ),
]
WellName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Z]{1,2}[1-9][0-9]?$", description="a well's name alone, as B3")
]


class Effect(StrEnum):
    """What settles an attempt whose outcome is unknown."""

    REPEAT = "repeat"
    """Doing it again is harmless: the state afterwards is the same."""
    QUERY = "query"
    """The device's own state tells what happened: `Device.settle` asks."""
    ASK = "ask"
    """Only a person can tell."""


@dataclass(frozen=True)
class Draws:
    """Takes `volume_ul` out of a well into the device's vessel (syringe, tip)."""

    well: str
    volume_ul: str


@dataclass(frozen=True)
class Puts:
    """Gives `volume_ul` out of the device's vessel into a well."""

    well: str
    volume_ul: str


@dataclass(frozen=True)
class Empties:
    """Pushes whatever the vessel holds out of the default outlet.

    Refused in the check while the vessel holds liquid, unless the argument named `allowed` is true.
    """

    allowed: str


@dataclass(frozen=True)
class Places:
    """Moves a labware to a position, with well `well` (None: A1) at the position's reference point."""

    labware: str
    to: str
    well: str


@dataclass(frozen=True)
class Looks:
    """Reads a well in place: the labware must stand where the device can see it."""

    well: str


Touch = Draws | Puts | Empties | Places | Looks
"""What an operation touches; each field names the argument that says which."""


@dataclass(frozen=True)
class FixedWell:
    """An outlet that always ends in this well (tubing into a reservoir)."""

    well: str


@dataclass(frozen=True)
class OverPosition:
    """An outlet above a position: it ends in whichever well stands under it now."""

    position: str


Outlet = FixedWell | OverPosition


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys every device has in the cell file; a driver's own options extend this struct."""

    driver: str
    port: Annotated[str, msgspec.Meta(min_length=1, description="where the device is connected")]
    identity: str | None = None
    """Serial number the device must report, as `SN 1234` or `1234`; another one is refused."""


class Identity(msgspec.Struct, frozen=True):
    """What the device says of itself."""

    model: str
    serial: str | None = None
    firmware: str | None = None

    def __str__(self) -> str:
        parts = [self.model]
        parts += [f"SN {self.serial}"] if self.serial else []
        parts += [f"firmware {self.firmware}"] if self.firmware else []
        return ", ".join(parts)


class Intent(msgspec.Struct, frozen=True):
    """What the journal knows of an attempt before its first byte is on the wire."""

    execution: str
    operation: str
    args: dict[str, Any]
    job_id: int
    """1…2^32-1, unique among the attempts of a cell for as long as a device could remember one."""
    frame: bytes
    memo: dict[str, Any]
    """What `settle` needs beside the frame, for instance the plunger position before the move."""


class Attempt(Protocol):
    """One try of one step, as the driver sees it."""

    execution: str
    job_id: int

    async def intend(self, frame: bytes, **memo: Any) -> None:
        """Make the intent durable. Call it once, directly before `frame` goes to the wire."""


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt ended, as far as is known.

    An unknown outcome may hold in `result` how far it got, as `volume_ul`; the books follow it.
    """

    kind: Literal["finished", "not_executed", "failed", "unknown"]
    result: dict[str, Any] = {}
    reason: str = ""


@dataclass(frozen=True)
class Pose:
    """Where the centre of a labware's well A1 stands, in the robot's base frame."""

    x_mm: float
    y_mm: float
    z_mm: float
    rz_rad: float
    """Direction of the labware's rows (A1 to A2) about the base's z axis."""


class Geometry(Protocol):
    """Where things stand, for devices that move them. The edge keeps it and hands it to an arm.

    Both methods raise `Refused` with a sentence for a name that the cell does not have or never taught.
    """

    def pose(self, position: str, labware: str, well: str | None) -> Pose:
        """Pose of `labware` when its well `well` (None: A1) stands at the point of `position`."""

    def where(self, labware: str) -> tuple[str, str | None] | None:
        """(position, well at its point) of a labware that stands somewhere; None while nobody knows."""


@dataclass(frozen=True)
class LineUse:
    """How a device uses its port: devices that share one must agree on all of it."""

    framing: str
    settings: SerialSettings | None = None


Estimate = Callable[[Any, Any], float]
"""(options, args) -> seconds of real time, the typical case."""


@dataclass(frozen=True)
class Operation:
    """One declared operation."""

    name: str
    args: type[msgspec.Struct]
    result: type[msgspec.Struct] | None
    settles: Effect
    touches: tuple[Touch, ...]
    estimate_s: Estimate
    help: str
    method: Callable[..., Awaitable[Any]]

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the arguments, self-contained."""
        return inline_schema(self.args)


def operation(
    *, settles: Effect, estimate_s: Estimate | float, touches: tuple[Touch, ...] = ()
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    """Declare an operation: a method `async def name(self, args: Args, attempt: Attempt) -> Result | None`.

    `Args` and `Result` are msgspec structs. The operation's name is the method's, its help the first line
    of the method's docstring.
    """

    def mark(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        estimate = estimate_s if callable(estimate_s) else _constant(estimate_s)
        method.__labedge__ = (settles, estimate, touches)  # type: ignore[attr-defined]  # functions take attributes
        return method

    return mark


def _constant(seconds: float) -> Estimate:
    return lambda options, args: seconds


class Device(ABC):
    """One instrument. Subclasses are plain: `__init__` stores, `open` opens, operations talk.

    Every method that talks raises only `Refused`, `Fault` or `Lost`, and always ends by a deadline.
    Only `halt` may be called while another method runs.
    """

    driver: ClassVar[str]
    """Name in the cell file and of the entry point in `labedge.drivers`."""
    title: ClassVar[str]
    """Maker and model, for people."""
    safe_state: ClassVar[str]
    """What `halt` leaves behind, in a sentence."""
    grade: ClassVar[Literal["simulated", "bench", "proven"]] = "simulated"
    """simulated: never run on the real instrument; bench: run on one; proven: months of use."""
    Options: ClassVar[type[Options]]
    Readings: ClassVar[type[msgspec.Struct]]
    """Result of `read`: one field a quantity, all of them numbers, strings or booleans."""
    geometry: Geometry | None = None
    """Set by the edge before `open` on devices that need it; None: the cell file taught no positions."""

    def __init__(self, name: str, options: Any, links: Links) -> None:
        self.name = name
        self.options = options
        self.links = links

    @classmethod
    @abstractmethod
    def line(cls, options: Any) -> LineUse:
        """How this device would use its port."""

    @classmethod
    def outlets(cls, options: Any) -> tuple[Outlet, ...]:
        """Where a liquid handler can draw from and give to; empty for other devices."""
        return ()

    @classmethod
    def vessel_ul(cls, options: Any) -> float:
        """Capacity of the device's own vessel in µl; 0 where it has none."""
        return 0.0

    @classmethod
    def sees(cls, options: Any) -> str | None:
        """Position that a reader looks at; None where it has none or looks anywhere."""
        return None

    @classmethod
    def reaches(cls, options: Any) -> tuple[str, ...] | None:
        """Positions an arm can reach; None: every position that has a frame."""
        return None

    @abstractmethod
    async def open(self) -> None:
        """Open the link. Sends nothing that moves or that consumes state."""

    @abstractmethod
    async def identify(self) -> Identity:
        """Ask who it is. Moves nothing."""

    @abstractmethod
    async def read(self) -> Any:
        """The device's readings now, as `Readings`. Moves nothing; also tells that it is alive."""

    async def prepare(self) -> None:
        """Make ready for a run (clear error states, set modes); moves no matter."""
        return None

    @abstractmethod
    def halt(self) -> None:
        """Stop all motion now.

        Synchronous: waits for no lock, queue or answer, and never raises. Whatever was in flight is
        thrown away. Understood by the device even behind a truncated frame.
        """

    @abstractmethod
    async def halted(self) -> bool:
        """True once the device itself says that nothing moves any more; asks once."""

    async def settle(self, intent: Intent) -> Outcome:
        """Ask the device what became of an attempt. Waits for a motion that is still going on.

        Only called for operations declared `Effect.QUERY`, before any operation is sent.
        """
        return Outcome("unknown", reason=f"{self.name} cannot tell what became of {intent.operation}")

    @abstractmethod
    async def close(self) -> None:
        """Give the link back. Never raises."""


@contextmanager
def wire_errors() -> Iterator[None]:
    """Turn a link's error into the device's: `Refused` if we asked for what it doesn't have, else `Lost`."""
    try:
        yield
    except BadRequest as problem:
        raise Refused(str(problem)) from problem
    except WireError as problem:
        raise Lost(str(problem), sent=problem.sent) from problem


@contextmanager
def nothing_sent() -> Iterator[None]:
    """Around questions that come before a command: what is lost there was not executed."""
    try:
        yield
    except Lost as problem:
        raise Lost(str(problem), sent=False) from problem


@contextmanager
def already_sent() -> Iterator[None]:
    """Around questions that follow a command: what is lost or refused there leaves its outcome unknown."""
    try:
        yield
    except (Lost, Refused) as problem:
        raise Lost(str(problem)) from problem


def operations_of(device: type[Device]) -> dict[str, Operation]:
    """The operations a driver declares, by name, in the order of their definition."""
    found: dict[str, Operation] = {}
    for name, method in vars(device).items():
        mark = getattr(method, "__labedge__", None)
        if mark is None:
            continue
        hints = get_type_hints(method, include_extras=True)
        result = hints.get("return")
        settles, estimate, touches = mark
        found[name] = Operation(
            name=name,
            args=hints["args"],
            result=None if result is type(None) else result,
            settles=settles,
            touches=touches,
            estimate_s=estimate,
            help=(method.__doc__ or "").strip().splitlines()[0],
            method=method,
        )
    return found


def kinds_of(args: type[msgspec.Struct]) -> Mapping[str, str]:
    """Which arguments name a thing of the cell: {"source": "well", "to": "position"}."""
    schema = inline_schema(args)["properties"]
    kinds = {}
    for name, rule in schema.items():
        for option in rule.get("anyOf", [rule]):
            if "x-labedge" in option:
                kinds[name] = option["x-labedge"]
    return kinds


def inline_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of a struct without outer `$ref`."""
    (top,), definitions = msgspec.json.schema_components([struct])
    schema = dict(definitions.pop(struct.__name__)) if "$ref" in top else dict(top)
    if definitions:
        schema["$defs"] = definitions
    return schema


_UNITS = {
    "ul": "µl",
    "ul_s": "µl/s",
    "ml": "ml",
    "g": "g",
    "c": "°C",
    "mm": "mm",
    "mm_s": "mm/s",
    "nm": "nm",
    "deg": "°",
    "rad": "rad",
    "s": "s",
    "ms": "ms",
    "hz": "Hz",
    "rpm": "1/min",
}


def unit_of(field: str) -> str | None:
    """The unit that a field's name ends in: `mass_g` -> `g`; None for `ph`, `absorbance`, `ready`."""
    words = field.split("_")
    pair, last = "_".join(words[-2:]), words[-1]
    if len(words) > 2 and pair in _UNITS:
        return _UNITS[pair]
    return _UNITS.get(last) if len(words) > 1 else None
