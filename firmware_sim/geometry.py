"""Poses and taught frames, in mm and radians, in the robot's base frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from firmware_sim.errors import BenchError

Vector = tuple[float, float, float]


class Pose(NamedTuple):
    """Where the centre of a labware's well A1 stands, and its turn about the base's z axis."""

    x_mm: float
    y_mm: float
    z_mm: float
    rz_rad: float

    def distance(self, other: Pose) -> float:
        """Between the two points, mm; the turn does not count."""
        return math.dist(self[:3], other[:3])


@dataclass(frozen=True, slots=True)
class Frame:
    """A taught nest: A1's centre, and unit vectors along a row (A1 to A2) and along a column (A1 to B1)."""

    origin: Vector
    row: Vector
    column: Vector

    @classmethod
    def taught(cls, points: Sequence[Sequence[float]], where: str) -> Frame:
        """From three taught points; the column axis is squared against the row axis."""
        if len(points) != 3 or any(len(point) != 3 for point in points):
            raise BenchError(
                f"{where} needs three points [x, y, z] in mm: A1, one along the row, one along the column."
            )
        origin, along_row, along_column = (tuple(float(value) for value in point) for point in points)
        row = _minus(along_row, origin)
        column = _minus(along_column, origin)
        if _length(row) < 1.0 or _length(column) < 1.0:
            raise BenchError(
                f"{where}: taught points closer than 1 mm do not give a direction; teach them further apart."
            )
        row = _scale(row, 1.0 / _length(row))
        column = _minus(column, _scale(row, _dot(column, row)))
        if _length(column) < 1.0:
            raise BenchError(
                f"{where}: the three taught points lie on one line; the third goes along the column."
            )
        return cls((origin[0], origin[1], origin[2]), row, _scale(column, 1.0 / _length(column)))

    @property
    def rz_rad(self) -> float:
        """Turn of the row axis about the base's z axis."""
        return math.atan2(self.row[1], self.row[0])

    @property
    def up(self) -> Vector:
        """Out of the nest: column × row, since rows run to the right and columns towards the viewer."""
        (ax, ay, az), (bx, by, bz) = self.column, self.row
        return (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)

    def pose(self, along_row_mm: float, along_column_mm: float) -> Pose:
        """The pose of A1 displaced in the nest's plane."""
        x, y, z = (
            o + along_row_mm * r + along_column_mm * c
            for o, r, c in zip(self.origin, self.row, self.column, strict=True)
        )
        return Pose(x, y, z, self.rz_rad)

    def local(self, pose: Sequence[float]) -> Vector:
        """(along the row, along the column, out of the nest) of a point, mm from the taught point."""
        away = _minus(pose[:3], self.origin)
        return (_dot(away, self.row), _dot(away, self.column), _dot(away, self.up))


def angle_between(a_rad: float, b_rad: float) -> float:
    """The smaller angle between two directions, 0..π."""
    return abs(math.remainder(a_rad - b_rad, 2 * math.pi))


def _minus(a: Sequence[float], b: Sequence[float]) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def _scale(a: Sequence[float], by: float) -> Vector:
    return (a[0] * by, a[1] * by, a[2] * by)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _length(a: Sequence[float]) -> float:
    return math.hypot(*a)
