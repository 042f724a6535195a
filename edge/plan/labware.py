"""Labware types: how many wells, how far apart, how large; and the names of wells.

Pitches of 96, 384 and 1536 wells: ANSI SLAS 4-2004 (R2012), Microplates: Well Positions. That standard says
nothing of 6 to 48 wells, nor of volumes: those pitches and all capacities (total volume up to the brim) are
typical of common flat-bottomed plates, and a cell file gives `well_capacity_ul` where its own are different.

Rows run to the right (A1, A2, …), columns towards the viewer (A1, B1, …); rows beyond Z are AA, AB, ….
Columns and rows count from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = re.compile(r"([A-Z]{1,2})([1-9][0-9]?)")
_WELL = re.compile(r"([a-z][a-z0-9-]*)/([A-Z]{1,2}[1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class LabwareType:
    """A grid of equal wells."""

    name: str
    rows: int
    columns: int
    pitch_mm: float
    """Between the centres of neighbours; 0 where there is one well."""
    well_capacity_ul: float


TYPES: dict[str, LabwareType] = {
    kind.name: kind
    for kind in (
        LabwareType("sbs-6", 2, 3, 39.12, 16800.0),
        LabwareType("sbs-12", 3, 4, 26.01, 6900.0),
        LabwareType("sbs-24", 4, 6, 19.3, 3400.0),
        LabwareType("sbs-48", 6, 8, 13.0, 1600.0),
        LabwareType("sbs-96", 8, 12, 9.0, 360.0),
        LabwareType("sbs-384", 16, 24, 4.5, 112.0),
        LabwareType("sbs-1536", 32, 48, 2.25, 12.6),
        LabwareType("trough-1", 1, 1, 0.0, 100000.0),
        LabwareType("tube-1", 1, 1, 0.0, 15000.0),
    )
}


def wells(kind: str) -> Iterator[str]:
    """Every well of a type, row by row: A1, A2, …, B1, …"""
    shape = TYPES[kind]
    return (f"{_letters(row)}{column + 1}" for row in range(shape.rows) for column in range(shape.columns))


def parse_well(well: str) -> tuple[str, str] | None:
    """`plate-1/A1` -> ("plate-1", "A1"); None where it has not this form."""
    match = _WELL.fullmatch(well)
    return (match[1], match[2]) if match else None


def column_row(kind: str, well: str) -> tuple[int, int] | None:
    """A1 -> (0, 0), A2 -> (1, 0), B1 -> (0, 1); None if the type has no such well."""
    match = _NAME.fullmatch(well)
    if match is None:
        return None
    shape = TYPES[kind]
    column, row = int(match[2]) - 1, _number(match[1])
    return (column, row) if column < shape.columns and row < shape.rows else None


def well_name(kind: str, column: int, row: int) -> str | None:
    """(0, 0) -> A1, (1, 0) -> A2; None beside the labware."""
    shape = TYPES[kind]
    if not (0 <= column < shape.columns and 0 <= row < shape.rows):
        return None
    return f"{_letters(row)}{column + 1}"


def offset_mm(kind: str, well: str) -> tuple[float, float] | None:
    """From the centre of A1, along the row and along the column, mm; None if there is no such well."""
    place = column_row(kind, well)
    pitch = TYPES[kind].pitch_mm
    return (place[0] * pitch, place[1] * pitch) if place is not None else None


def last_well(kind: str) -> str:
    """The well farthest from A1: H12 of sbs-96."""
    shape = TYPES[kind]
    return f"{_letters(shape.rows - 1)}{shape.columns}"


def _letters(row: int) -> str:
    tens, ones = divmod(row, 26)
    return (chr(64 + tens) if tens else "") + chr(65 + ones)


def _number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1
