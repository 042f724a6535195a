"""What a cell is, as its file tells it: plain frozen values. `edge.config` builds and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from drivers.api import Device, Options, WellName

_PLACE = "a name: small letters, digits and -, a letter first"

CellName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="an id: 1 to 64 letters, digits, _ and -"),
]
DeviceName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z][a-z0-9_]*$", description="a name: small letters, digits and _, a letter first"
    ),
]
PlaceName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]*$", description=_PLACE)]
LiquidName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]*$", description=_PLACE)]
InterlockName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]*$", description=_PLACE)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Point = tuple[float, float, float]
Frame = tuple[Point, Point, Point]


class Mqtt(msgspec.Struct, frozen=True, kw_only=True):
    """The broker and how to reach it."""

    url: str
    host: str
    port: int
    tls: bool
    embedded: bool
    """The daemon starts the broker itself, on `host` and `port`."""
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __repr__(self) -> str:
        """Without the password: a repr ends up in logs."""
        secret = ", password=…" if self.password is not None else ""
        return f"Mqtt(url={self.url!r}, protocol={self.protocol!r}, username={self.username!r}{secret})"


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument of the cell."""

    name: str
    driver: str
    device: type[Device]
    options: Options


class PositionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A nest (`frame`), a nozzle above a nest (`at`), or a place that no arm reaches (neither)."""

    frame: Frame | None = None
    """Taught points in the robot's base frame, mm: centre of A1, one along the row, one along the column."""
    at: PlaceName | None = None
    well: WellName | None = None
    """The well the nozzle is above when labware is seated in the nest; None: A1."""


class LabwareConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of labware and what is in it at the start."""

    type: str
    at: str | None = None
    """The nest it is seated in, with A1 at the nest's first taught point."""
    well_capacity_ul: float
    contents: dict[WellName, dict[LiquidName, float]] = {}
    """Well -> liquid -> µl."""


class InterlockConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition on live readings and what it does to the cell."""

    name: InterlockName
    when: Text
    """Expression over `device.field`."""
    for_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0
    """How long the condition has to hold without a break."""
    command: Literal["hold", "stop", "abort"]
    severity: Literal["low", "medium", "high", "critical"] = "high"


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often live readings are published."""

    rate_hz: Annotated[float, msgspec.Meta(ge=0.01, le=100)] = 1.0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A cell file that has passed every check."""

    cell: str
    path: Path
    state_dir: Path
    """Absolute."""
    mqtt: Mqtt
    autostart: bool = True
    recovery: Literal["hold", "resume", "stop"] = "hold"
    remote_clear: bool = False
    """Whether `clear` and `reset` after an abort may come over MQTT, and not only from the bench."""
    devices: dict[str, DeviceConfig]
    positions: dict[str, PositionConfig] = {}
    labware: dict[str, LabwareConfig] = {}
    interlocks: tuple[InterlockConfig, ...] = ()
    telemetry: Telemetry = Telemetry()
