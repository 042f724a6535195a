"""A cell as the plan checker sees it: what there is, what it can do, what it touches. Pure values.

Compiled once from the cell file and the drivers' declarations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import msgspec

from drivers.api import Operation, Options, Outlet, kinds_of, operations_of
from edge.cell import Cell, LabwareConfig, PositionConfig
from edge.plan.labware import column_row


@dataclass(frozen=True)
class DeviceModel:
    """A device's declarations with this cell's options."""

    name: str
    driver: str
    options: Options
    operations: dict[str, Operation]
    kinds: dict[str, dict[str, str]]
    """Operation -> argument -> well, labware or position."""
    outlets: tuple[Outlet, ...]
    vessel_ul: float
    sees: str | None
    reaches: tuple[str, ...] | None
    readings: dict[str, str]
    """Live reading -> number, string, boolean or list."""


class CellModel:
    """Everything a plan may name."""

    def __init__(self, cell: Cell) -> None:
        self.name = cell.cell
        self.positions: dict[str, PositionConfig] = cell.positions
        self.labware: dict[str, LabwareConfig] = cell.labware
        self.devices = {name: _device(name, config) for name, config in cell.devices.items()}

    def nest_of(self, position: str) -> str:
        """The place that a position means in the end: a nozzle's nest, else itself."""
        seen = {position}
        while (below := self.positions[position].at if position in self.positions else None) is not None:
            if below in seen:
                break
            seen.add(below)
            position = below
        return position

    def has_frame(self, position: str) -> bool:
        return position in self.positions and self.positions[position].frame is not None

    def nozzle_offset(self, position: str, labware: str) -> tuple[int, int]:
        """(columns, rows) from the well at the nest's reference point to the well under this position."""
        well = self.positions[position].well if position in self.positions else None
        return (column_row(self.labware[labware].type, well) or (0, 0)) if well else (0, 0)

    def has_well(self, well: str) -> bool:
        labware, _, name = well.partition("/")
        return labware in self.labware and column_row(self.labware[labware].type, name) is not None

    def capacity_ul(self, well: str) -> float:
        return self.labware[well.partition("/")[0]].well_capacity_ul

    def result_kinds(self, device: str, operation: str) -> dict[str, str]:
        """Field -> type of an operation's result; empty where there is none or the names are unknown."""
        model = self.devices.get(device)
        found = model.operations.get(operation) if model else None
        return field_kinds(found.result) if found and found.result else {}


def _device(name: str, config: Any) -> DeviceModel:
    operations = operations_of(config.device)
    return DeviceModel(
        name=name,
        driver=config.driver,
        options=config.options,
        operations=operations,
        kinds={key: dict(kinds_of(operation.args)) for key, operation in operations.items()},
        outlets=config.device.outlets(config.options),
        vessel_ul=config.device.vessel_ul(config.options),
        sees=config.device.sees(config.options),
        reaches=config.device.reaches(config.options),
        readings=field_kinds(config.device.Readings),
    )


_KINDS = {"number": "number", "integer": "number", "string": "string", "boolean": "boolean", "array": "list"}


@functools.cache
def field_kinds(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> number, string, boolean or list, for the types that expressions know."""
    (_, definitions) = msgspec.json.schema_components([struct])
    properties = definitions[struct.__name__]["properties"]
    return {name: _KINDS[rule["type"]] for name, rule in properties.items() if rule.get("type") in _KINDS}
