"""Names, numbers and places of wells."""

from __future__ import annotations

import pytest

from edge.plan.labware import TYPES, column_row, last_well, offset_mm, parse_well, well_name, wells


@pytest.mark.parametrize(
    ("kind", "count", "last"),
    [
        ("sbs-6", 6, "B3"),
        ("sbs-12", 12, "C4"),
        ("sbs-24", 24, "D6"),
        ("sbs-48", 48, "F8"),
        ("sbs-96", 96, "H12"),
        ("sbs-384", 384, "P24"),
        ("sbs-1536", 1536, "AF48"),
        ("trough-1", 1, "A1"),
        ("tube-1", 1, "A1"),
    ],
)
def test_every_type_has_its_wells(kind: str, count: int, last: str) -> None:
    names = list(wells(kind))
    assert len(names) == len(set(names)) == count
    assert (names[0], names[-1], last_well(kind)) == ("A1", last, last)
    for name in names:
        place = column_row(kind, name)
        assert place is not None
        assert well_name(kind, *place) == name


def test_every_type_is_covered_above() -> None:
    assert len(TYPES) == 9


@pytest.mark.parametrize(
    ("kind", "well", "place"),
    [
        ("sbs-96", "A1", (0, 0)),
        ("sbs-96", "A2", (1, 0)),
        ("sbs-96", "B1", (0, 1)),
        ("sbs-96", "H12", (11, 7)),
        ("sbs-1536", "Z48", (47, 25)),
        ("sbs-1536", "AA1", (0, 26)),
        ("sbs-96", "I1", None),
        ("sbs-96", "A13", None),
        ("sbs-1536", "AG1", None),
        ("trough-1", "A2", None),
        ("sbs-96", "A0", None),
        ("sbs-96", "A01", None),
        ("sbs-96", "a1", None),
        ("sbs-96", "1A", None),
        ("sbs-96", "", None),
    ],
)
def test_wells_by_name(kind: str, well: str, place: tuple[int, int] | None) -> None:
    assert column_row(kind, well) == place


def test_beside_the_labware_there_is_no_well() -> None:
    assert [well_name("sbs-96", column, row) for column, row in ((12, 0), (0, 8), (-1, 0), (0, -1))] == [
        None
    ] * 4


@pytest.mark.parametrize(
    ("kind", "well", "offset"),
    [
        # From A1: 11 × 9 and 7 × 9, 23 × 4.5 and 15 × 4.5, 47 × 2.25 and 31 × 2.25 mm (ANSI SLAS 4-2004).
        ("sbs-96", "H12", (99.0, 63.0)),
        ("sbs-384", "P24", (103.5, 67.5)),
        ("sbs-1536", "AF48", (105.75, 69.75)),
        ("sbs-6", "B3", (78.24, 39.12)),
        ("trough-1", "A1", (0.0, 0.0)),
        ("trough-1", "B1", None),
    ],
)
def test_offsets_from_a1(kind: str, well: str, offset: tuple[float, float] | None) -> None:
    found = offset_mm(kind, well)
    assert found == (pytest.approx(offset) if offset else None)


def test_the_last_wells_stay_inside_the_footprint() -> None:
    """127.76 × 85.48 mm (ANSI SLAS 1-2004, Microplates: Footprint Dimensions)."""
    for kind in TYPES:
        along_row, along_column = offset_mm(kind, last_well(kind)) or (999.0, 999.0)
        assert along_row < 127.76
        assert along_column < 85.48


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plate-1/A1", ("plate-1", "A1")),
        ("p/AF48", ("p", "AF48")),
        ("plate-1", None),
        ("plate-1/", None),
        ("Plate/A1", None),
        ("plate-1/A1/B2", None),
        ("plate-1/A1\n", None),
        ("plate-1/A100", None),
    ],
)
def test_parsing_of_wells(text: str, found: tuple[str, str] | None) -> None:
    assert parse_well(text) == found
