"""Telemetry as SenML packs (RFC 8428): values unconverted, `u` only where the unit is registered. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from drivers.api import unit_of

_REGISTERED = {
    "g": "g",
    "°C": "Cel",
    "s": "s",
    "ms": "ms",
    "Hz": "Hz",
    "rad": "rad",
    "mm": "mm",
    "1/min": "1/min",
}
"""Ours -> the IANA registry's (RFC 8428 section 12.1, RFC 8798)."""
_BY_FIELD = {"ph": "pH"}
_OTHERWISE = "cell"
"""In front of a cell's id that begins with - or _, as no SenML name may (section 4.5.1)."""


def pack(cell: str, device: str, values: Mapping[str, Any], time_s: float) -> list[dict[str, Any]]:
    """One record a field, named `<cell>:<device>:<field>`; numbers that are not finite are left out.

    `time_s` is when the values were read, epoch seconds.
    """
    records: list[dict[str, Any]] = []
    for field, value in values.items():
        record = _value(value)
        if record is None:
            continue
        unit = _BY_FIELD.get(field) or _REGISTERED.get(unit_of(field) or "")
        records.append({"n": field} | ({"u": unit} if unit and "v" in record else {}) | record)
    if records:
        first = cell[:1].isascii() and cell[:1].isalnum()
        name = f"{cell}:{device}:" if first else f"{_OTHERWISE}:{cell}:{device}:"
        records[0] = {"bn": name, "bt": time_s} | records[0]
    return records


def _value(value: Any) -> dict[str, Any] | None:
    if isinstance(value, bool):
        return {"vb": value}
    if isinstance(value, str):
        return {"vs": value}
    if isinstance(value, (int, float)) and math.isfinite(value):
        return {"v": value}
    return None
