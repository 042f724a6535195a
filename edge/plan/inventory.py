"""What stands where and what is in it: the liquid and labware book-keeping of a cell.

Pure: an operation's declared touches are applied to an `Inventory`, which refuses what cannot be.
The same code checks a whole plan beforehand (on a copy) and each step when its turn comes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from drivers.api import Draws, Empties, FixedWell, Looks, Operation, Outlet, OverPosition, Places, Puts
from edge.plan.cellmodel import CellModel, DeviceModel
from edge.plan.labware import column_row, well_name

Liquid = dict[str, float]
"""Composition: µl by the liquid's name."""

TOLERANCE = 0.002
"""Of a vessel's capacity: rounding to whole plunger increments is no overdraw."""


@dataclass(frozen=True)
class Standing:
    """A labware in a nest, shifted so that the well (column, row) is at the nest's reference point."""

    nest: str
    column: int = 0
    row: int = 0


@dataclass
class Inventory:
    """Contents of wells and device vessels, and where each labware stands (None: in a gripper)."""

    wells: dict[str, Liquid] = field(default_factory=dict)
    vessels: dict[str, Liquid] = field(default_factory=dict)
    places: dict[str, Standing | None] = field(default_factory=dict)

    @classmethod
    def initial(cls, cell: CellModel) -> Inventory:
        """As the cell file says."""
        inventory = cls(vessels={name: {} for name, device in cell.devices.items() if device.vessel_ul})
        for name, labware in cell.labware.items():
            if labware.at is not None:
                inventory.places[name] = Standing(cell.nest_of(labware.at))
            for well, liquid in labware.contents.items():
                inventory.wells[f"{name}/{well}"] = dict(liquid)
        return inventory

    def fitted(self, cell: CellModel) -> Inventory:
        """The same for a cell file that was edited since.

        What the file has no longer is left out; what it has new stands, and holds, as it says.
        """
        fresh = Inventory.initial(cell)
        known = {well.partition("/")[0] for well in self.wells} | self.places.keys()
        wells = {well: liquid for well, liquid in self.wells.items() if cell.has_well(well)}
        wells |= {well: liquid for well, liquid in fresh.wells.items() if well.partition("/")[0] not in known}
        places = {
            name: standing
            for name, standing in self.places.items()
            if name in cell.labware and (standing is None or standing.nest in cell.positions)
        }
        fitted = Inventory(wells, {name: self.vessels.get(name, {}) for name in fresh.vessels}, places)
        for name, standing in fresh.places.items():
            if name not in known and standing is not None and fitted.labware_at(standing.nest) is None:
                places[name] = standing
        return fitted

    def copy(self) -> Inventory:
        return copy.deepcopy(self)

    def volume_ul(self, well: str) -> float:
        return sum(self.wells.get(well, {}).values())

    def labware_at(self, nest: str) -> str | None:
        for labware, standing in self.places.items():
            if standing is not None and standing.nest == nest:
                return labware
        return None


