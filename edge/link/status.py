"""The cell's state as payloads: looks at the controller and changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime

from drivers.api import Device, Operation, Touch, inline_schema
from edge.cell import Cell
from edge.link.messages import (
    Capabilities,
    CellStatus,
    DeviceCapability,
    DeviceStatus,
    InventoryStatus,
    LabwareInventory,
    Limits,
    OperationCapability,
    RunStatus,
    WellInventory,
    utc_now,
)
from edge.plan.cellmodel import CellModel
from edge.plan.inventory import Inventory, Liquid
from edge.plan.model import MAX_BYTES, MAX_DEPTH, MAX_STEPS
from edge.run.controller import Controller
from edge.run.progress import ActiveRun
from edge.store.journal import StoredRun


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


def cell_status(controller: Controller, session: str) -> CellStatus:
    """`cell/status` as it is now."""
    return CellStatus(
        online=True,
        state=controller.state.value,
        mode="Produce",
        session=session,
        run=controller.active.plan_id if controller.active else None,
        queue=[run.plan_id for run in controller.queue],
        alarms=len(controller.alarms.standing),
        devices={
            name: DeviceStatus(
                state=actor.state,
                driver=actor.device.driver,
                identity=str(actor.identity) if actor.identity else "",
                reason=actor.reason,
            )
            for name, actor in controller.actors.items()
        },
        reason=controller.reason,
    )


def run_status(run: ActiveRun) -> RunStatus:
    """`run/<plan_id>/status` as it is now."""
    return RunStatus(
        plan_id=run.plan_id,
        run_uid=run.stored.run_uid,
        state=run.state,
        steps=run.counts(),
        current=run.current(),
        waiting_for=[run.waiting] if run.waiting and run.resolution is None else [],
        eta_s=run.left_s(),
        reason=run.reason,
        updated_at=utc_now(),
    )


def run_summary(stored: StoredRun) -> dict[str, object]:
    """A line of `labedge runs`."""
    return {
        "plan_id": stored.plan_id,
        "run_uid": stored.run_uid,
        "state": stored.state,
        "reason": stored.reason,
        "changed_at": datetime.fromtimestamp(stored.changed_at, UTC),
    }


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
