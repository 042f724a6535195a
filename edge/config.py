"""The cell file: YAML -> frozen structs, with every mistake at once.

The structs are in `edge.cell` and are named here too, so that `edge.config` is all a reader needs.
"""

from __future__ import annotations

from edge.cell import Cell, DeviceConfig, InterlockConfig, LabwareConfig, Mqtt, PositionConfig, Telemetry

__all__ = [
    "Cell",
    "DeviceConfig",
    "InterlockConfig",
    "LabwareConfig",
    "Mqtt",
    "PositionConfig",
    "Telemetry",
]
