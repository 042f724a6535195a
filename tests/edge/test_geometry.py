"""Where plates stand: worked out by hand, and by the rule that the asked well ends at the point."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from drivers.api import Geometry, Pose
from drivers.errors import Refused
from edge.cell import Cell, Frame, LabwareConfig, Mqtt, PositionConfig
from edge.plan.geometry import CellGeometry, Standing, frame_problem
from edge.plan.labware import offset_mm

LEVEL: Frame = ((100.0, 200.0, 50.0), (199.0, 200.0, 50.0), (100.0, 137.0, 50.0))
"""Rows along +x, columns along −y."""
TURNED: Frame = ((0.0, 0.0, 10.0), (0.0, 99.0, 10.0), (63.0, 0.0, 10.0))
"""Turned by +90°: rows along +y, columns along +x."""


def cell() -> Cell:
    return Cell(
        cell="bench-1",
        path=Path("cell.yaml"),
        state_dir=Path("state"),
        mqtt=Mqtt(url="embedded", host="127.0.0.1", port=1883, tls=False, embedded=True),
        devices={},
        positions={
            "nest-1": PositionConfig(frame=LEVEL),
            "nest-2": PositionConfig(frame=TURNED),
            "nozzle-1": PositionConfig(at="nest-1"),
            "nozzle-2": PositionConfig(at="nest-1", well="B3"),
            "shelf": PositionConfig(),
            "lamp": PositionConfig(at="shelf"),
        },
        labware={
            "plate-1": LabwareConfig(type="sbs-96", at="nest-1", well_capacity_ul=360.0),
            "plate-2": LabwareConfig(type="sbs-384", well_capacity_ul=112.0),
            "tank": LabwareConfig(type="trough-1", at="shelf", well_capacity_ul=1e5),
        },
    )


def near(pose: Pose, x: float, y: float, z: float, rz: float) -> bool:
    return (pose.x_mm, pose.y_mm, pose.z_mm, pose.rz_rad) == pytest.approx((x, y, z, rz), abs=1e-9)


@pytest.mark.parametrize(
    ("position", "labware", "well", "pose"),
    [
        ("nest-1", "plate-1", None, (100.0, 200.0, 50.0, 0.0)),
        ("nest-1", "plate-1", "A1", (100.0, 200.0, 50.0, 0.0)),
        # B2 is 9 mm along x and 9 mm along −y from A1, so A1 stands 9 mm back on both.
        ("nest-1", "plate-1", "B2", (91.0, 209.0, 50.0, 0.0)),
        ("nest-1", "plate-1", "H12", (1.0, 263.0, 50.0, 0.0)),
        ("nest-1", "plate-2", "B2", (95.5, 204.5, 50.0, 0.0)),
        ("nest-2", "plate-1", "B2", (-9.0, -9.0, 10.0, math.pi / 2)),
        ("nozzle-1", "plate-1", "C4", (73.0, 218.0, 50.0, 0.0)),
        # nozzle-2 is above the place of B3: A1 under it stands at B3's place.
        ("nozzle-2", "plate-1", "A1", (118.0, 191.0, 50.0, 0.0)),
        ("nozzle-2", "plate-1", "B3", (100.0, 200.0, 50.0, 0.0)),
        ("nest-1", "tank", "A1", (100.0, 200.0, 50.0, 0.0)),
    ],
)
def test_poses(
    position: str, labware: str, well: str | None, pose: tuple[float, float, float, float]
) -> None:
    geometry: Geometry = CellGeometry(cell())
    assert near(geometry.pose(position, labware, well), *pose)


@pytest.mark.parametrize("well", ["A1", "A12", "H1", "D7"])
@pytest.mark.parametrize("position", ["nest-1", "nest-2", "nozzle-1"])
def test_the_asked_well_stands_at_the_point(position: str, well: str) -> None:
    geometry = CellGeometry(cell())
    pose, point = geometry.pose(position, "plate-1", well), geometry.origin(position)
    along_row, along_column = offset_mm("sbs-96", well) or (math.nan, math.nan)
    # Columns run at −90° to the rows.
    x = pose.x_mm + along_row * math.cos(pose.rz_rad) + along_column * math.sin(pose.rz_rad)
    y = pose.y_mm + along_row * math.sin(pose.rz_rad) - along_column * math.cos(pose.rz_rad)
    assert (x, y) == pytest.approx((point.x_mm, point.y_mm), abs=1e-9)


def test_a_slightly_skewed_column_is_squared_against_the_row() -> None:
    skewed: Frame = ((0.0, 0.0, 0.0), (99.0, 0.0, 0.0), (1.0, -63.0, 0.0))
    assert frame_problem(skewed) is None
    bench = cell()
    bench.positions["nest-1"] = PositionConfig(frame=skewed)
    assert near(CellGeometry(bench).pose("nest-1", "plate-1", "B1"), 0.0, 9.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("position", "labware", "well", "said"),
    [
        ("nest-9", "plate-1", None, "no position nest-9"),
        ("shelf", "plate-1", None, "shelf has no taught frame"),
        ("lamp", "plate-1", None, "shelf has no taught frame"),
        ("nest-1", "plate-9", None, "no labware plate-9"),
        ("nest-1", "plate-1", "I1", "plate-1 is of type sbs-96 and has no well I1"),
        ("nozzle-2", "tank", None, "tank is of type trough-1 and has no well B3"),
    ],
)
def test_what_is_not_there_is_refused(position: str, labware: str, well: str | None, said: str) -> None:
    with pytest.raises(Refused, match=said):
        CellGeometry(cell()).pose(position, labware, well)


def test_where_labware_is() -> None:
    seated = CellGeometry(cell())
    assert seated.where("plate-1") == ("nest-1", "A1")
    assert seated.where("plate-2") is None
    now: dict[str, Standing | None] = {"plate-1": None, "plate-2": ("nozzle-1", "C4")}
    moved = CellGeometry(cell(), now.get)
    assert moved.where("plate-1") is None
    assert moved.where("plate-2") == ("nozzle-1", "C4")
    with pytest.raises(Refused, match="no labware plate-9"):
        moved.where("plate-9")


@pytest.mark.parametrize(
    ("second", "third", "said"),
    [
        ((99, 0, 0), (0, -63, 0), None),
        ((99, 0, 0), (2.1, -63, 0), None),
        ((99, 0, 1), (0, -63, -1), None),
        ((0.5, 0, 0), (0, -63, 0), "first and the second taught point are less than 1 mm"),
        ((99, 0, 0), (0, 0.9, 0), "first and the third taught point are less than 1 mm"),
        ((99, 0, 0), (50, 0, 0), "one line"),
        ((99, 0, 0), (-50, 1, 0), "one line"),
        ((99, 0, 0), (2.3, -63, 0), "at 87.9° to each other"),
        ((99, 0, 0), (-20, -63, 0), "not at 90°"),
        ((99, 0, 9), (0, -63, 0), "leans by 5.2°"),
    ],
)
def test_taught_points_that_are_no_nest(
    second: tuple[float, float, float], third: tuple[float, float, float], said: str | None
) -> None:
    found = frame_problem(((0.0, 0.0, 0.0), second, third))
    assert (found is None) if said is None else (found is not None and said in found)
