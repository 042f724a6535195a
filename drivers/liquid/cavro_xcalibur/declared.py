"""What the Cavro XCalibur is told: cell file options, arguments, results and readings."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from drivers.api import Options, Position, Well

STROKE = 3000
"""Increments of a full stroke; 24000 in microstep mode."""
PULSES = 6000
"""Motor pulses of a full stroke, in which speeds are given (3.4)."""
VALVE_S = 0.25


class Over(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A valve port that ends in a nozzle above a position."""

    over: Position


class CavroOptions(Options, frozen=True, kw_only=True):
    """Cell file options of the pump."""

    syringe_ul: Annotated[float, Meta(ge=25, le=5000, description="volume of a full stroke")]
    ports: Annotated[
        dict[Annotated[int, Meta(ge=1, le=9)], Well | Over],
        Meta(min_length=1, description="valve port -> fixed well, or {over: position} for the nozzle"),
    ]
    address: Annotated[int, Meta(ge=1, le=15, description="address switch plus one")] = 1
    baudrate: Literal[9600, 38400] = 9600
    valve: Literal["three-way", "distribution"] | None = None
    """Default: three-way (1 = input, 2 = output) if `ports` has no others."""
    expel_port: Annotated[int, Meta(ge=1, le=9)] | None = None
    """Where initialising pushes the syringe's content: 2 on a three-way valve, else the highest port."""
    microsteps: bool = False
    top_speed: Annotated[int, Meta(ge=5, le=6000, description="pulses a second; a stroke has 6000")] = 1400

    def __post_init__(self) -> None:
        if sum(isinstance(end, Over) for end in self.ports.values()) > 1:
            raise ValueError("only one valve port can end in a nozzle (over: …)")
        if self.three_way and not set(self.ports) <= {1, 2}:
            raise ValueError("a three-way valve has the ports 1 (input) and 2 (output) only")
        if self.three_way and self.expel_port not in (None, 2):
            raise ValueError("a three-way valve initialises through port 2; leave expel_port out")
        if not self.three_way and self.expels not in self.ports:
            raise ValueError(f"expel_port {self.expel_port} is not among the ports")

    @property
    def three_way(self) -> bool:
        return self.valve == "three-way" or (self.valve is None and set(self.ports) <= {1, 2})

    @property
    def expels(self) -> int:
        return 2 if self.three_way else self.expel_port or max(self.ports)

    @property
    def stroke(self) -> int:
        return STROKE * 8 if self.microsteps else STROKE

    def seconds(self, volume_ul: float, pulses: float) -> float:
        """Typical duration of a valve turn and a move, acknowledgement and confirmation included."""
        return volume_ul / self.syringe_ul * PULSES / pulses + VALVE_S + 0.1

    def pulses(self, speed_ul_s: float | None) -> int:
        """Top speed (V) for a flow, pulses/s."""
        return self.top_speed if speed_ul_s is None else round(speed_ul_s / self.syringe_ul * PULSES)


Volume = Annotated[float, Meta(gt=0, le=5000, description="µl")]
Speed = Annotated[float, Meta(gt=0, le=5000, description="µl/s at full speed; default: the cell file's")]


class Initialize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `initialize`."""

    expel: Annotated[bool, Meta(description="push what the syringe holds out of the expel port")] = False


class Aspirate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `aspirate`."""

    source: Well
    volume_ul: Volume
    speed_ul_s: Speed | None = None


class Dispense(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `dispense`."""

    target: Well
    volume_ul: Volume
    speed_ul_s: Speed | None = None


class Moved(msgspec.Struct, frozen=True):
    """What was really moved, counted in increments, and what the syringe holds now."""

    volume_ul: float
    plunger_ul: float


class PumpReadings(msgspec.Struct, frozen=True):
    """State of the pump.

    `valve`: i, o, b or e on a three-way valve, else the port's number. `error`: empty, or half a sentence.
    """

    ready: bool
    plunger_ul: float
    valve: str
    error: str
