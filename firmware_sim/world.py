"""The one physical world of a bench: labware in its places, liquid in its wells.

Lengths are mm in the robot's base frame, volumes µl, masses g. Liquids mix without change of volume. Nothing
here knows an instrument, and nothing here measures: noise and drift belong to the instruments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from firmware_sim.errors import BenchError
from firmware_sim.geometry import Frame, Pose, angle_between
from firmware_sim.labware import TYPES, LabwareType

Liquid = dict[str, float]
"""Volume in µl by liquid name; {} is air."""

PLACE_TOLERANCE_MM = 5.0
HEIGHT_TOLERANCE_MM = 2.0
TURN_TOLERANCE_RAD = 0.1
_TRACE_UL = 1e-9


@dataclass(frozen=True, slots=True)
class Position:
    """A taught nest (`frame`), a nozzle above a nest (`above`), or a place without geometry (neither)."""

    name: str
    frame: Frame | None = None
    above: str | None = None
    well: str = "A1"


@dataclass(slots=True)
class Labware:
    """One piece of labware. `position` is None in a gripper; `pose` is A1's centre where known."""

    name: str
    type: LabwareType
    capacity_ul: float
    tare_g: float = 0.0
    position: str | None = None
    pose: Pose | None = None
    wells: dict[str, Liquid] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiquidKind:
    """Density (g/ml), absorbance of 1 cm of the pure liquid at some wavelengths (nm, ascending), pH."""

    density_g_ml: float = 1.0
    absorbance: tuple[tuple[float, float], ...] = ()
    ph: float = 7.0

    def absorbance_at(self, wavelength_nm: float) -> float:
        """Between given wavelengths on a straight line, beyond them as at the nearest; 0 without a table."""
        table = self.absorbance
        if not table:
            return 0.0
        if wavelength_nm <= table[0][0]:
            return table[0][1]
        for (low_nm, low), (high_nm, high) in pairwise(table):
            if wavelength_nm <= high_nm:
                return low + (high - low) * (wavelength_nm - low_nm) / (high_nm - low_nm)
        return table[-1][1]


def _silent(what: str, **details: Any) -> None:
    """Where spills go when nobody keeps a log."""


