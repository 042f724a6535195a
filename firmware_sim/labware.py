"""Shapes of labware and the names of its wells.

Pitches: ANSI SLAS 4-2004 (R2012), well positions. The areas of the wells are those of common flat-bottomed
plates; the standard does not fix them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WELL = re.compile(r"([A-Z]{1,2})([1-9][0-9]?)")


@dataclass(frozen=True, slots=True)
class LabwareType:
    """A grid of equal wells; distances in mm, areas in mm², volumes in µl.

    `reach_mm` is how far from a well's centre, along a row and along a column, a nozzle still hits it.
    """

    name: str
    rows: int
    columns: int
    pitch_mm: float
    area_mm2: float
    capacity_ul: float
    reach_mm: tuple[float, float]

    @property
    def is_sbs(self) -> bool:
        return self.name.startswith("sbs-")

    def wells(self) -> Iterator[str]:
        """Every well, row by row: A1, A2, ... B1, ..."""
        return (well_name(row, column) for row in range(self.rows) for column in range(self.columns))

    def find(self, well: str) -> tuple[int, int] | None:
        """Row and column (from 0) of a well; None if this labware has no such well."""
        match = _WELL.fullmatch(well)
        if match is None:
            return None
        row, column = row_number(match[1]), int(match[2]) - 1
        return (row, column) if row < self.rows and column < self.columns else None

    def at(self, along_row_mm: float, along_column_mm: float) -> str | None:
        """The well hit at this distance from the centre of A1; None beside the labware."""
        column, row = round(along_row_mm / self.pitch_mm), round(along_column_mm / self.pitch_mm)
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            return None
        off_row = abs(along_row_mm - column * self.pitch_mm)
        off_column = abs(along_column_mm - row * self.pitch_mm)
        hit = off_row <= self.reach_mm[0] and off_column <= self.reach_mm[1]
        return well_name(row, column) if hit else None


def well_name(row: int, column: int) -> str:
    """A1 for (0, 0); rows beyond Z are AA, AB and so on."""
    letters = chr(65 + row) if row < 26 else chr(64 + row // 26) + chr(65 + row % 26)
    return f"{letters}{column + 1}"


def row_number(letters: str) -> int:
    """0 for A, 25 for Z, 26 for AA."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1


def _plate(rows: int, columns: int, pitch: float, area: float, capacity: float) -> LabwareType:
    half = pitch / 2
    return LabwareType(f"sbs-{rows * columns}", rows, columns, pitch, area, capacity, (half, half))


TYPES: dict[str, LabwareType] = {
    shape.name: shape
    for shape in (
        _plate(2, 3, 39.12, 950.0, 16800.0),
        _plate(3, 4, 26.01, 380.0, 6900.0),
        _plate(4, 6, 19.3, 190.0, 3400.0),
        _plate(6, 8, 13.0, 95.0, 1600.0),
        _plate(8, 12, 9.0, 32.0, 360.0),
        _plate(16, 24, 4.5, 10.9, 112.0),
        _plate(32, 48, 2.25, 2.3, 12.6),
        # One well: the pitch only has to exceed every distance inside it.
        LabwareType("trough-1", 1, 1, 127.76, 7700.0, 100000.0, (53.5, 36.0)),
        LabwareType("tube-1", 1, 1, 30.0, 150.0, 15000.0, (7.0, 7.0)),
    )
}