class Bookkeeper:
    """Applies operations to an inventory of one cell."""

    def __init__(self, cell: CellModel, inventory: Inventory) -> None:
        self.cell = cell
        self.inventory = inventory

    def problems(self, device: str, operation: Operation, args: dict[str, Any]) -> list[tuple[str, str]]:
        """(argument, sentence) for everything that speaks against the operation now. Changes nothing."""
        model = self.cell.devices[device]
        found: list[tuple[str, str]] = []
        for touch in operation.touches:
            match touch:
                case Draws():
                    found += self._cannot_draw(model, touch, args)
                case Puts():
                    found += self._cannot_put(model, touch, args)
                case Empties():
                    found += self._cannot_empty(model, touch, args)
                case Places():
                    found += self._cannot_place(model, touch, args)
                case Looks():
                    found += self._cannot_look(model, touch, args)
        return found

    def apply(
        self,
        device: str,
        operation: Operation,
        args: dict[str, Any],
        result: dict[str, Any],
        *,
        in_doubt: bool = False,
    ) -> None:
        """Book an operation; a `volume_ul` in its result outweighs the one asked for.

        `in_doubt`: nobody knows whether it was finished; labware that it moves stands nobody knows where.
        """
        model = self.cell.devices[device]
        vessel = self.inventory.vessels.setdefault(device, {}) if model.vessel_ul else {}
        for touch in operation.touches:
            match touch:
                case Draws(well=well, volume_ul=volume):
                    source = self.inventory.wells.setdefault(args[well], {})
                    _pour(source, vessel, result.get("volume_ul", args[volume]))
                case Puts(well=well, volume_ul=volume):
                    target = self.inventory.wells.setdefault(args[well], {})
                    _pour(vessel, target, result.get("volume_ul", args[volume]))
                case Empties():
                    self._empty(model, vessel)
                case Places(labware=labware, to=to, well=well):
                    standing = self._standing(args[labware], args[to], args[well])
                    self.inventory.places[args[labware]] = None if in_doubt else standing
                case Looks():
                    pass

    def well_under(self, position: str) -> str | None:
        """The well that stands at a position's reference point now."""
        nest = self.cell.nest_of(position)
        labware = self.inventory.labware_at(nest)
        standing = self.inventory.places[labware] if labware is not None else None
        if labware is None or standing is None:
            return None
        column, row = self.cell.nozzle_offset(position, labware)
        name = well_name(self.cell.labware[labware].type, standing.column + column, standing.row + row)
        return f"{labware}/{name}" if name is not None else None

    def ends(self, device: DeviceModel) -> list[str]:
        """Wells the device's outlets end in now."""
        return [well for outlet in device.outlets if (well := self._end(outlet)) is not None]

    def _end(self, outlet: Outlet) -> str | None:
        match outlet:
            case FixedWell(well=well):
                return well
            case OverPosition(position=position):
                return self.well_under(position)

    def _cannot_reach(self, device: DeviceModel, argument: str, well: str) -> list[tuple[str, str]]:
        ends = self.ends(device)
        if well in ends:
            return []
        has = ", ".join(ends) or "no well at all"
        return [
            (
                argument,
                f"{device.name} does not reach {well}: its outlets now end in {has}; move the labware first",
            )
        ]

    def _cannot_draw(self, device: DeviceModel, touch: Draws, args: dict[str, Any]) -> list[tuple[str, str]]:
        well, volume = args[touch.well], args[touch.volume_ul]
        if found := self._cannot_reach(device, touch.well, well):
            return found
        slack = TOLERANCE * device.vessel_ul
        has = self.inventory.volume_ul(well)
        if volume > has + slack:
            found.append(
                (touch.volume_ul, f"{well} would be overdrawn: it holds {has:g} µl, {volume:g} µl are wanted")
            )
        held = sum(self.inventory.vessels.get(device.name, {}).values())
        if held + volume > device.vessel_ul + slack:
            full = f"{device.name} would hold {held + volume:g} µl; it takes {device.vessel_ul:g} µl"
            found.append((touch.volume_ul, full))
        return found

    def _cannot_put(self, device: DeviceModel, touch: Puts, args: dict[str, Any]) -> list[tuple[str, str]]:
        well, volume = args[touch.well], args[touch.volume_ul]
        if found := self._cannot_reach(device, touch.well, well):
            return found
        held = sum(self.inventory.vessels.get(device.name, {}).values())
        if volume > held + TOLERANCE * device.vessel_ul:
            found.append(
                (touch.volume_ul, f"{device.name} holds {held:g} µl, {volume:g} µl are to be dispensed")
            )
        return found + self._overflows(touch.volume_ul, well, volume)

    def _cannot_empty(
        self, device: DeviceModel, touch: Empties, args: dict[str, Any]
    ) -> list[tuple[str, str]]:
        held = sum(self.inventory.vessels.get(device.name, {}).values())
        if held <= TOLERANCE * device.vessel_ul:
            return []
        if not args[touch.allowed]:
            mend = f"dispense it first or set {touch.allowed}: true"
            return [
                (touch.allowed, f"{device.name} still holds {held:g} µl, which this would push out; {mend}")
            ]
        well = self._end(device.outlets[-1]) if device.outlets else None
        return self._overflows(touch.allowed, well, held) if well is not None else []

    def _overflows(self, argument: str, well: str, volume_ul: float) -> list[tuple[str, str]]:
        after = self.inventory.volume_ul(well) + volume_ul
        capacity = self.cell.capacity_ul(well)
        if after <= capacity * (1 + 1e-9):
            return []
        return [(argument, f"{well} would overflow: {after:g} µl in a well of {capacity:g} µl")]

    def _cannot_place(
        self, device: DeviceModel, touch: Places, args: dict[str, Any]
    ) -> list[tuple[str, str]]:
        labware, to, well = args[touch.labware], args[touch.to], args[touch.well]
        if labware not in self.cell.labware:
            return [(touch.labware, f"there is no labware {labware}")]
        found = []
        if self.inventory.places.get(labware) is None:
            found.append((touch.labware, f"it is not known where {labware} stands, so no arm can fetch it"))
        nest = self.cell.nest_of(to)
        if not self.cell.has_frame(nest):
            found.append((touch.to, f"position {to} has no taught frame, so no arm can reach it"))
        if device.reaches is not None and not {to, nest} & set(device.reaches):
            found.append((touch.to, f"{device.name} does not reach position {to}"))
        if (other := self.inventory.labware_at(nest)) not in (None, labware):
            found.append((touch.to, f"position {to} is occupied by {other}"))
        if well is not None and column_row(self.cell.labware[labware].type, well) is None:
            found.append((touch.well, f"{labware} has no well {well}"))
        return found

    def _cannot_look(self, device: DeviceModel, touch: Looks, args: dict[str, Any]) -> list[tuple[str, str]]:
        if device.sees is None:
            return []
        there = self.inventory.labware_at(self.cell.nest_of(device.sees))
        well = args[touch.well]
        if there is None:
            return [(touch.well, f"there is no labware at {device.sees}, where {device.name} reads")]
        if well is not None and well.partition("/")[0] != there:
            return [(touch.well, f"{device.name} reads at {device.sees}, where {there} stands, not {well}")]
        return []

    def _standing(self, labware: str, to: str, well: str | None) -> Standing:
        kind = self.cell.labware[labware].type
        column, row = column_row(kind, well or "A1") or (0, 0)
        nozzle_column, nozzle_row = self.cell.nozzle_offset(to, labware)
        return Standing(self.cell.nest_of(to), column - nozzle_column, row - nozzle_row)

    def _empty(self, device: DeviceModel, vessel: Liquid) -> None:
        """Through the last outlet; what leaves it with nothing under it is spilled, and gone."""
        well = self._end(device.outlets[-1]) if device.outlets else None
        target = self.inventory.wells.setdefault(well, {}) if well is not None else {}
        _pour(vessel, target, sum(vessel.values()))


def _pour(source: Liquid, target: Liquid, volume_ul: float) -> None:
    """Move volume with the source's composition; never more than there is."""
    total = sum(source.values())
    if total <= 0:
        return
    share = max(0.0, min(1.0, volume_ul / total))
    for name in list(source):
        moved = source[name] * share
        source[name] -= moved
        target[name] = target.get(name, 0.0) + moved
        if source[name] < 1e-9:
            del source[name]
