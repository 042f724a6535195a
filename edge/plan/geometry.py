"""Where labware stands, in mm and radians, in the robot's base frame; compiled once for each cell.

A nest is taught by three points: the centre of well A1 of seated labware, a point further along the row
(A1 to A2) and one further along the column (A1 to B1). A nozzle stands above a nest, over the place of one
of its wells. Labware put down so that well W is at a position's point is displaced in the nest's plane, not
turned: that is how one fixed nozzle reaches every well of a plate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from drivers.api import Pose
from drivers.errors import Refused
from edge.cell import Cell, Frame, Point
from edge.plan.labware import offset_mm

MIN_TEACHING_MM = 1.0
MAX_SKEW_DEG = 2.0

Standing = tuple[str, str | None]
"""(position, well at its point; None: A1)"""


@dataclass(frozen=True, slots=True)
class Nest:
    """A taught nest: the point of A1, and unit vectors along a row and along a column."""

    origin: Point
    row: Point
    column: Point
    rz_rad: float

    def point(self, along_row_mm: float, along_column_mm: float) -> Pose:
        """The pose of A1 displaced in the nest's plane."""
        x, y, z = (
            start + along_row_mm * row + along_column_mm * column
            for start, row, column in zip(self.origin, self.row, self.column, strict=True)
        )
        return Pose(x, y, z, self.rz_rad)


def frame_problem(frame: Frame) -> str | None:
    """Why three taught points are no nest, as a sentence without its full stop; None: they are."""
    row, column = _minus(frame[1], frame[0]), _minus(frame[2], frame[0])
    for vector, second in ((row, "second"), (column, "third")):
        if math.hypot(*vector) < MIN_TEACHING_MM:
            return f"The first and the {second} taught point are less than 1 mm apart"
    angle = math.degrees(math.acos(max(-1.0, min(1.0, _dot(_unit(row), _unit(column))))))
    if min(angle, 180.0 - angle) < MAX_SKEW_DEG:
        return "The three taught points lie on one line"
    if abs(angle - 90.0) > MAX_SKEW_DEG:
        return f"Row and column are taught at {angle:.1f}° to each other, not at 90°"
    lean = max(math.degrees(math.asin(abs(_unit(vector)[2]))) for vector in (row, column))
    if lean > MAX_SKEW_DEG:
        return f"The nest leans by {lean:.1f}° against the base's plane, and arms carry labware level"
    return None


def nest(frame: Frame) -> Nest:
    """A nest from its taught points; the row is as taught, the column is squared against it.

    The points have to pass `frame_problem`.
    """
    row = _unit(_minus(frame[1], frame[0]))
    column = _minus(frame[2], frame[0])
    column = _unit(_minus(column, _times(row, _dot(column, row))))
    return Nest(frame[0], row, column, math.atan2(row[1], row[0]))


class CellGeometry:
    """The geometry of one cell; what an arm is handed as `drivers.api.Geometry`.

    `standing` tells where a labware is now; without it, where the cell file seats it.
    """

    def __init__(self, cell: Cell, standing: Callable[[str], Standing | None] | None = None) -> None:
        self._positions = cell.positions
        self._labware = cell.labware
        self._standing = standing or self._seated
        self._nests = {name: nest(spot.frame) for name, spot in cell.positions.items() if spot.frame}

    def origin(self, position: str) -> Pose:
        """The point of a nest, or of the nest below a nozzle, mm. Raises `Refused` if it was never taught."""
        return self._nest_of(position).point(0.0, 0.0)

    def pose(self, position: str, labware: str, well: str | None) -> Pose:
        """Where the centre of A1 stands when `well` (None: A1) is at the point of `position`.

        Raises `Refused` with a sentence for a position never taught, an unknown labware or well.
        """
        found = self._nest_of(position)
        aimed = self._offset(labware, self._positions[position].well)
        moved = self._offset(labware, well)
        return found.point(aimed[0] - moved[0], aimed[1] - moved[1])

    def where(self, labware: str) -> Standing | None:
        """(position, well at its point) of a labware that stands somewhere; None while nobody knows.

        Raises `Refused` for an unknown labware.
        """
        self._kind(labware)
        return self._standing(labware)

    def _seated(self, labware: str) -> Standing | None:
        at = self._labware[labware].at
        return (at, "A1") if at is not None else None

    def _nest_of(self, position: str) -> Nest:
        if position not in self._positions:
            raise Refused(f"The cell has no position {position}.")
        below = self._positions[position].at or position
        if below not in self._nests:
            raise Refused(f"Position {below} has no taught frame; teach its three points in the cell file.")
        return self._nests[below]

    def _kind(self, labware: str) -> str:
        if labware not in self._labware:
            raise Refused(f"The cell has no labware {labware}.")
        return self._labware[labware].type

    def _offset(self, labware: str, well: str | None) -> tuple[float, float]:
        kind = self._kind(labware)
        offset = offset_mm(kind, well or "A1")
        if offset is None:
            raise Refused(f"{labware} is of type {kind} and has no well {well}.")
        return offset


def _minus(a: Point, b: Point) -> Point:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _times(a: Point, by: float) -> Point:
    return (a[0] * by, a[1] * by, a[2] * by)


def _dot(a: Point, b: Point) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Point) -> Point:
    return _times(a, 1.0 / math.hypot(*a))
