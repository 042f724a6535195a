"""Telemetry against the rules of RFC 8428, written here as a JSON schema."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.link.senml import pack

NAME = "^[A-Za-z0-9][A-Za-z0-9:./_-]*$"
"""Section 4.5.1: characters of a whole name, and of its beginning."""

PACK: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "bn": {"type": "string", "pattern": NAME},
            "bt": {"type": "number"},
            "n": {"type": "string", "pattern": "^[A-Za-z0-9:./_-]*$"},
            "u": {"enum": ["g", "Cel", "s", "ms", "Hz", "rad", "mm", "1/min", "pH"]},
            "v": {"type": "number"},
            "vs": {"type": "string"},
            "vb": {"type": "boolean"},
        },
        "additionalProperties": False,
        "required": ["n"],
        "oneOf": [{"required": ["v"]}, {"required": ["vs"]}, {"required": ["vb"]}],
    },
}
"""Section 4.2 and 5.1.1: exactly one value a record; no fields of the standard that are not used here."""


def resolved(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Section 4.6: each record with its whole name and time, and without base fields."""
    found: dict[str, dict[str, Any]] = {}
    base_name, base_time = "", 0.0
    for record in records:
        base_name, base_time = record.get("bn", base_name), record.get("bt", base_time)
        whole = {key: value for key, value in record.items() if key not in ("bn", "bt", "n")}
        found[base_name + record["n"]] = whole | {"t": base_time}
    return found


def valid(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    again = json.loads(json.dumps(records, allow_nan=False))
    jsonschema.validate(again, PACK)
    found = resolved(again)
    assert all(jsonschema.Draft202012Validator({"pattern": NAME}).is_valid(name) for name in found)
    return found


def test_a_pack() -> None:
    records = pack(
        "bench-1", "scale", {"mass_g": 12.5, "stable": True, "unit": "g", "count": 3}, 1_767_225_600.25
    )
    assert valid(records) == {
        "bench-1:scale:mass_g": {"u": "g", "v": 12.5, "t": 1_767_225_600.25},
        "bench-1:scale:stable": {"vb": True, "t": 1_767_225_600.25},
        "bench-1:scale:unit": {"vs": "g", "t": 1_767_225_600.25},
        "bench-1:scale:count": {"v": 3, "t": 1_767_225_600.25},
    }
    assert [("bn" in record, "bt" in record) for record in records] == [(True, True)] + [(False, False)] * 3


@pytest.mark.parametrize(
    ("field", "unit"),
    [
        ("mass_g", "g"),
        ("temperature_c", "Cel"),
        ("ph", "pH"),
        ("speed_rpm", "1/min"),
        ("height_mm", "mm"),
        ("angle_rad", "rad"),
        ("rate_hz", "Hz"),
        ("took_s", "s"),
        ("took_ms", "ms"),
        ("plunger_ul", None),
        ("flow_ul_s", None),
        ("angle_deg", None),
        ("wavelength_nm", None),
        ("absorbance", None),
    ],
)
def test_units_only_where_they_are_registered(field: str, unit: str | None) -> None:
    (record,) = pack("bench-1", "x", {field: 1.0}, 0.0)
    assert record.get("u") == unit
    assert record["v"] == 1.0


def test_words_and_truths_have_no_unit() -> None:
    for value in ("12", True):
        (record,) = pack("bench-1", "x", {"mass_g": value}, 0.0)
        assert "u" not in record


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, [1.0], {"a": 1}])
def test_what_senml_cannot_say_is_left_out(value: Any) -> None:
    assert pack("bench-1", "x", {"a": value}, 0.0) == []
    records = pack("bench-1", "x", {"a": value, "b": 1.0}, 5.0)
    assert list(valid(records)) == ["bench-1:x:b"]


@pytest.mark.parametrize("cell", ["_bench", "-bench", "7", "Bench_1-a"])
def test_names_begin_as_names_may(cell: str) -> None:
    (name,) = valid(pack(cell, "x", {"ready": True}, 0.0))
    assert name.endswith(f"{cell}:x:ready")


@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
        st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.booleans(), st.text(), st.none()),
        max_size=6,
    ),
    st.floats(0, 4e9),
)
def test_any_readings_make_a_valid_pack_or_none(cell: str, values: dict[str, Any], time_s: float) -> None:
    records = pack(cell, "device_1", values, time_s)
    said = {
        field
        for field, value in values.items()
        if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    }
    if not said:
        assert records == []
        return
    found = valid(records)
    assert {name.rpartition(":")[2] for name in found} == said
    assert all(record["t"] == time_s for record in found.values())