class World:
    """Built from a bench file's `positions`, `labware`, `liquids`, `seed`, `speed`; other keys do not count.

    `on_event(what, **details)` is told of matter that moves without an instrument's intent: a spill.
    """

    def __init__(self, bench: Mapping[str, Any], on_event: Callable[..., None] = _silent) -> None:
        self.seed = int(bench.get("seed", 0))
        self.rng = random.Random(self.seed)
        self.speed = float(bench.get("speed", 1.0))
        self.on_event = on_event
        self.spilled: Liquid = {}
        self.positions = {name: _position(name, entry or {}) for name, entry in _entries(bench, "positions")}
        self.liquids = {name: _liquid(entry or {}) for name, entry in _entries(bench, "liquids")}
        self.labware: dict[str, Labware] = {}
        for name, entry in _entries(bench, "labware"):
            self.labware[name] = self._seat(name, entry)

    def rng_for(self, name: str) -> random.Random:
        """A stream of random numbers of its own, so that one instrument's noise does not shift another's."""
        return random.Random(f"{self.seed}/{name}")

    def find(self, well: str) -> tuple[Labware, str]:
        """Labware and well name of `labware/A1`; `BenchError` if there is no such well."""
        name, _, place = well.partition("/")
        labware = self.labware.get(name)
        if labware is None:
            raise BenchError(f"There is no labware {name!r} on this bench (wanted for {well!r}).")
        if labware.type.find(place) is None:
            raise BenchError(f"{name} is a {labware.type.name} and has no well {place!r}.")
        return labware, place

    def contents(self, well: str) -> Liquid:
        """A copy of what is in `labware/A1`, µl by liquid."""
        labware, place = self.find(well)
        return dict(labware.wells.get(place, {}))

    def well_volume_ul(self, well: str) -> float:
        return sum(self.contents(well).values())

    def draw(self, well: str, ul: float) -> Liquid:
        """Take `ul` (>= 0) out of a well as it is mixed; less if the well runs dry, the rest is air."""
        labware, place = self.find(well)
        content = labware.wells.get(place, {})
        volume = sum(content.values())
        if volume <= _TRACE_UL or ul <= 0:
            return {}
        share = min(1.0, ul / volume)
        taken = {name: amount * share for name, amount in content.items()}
        left = {name: amount - taken[name] for name, amount in content.items()}
        labware.wells[place] = {name: amount for name, amount in left.items() if amount > _TRACE_UL}
        return taken

    def put(self, well: str, liquid: Liquid) -> None:
        """Add liquid to a well; what does not fit runs over, mixed as it is then, and is reported."""
        labware, place = self.find(well)
        content = labware.wells.setdefault(place, {})
        _add(content, liquid)
        excess = sum(content.values()) - labware.capacity_ul
        if excess > _TRACE_UL:
            self.spill(self.draw(well, excess), well)

    def spill(self, liquid: Liquid, place: str | None = None) -> None:
        """Liquid that landed beside every well; `place` is the well or position it was meant for."""
        amount = sum(liquid.values())
        if amount <= _TRACE_UL:
            return
        _add(self.spilled, liquid)
        self.on_event("spill", amount_ul=amount, place=place)

    def mass_g(self, labware: str) -> float:
        """Mass of the liquid in the labware plus its `tare_g`."""
        ware = self.labware[labware]
        return ware.tare_g + sum(
            amount * self.kind(name).density_g_ml / 1000.0
            for content in ware.wells.values()
            for name, amount in content.items()
        )

    def absorbance(self, well: str, wavelength_nm: float) -> float:
        """Beer–Lambert through the liquid from above; free of noise, 0 for an empty well.

        The sum over the liquids of absorbance per cm × share of the volume × the liquid's height in cm, which
        is the volume over the well's area.
        """
        labware, place = self.find(well)
        per_area = 1.0 / (labware.type.area_mm2 * 10.0)
        content = labware.wells.get(place, {})
        return sum(
            self.kind(name).absorbance_at(wavelength_nm) * amount * per_area
            for name, amount in content.items()
        )

    def kind(self, liquid: str) -> LiquidKind:
        """Properties of a liquid; one that the bench file does not describe is like water."""
        return self.liquids.get(liquid, _WATER)

    def labware_at(self, position: str) -> str | None:
        """Name of the labware standing at a nest (not: under a nozzle)."""
        return next((ware.name for ware in self.labware.values() if ware.position == position), None)

    def where(self, labware: str) -> str | None:
        """The position a piece of labware stands at; None while a gripper holds it."""
        return self.labware[labware].position

    def sole_labware(self, sbs_only: bool = False) -> str | None:
        """The only labware of the bench (or the only one of an sbs type); None if none or several."""
        names = [ware.name for ware in self.labware.values() if ware.type.is_sbs or not sbs_only]
        return names[0] if len(names) == 1 else None

    def under(self, position: str) -> str | None:
        """The well (`labware/A1`) that a nozzle at this position hits now; None if it would miss."""
        spot = self.positions.get(position)
        if spot is None:
            raise BenchError(f"There is no position {position!r} on this bench.")
        nest = self.positions[spot.above] if spot.above else spot
        name = self.labware_at(nest.name)
        if name is None:
            return None
        ware = self.labware[name]
        offset = ware.type.find(spot.well) or (0, 0)
        row_mm, column_mm = offset[1] * ware.type.pitch_mm, offset[0] * ware.type.pitch_mm
        if nest.frame is not None and ware.pose is not None:
            away = nest.frame.local(ware.pose)
            row_mm, column_mm = row_mm - away[0], column_mm - away[1]
        well = ware.type.at(row_mm, column_mm)
        return f"{name}/{well}" if well else None

    def pose_of(self, position: str, labware_type: str = "sbs-96", well: str = "A1") -> Pose:
        """Where A1's centre stands when labware of this type has `well` at the nest's taught point."""
        frame, shape = self.positions[position].frame, TYPES[labware_type]
        place = shape.find(well)
        if frame is None or place is None:
            raise BenchError(
                f"{position!r} is not a taught nest that {labware_type} can stand at with {well!r}."
            )
        return frame.pose(-place[1] * shape.pitch_mm, -place[0] * shape.pitch_mm)

    def pick(self, pose: Pose) -> str | None:
        """Close a gripper: the labware at this pose is in it from now on. None: it closed on nothing."""
        found = self._standing_near(pose)
        if found is None:
            return None
        found.position, found.pose = None, None
        return found.name

    def place(self, labware: str, pose: Pose) -> bool:
        """Open the gripper at a pose. False (and the gripper keeps it): no nest there, or it is taken.

        The nest is the one whose taught point is nearest to one of the labware's wells.
        """
        ware = self.labware[labware]
        nest = self._nest_for(ware, pose)
        if nest is None or self.labware_at(nest) is not None:
            return False
        ware.position, ware.pose = nest, pose
        return True

    def occupied(self, pose: Pose) -> str | None:
        """The labware that stands where labware put down at this pose would stand."""
        near = self._standing_near(pose)
        if near is not None:
            return near.name
        for ware in self.labware.values():
            if ware.position is not None and self._nest_for(ware, pose) == ware.position:
                return ware.name
        return None

    def snapshot(self) -> dict[str, Any]:
        """The physical truth as plain data: every labware, every well with liquid, and what was spilled.

        `wells` holds once more, by `labware/well`, what stands under each labware.
        """
        labware = {name: self._portrait(ware) for name, ware in self.labware.items()}
        return {
            "labware": labware,
            "wells": {
                f"{name}/{well}": content
                for name, ware in labware.items()
                for well, content in ware["wells"].items()
            },
            "spilled": {name: round(amount, 4) for name, amount in self.spilled.items()},
        }

    def _portrait(self, ware: Labware) -> dict[str, Any]:
        wells = {
            well: {
                "volume_ul": round(sum(content.values()), 4),
                "composition": {name: round(amount, 4) for name, amount in content.items()},
            }
            for well, content in ware.wells.items()
            if content
        }
        return {
            "type": ware.type.name,
            "at": ware.position,
            "pose": list(ware.pose) if ware.pose else None,
            "mass_g": round(self.mass_g(ware.name), 6),
            "wells": wells,
        }

    def _standing_near(self, pose: Pose) -> Labware | None:
        best: tuple[float, Labware] | None = None
        for ware in self.labware.values():
            if ware.pose is None or abs(ware.pose.z_mm - pose.z_mm) > HEIGHT_TOLERANCE_MM:
                continue
            away = ware.pose.distance(pose)
            if away <= PLACE_TOLERANCE_MM and (best is None or away < best[0]):
                best = (away, ware)
        return best[1] if best else None

    def _nest_for(self, ware: Labware, pose: Pose) -> str | None:
        best: tuple[float, str] | None = None
        for position in self.positions.values():
            frame = position.frame
            if frame is None or angle_between(frame.rz_rad, pose.rz_rad) > TURN_TOLERANCE_RAD:
                continue
            row_mm, column_mm, height = frame.local(pose)
            if abs(height) > HEIGHT_TOLERANCE_MM:
                continue
            away = _distance_to_well(ware.type, -row_mm, -column_mm)
            if away <= PLACE_TOLERANCE_MM and (best is None or away < best[0]):
                best = (away, position.name)
        return best[1] if best else None

    def _seat(self, name: str, entry: Mapping[str, Any]) -> Labware:
        shape = TYPES.get(str(entry.get("type")))
        if shape is None:
            raise BenchError(
                f"labware.{name}.type {entry.get('type')!r} is not known; there are {', '.join(TYPES)}."
            )
        position = entry.get("at")
        if position is not None and position not in self.positions:
            raise BenchError(f"labware.{name}.at names {position!r}, and there is no such position.")
        if position is not None and self.labware_at(position) is not None:
            raise BenchError(f"labware.{name}.at: {position} already holds {self.labware_at(position)}.")
        frame = self.positions[position].frame if position is not None else None
        ware = Labware(
            name=name,
            type=shape,
            capacity_ul=float(entry.get("well_capacity_ul", shape.capacity_ul)),
            tare_g=float(entry.get("tare_g", 0.0)),
            position=position if position is not None else name,
            pose=frame.pose(0.0, 0.0) if frame else None,
        )
        for well, content in (entry.get("contents") or {}).items():
            if shape.find(well) is None:
                raise BenchError(f"labware.{name}.contents: a {shape.name} has no well {well!r}.")
            ware.wells[well] = {liquid: float(amount) for liquid, amount in content.items()}
        return ware


