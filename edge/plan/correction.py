"""A person corrects the books: what really stands where, and what is in it (`set_inventory`). Pure."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from edge.plan.cellmodel import CellModel
from edge.plan.inventory import Inventory, Liquid, Standing
from edge.plan.labware import column_row

Volume = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Contents = dict[str, Volume]
"""µl by the liquid's name."""


class LabwareCorrection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One labware as it really is; what is not named stays as it was booked."""

    at: str | UnsetType | None = UNSET
    """The position it stands at; null: taken away, or nobody knows."""
    well: str = "A1"
    """The well at that position's point."""
    wells: dict[str, Contents] = {}
    """Contents of the wells that are named."""


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of `set_inventory`."""

    labware: dict[str, LabwareCorrection] = {}
    vessels: dict[str, Contents] = {}
    """Device -> what its own vessel (syringe) holds."""


def corrected(cell: CellModel, inventory: Inventory, given: Any) -> tuple[Inventory, list[str]]:
    """A corrected copy, or the sentences that speak against it."""
    try:
        correction = msgspec.convert(given, Correction)
    except msgspec.ValidationError as error:
        return inventory, [f"{error}"]
    copy = inventory.copy()
    problems: list[str] = []
    for name, labware in correction.labware.items():
        if name not in cell.labware:
            problems.append(f"there is no labware `{name}`; there is {', '.join(cell.labware) or 'none'}")
            continue
        problems += _place(cell, copy, name, labware)
        problems += _fill(cell, copy, name, labware.wells)
    problems += _crowded(copy)
    for device, contents in correction.vessels.items():
        problems += _vessel(cell, copy, device, contents)
    return copy, problems


def _place(cell: CellModel, inventory: Inventory, name: str, labware: LabwareCorrection) -> list[str]:
    if labware.at is UNSET:
        return []
    if labware.at is None:
        inventory.places[name] = None
        return []
    if labware.at not in cell.positions:
        return [f"there is no position `{labware.at}`; there is {', '.join(cell.positions) or 'none'}"]
    place = column_row(cell.labware[name].type, labware.well)
    if place is None:
        return [f"{name} has no well {labware.well}"]
    column, row = cell.nozzle_offset(labware.at, name)
    inventory.places[name] = Standing(cell.nest_of(labware.at), place[0] - column, place[1] - row)
    return []


def _fill(cell: CellModel, inventory: Inventory, name: str, wells: dict[str, Contents]) -> list[str]:
    problems = []
    for well, contents in wells.items():
        full = f"{name}/{well}"
        if not cell.has_well(full):
            problems.append(f"{name} has no well {well}")
        elif sum(contents.values()) > cell.capacity_ul(full):
            problems.append(f"{full} holds at most {cell.capacity_ul(full):g} µl")
        else:
            inventory.wells[full] = _liquid(contents)
    return problems


def _vessel(cell: CellModel, inventory: Inventory, device: str, contents: Contents) -> list[str]:
    vessel_ul = cell.devices[device].vessel_ul if device in cell.devices else 0.0
    if not vessel_ul:
        return [f"there is no device `{device}` with a vessel of its own"]
    if sum(contents.values()) > vessel_ul:
        return [f"the vessel of {device} holds at most {vessel_ul:g} µl"]
    inventory.vessels[device] = _liquid(contents)
    return []


def _crowded(inventory: Inventory) -> list[str]:
    owners: dict[str, str] = {}
    problems = []
    for name, standing in inventory.places.items():
        if standing is None:
            continue
        if standing.nest in owners:
            problems.append(f"{name} and {owners[standing.nest]} cannot both stand at {standing.nest}")
        owners[standing.nest] = name
    return problems


def _liquid(contents: Contents) -> Liquid:
    return {name: ul for name, ul in contents.items() if ul > 0}
