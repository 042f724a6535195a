"""The cell's state as payloads. Pure: values in, messages out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from drivers.api import Device, Operation, Touch, inline_schema
from edge.cell import Cell
from edge.link.messages import (
    Capabilities,
    DeviceCapability,
    InventoryStatus,
    LabwareInventory,
    Limits,
    OperationCapability,
    WellInventory,
    utc_now,
)
from edge.plan.cellmodel import CellModel
from edge.plan.inventory import Inventory, Liquid
from edge.plan.model import MAX_BYTES, MAX_DEPTH, MAX_STEPS


def capabilities(cell: Cell, model: CellModel, queue_limit: int) -> Capabilities:
    """What a planner may ask of this cell."""
    return Capabilities(
        cell=cell.cell,
        devices={
            name: device_capability(config.device, model.devices[name].operations)
            for name, config in cell.devices.items()
        },
        positions=list(cell.positions),
        labware={name: labware.type for name, labware in cell.labware.items()},
        limits=Limits(plan_bytes=MAX_BYTES, plan_steps=MAX_STEPS, plan_depth=MAX_DEPTH, queue=queue_limit),
    )


def device_capability(device: type[Device], operations: Mapping[str, Operation]) -> DeviceCapability:
    """One driver's declarations."""
    return DeviceCapability(
        driver=device.driver,
        operations={name: _operation(operation) for name, operation in operations.items()},
        readings=inline_schema(device.Readings),
        safe_state=device.safe_state,
        grade=device.grade,
    )


def _operation(operation: Operation) -> OperationCapability:
    return OperationCapability(
        help=operation.help,
        args=operation.schema(),
        result=inline_schema(operation.result) if operation.result is not None else None,
        settles=operation.settles.value,
        touches=[_touch(touch) for touch in operation.touches],
    )


def _touch(touch: Touch) -> dict[str, str]:
    return {"does": type(touch).__name__.lower()} | dataclasses.asdict(touch)


def inventory_status(model: CellModel, inventory: Inventory) -> InventoryStatus:
    """What stands where and what is in it."""
    labware = {}
    for name, config in model.labware.items():
        standing = inventory.places.get(name)
        wells = {
            well.partition("/")[2]: _liquid(liquid)
            for well, liquid in inventory.wells.items()
            if well.startswith(f"{name}/") and liquid
        }
        labware[name] = LabwareInventory(config.type, standing.nest if standing else None, wells)
    vessels = {device: _liquid(liquid) for device, liquid in inventory.vessels.items()}
    return InventoryStatus(labware, vessels, utc_now())


def _liquid(liquid: Liquid) -> WellInventory:
    return WellInventory(round(sum(liquid.values()), 3), {name: round(ul, 3) for name, ul in liquid.items()})
