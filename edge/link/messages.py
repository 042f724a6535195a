"""Every payload on the cell's topics, as structs: JSON Schemas and the AsyncAPI document come from here.

Names, topics and meanings: contract of the outside interface, section 3. Times are RFC 3339 UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

RunState = Literal[
    "Queued",
    "Starting",
    "Execute",
    "Completing",
    "Complete",
    "Holding",
    "Held",
    "Unholding",
    "Suspending",
    "Suspended",
    "Unsuspending",
    "Stopping",
    "Stopped",
    "Aborting",
    "Aborted",
]

StepState = Literal["waiting", "running", "finished", "failed", "skipped", "cancelled", "in_doubt"]


class Reason(msgspec.Struct, frozen=True):
    """Where in the payload, and a sentence."""

    path: str
    message: str


class Verdict(msgspec.Struct, frozen=True):
    """Answer to a plan."""

    plan_id: str
    verdict: Literal["accepted", "rejected", "duplicate"]
    reasons: list[Reason] = []


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator or planner wants done."""

    command: str
    id: str
    cell: str = ""
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    by: str = ""
    args: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True):
    """Answer to a command: `accepted` and then `done` or `failed`; or `refused`."""

    id: str
    result: Literal["accepted", "done", "failed", "refused"]
    reasons: list[Reason] = []


class StepCounts(msgspec.Struct):
    """How many steps are in which state; the others are waiting or running."""

    total: int
    finished: int = 0
    failed: int = 0
    skipped: int = 0
    in_doubt: int = 0


class WaitingFor(msgspec.Struct, frozen=True):
    """What a run cannot go on without."""

    step: str
    kind: Literal["in_doubt", "failed", "device", "approval"]
    text: str


class RunStatus(msgspec.Struct, frozen=True):
    """State of an accepted run."""

    plan_id: str
    run_uid: str
    state: RunState
    steps: StepCounts
    current: list[str]
    waiting_for: list[WaitingFor]
    eta_s: float | None
    reason: str
    updated_at: datetime


class DeviceStatus(msgspec.Struct, frozen=True):
    """A device as the cell sees it."""

    state: Literal["disconnected", "connecting", "ready", "busy", "refused"]
    driver: str
    identity: str = ""
    reason: str = ""


class CellStatus(msgspec.Struct, frozen=True):
    """State of the cell; the last will is `{"online": false}`."""

    online: bool
    state: str
    mode: Literal["Produce"]
    session: str
    """Changes with every start of the daemon."""
    run: str | None
    """plan_id of the active run."""
    queue: list[str]
    alarms: int
    devices: dict[str, DeviceStatus]
    reason: str = ""


class Offline(msgspec.Struct, frozen=True):
    """The last will."""

    online: Literal[False] = False


class OperationCapability(msgspec.Struct, frozen=True):
    """An operation a plan may use."""

    help: str
    args: dict[str, Any]
    """JSON Schema."""
    result: dict[str, Any] | None
    """JSON Schema of the readings; null where there are none."""
    settles: Literal["repeat", "query", "ask"]
    touches: list[dict[str, str]]
    """Each touch: `does` (draws, puts, empties, places, looks) and the arguments that say what."""


class DeviceCapability(msgspec.Struct, frozen=True):
    """What a device can do and tell."""

    driver: str
    operations: dict[str, OperationCapability]
    readings: dict[str, Any]
    safe_state: str
    grade: Literal["simulated", "bench", "proven"]


class Limits(msgspec.Struct, frozen=True):
    """Bounds of what is accepted."""

    plan_bytes: int
    plan_steps: int
    plan_depth: int
    queue: int


class Capabilities(msgspec.Struct, frozen=True):
    """Devices, operations, positions, limits."""

    cell: str
    devices: dict[str, DeviceCapability]
    positions: list[str]
    labware: dict[str, str]
    """Labware -> type."""
    limits: Limits


class WellInventory(msgspec.Struct, frozen=True):
    """What the cell believes a well holds."""

    volume_ul: float
    composition_ul: dict[str, float]


class LabwareInventory(msgspec.Struct, frozen=True):
    """Where a labware stands and what is in it; empty wells are left out."""

    type: str
    at: str | None
    wells: dict[str, WellInventory]


class InventoryStatus(msgspec.Struct, frozen=True):
    """Labware, wells, and what the devices' own vessels hold."""

    labware: dict[str, LabwareInventory]
    vessels: dict[str, WellInventory]
    updated_at: datetime


class Alarm(msgspec.Struct, frozen=True):
    """An alarm, with the states of ANSI/ISA-18.2 that this version knows."""

    id: str
    severity: Literal["low", "medium", "high", "critical"]
    source: str
    message: str
    state: Literal["unacknowledged", "returned_to_normal"]
    at: datetime


class Document(msgspec.Struct, frozen=True):
    """A Bluesky document of a run; `seq` counts from 0 without a gap."""

    seq: int
    name: Literal["start", "descriptor", "event", "stop"]
    doc: dict[str, Any]


def utc_now() -> datetime:
    """Wall time for stamps; never for deadlines or order."""
    return datetime.now(UTC)