_WATER = LiquidKind()


def _add(content: Liquid, liquid: Liquid) -> None:
    for name, amount in liquid.items():
        content[name] = content.get(name, 0.0) + amount


def _distance_to_well(shape: LabwareType, row_mm: float, column_mm: float) -> float:
    """From a point, counted from A1, to the nearest well's centre (infinite beyond the grid)."""
    column, row = round(row_mm / shape.pitch_mm), round(column_mm / shape.pitch_mm)
    if not (0 <= row < shape.rows and 0 <= column < shape.columns):
        return float("inf")
    return float(((row_mm - column * shape.pitch_mm) ** 2 + (column_mm - row * shape.pitch_mm) ** 2) ** 0.5)


def _entries(bench: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    return list((bench.get(key) or {}).items())


def _position(name: str, entry: Mapping[str, Any]) -> Position:
    points = entry.get("frame")
    frame = Frame.taught(points, f"positions.{name}.frame") if points is not None else None
    return Position(name, frame, entry.get("at"), str(entry.get("well", "A1")))


def _liquid(entry: Mapping[str, Any]) -> LiquidKind:
    table = sorted((float(nm), float(value)) for nm, value in (entry.get("absorbance") or {}).items())
    return LiquidKind(float(entry.get("density_g_ml", 1.0)), tuple(table), float(entry.get("ph", 7.0)))
