"""Checking the parts of a bench file that describe the world: positions, labware, liquids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from firmware_sim.errors import BenchError
from firmware_sim.geometry import Frame
from firmware_sim.labware import TYPES, LabwareType
from firmware_sim.suggest import nearest
from firmware_sim.yaml_file import Mistakes, Where

PLACE_NAME = re.compile(r"[a-z][a-z0-9-]*")

_POSITION_KEYS = {"frame", "at", "well"}
_LABWARE_KEYS = {"type", "at", "well_capacity_ul", "contents", "tare_g"}
_LIQUID_KEYS = {"density_g_ml", "absorbance", "ph"}


def check_world(data: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Note every mistake in `positions`, `labware` and `liquids`."""
    positions = section(data, "positions", mistakes)
    for name, entry in positions.items():
        _check_position(name, entry, positions, mistakes)
    _check_labware(section(data, "labware", mistakes), positions, mistakes)
    for name, entry in section(data, "liquids", mistakes).items():
        _check_liquid(("liquids", name), entry, mistakes)


def section(data: Mapping[str, Any], key: str, mistakes: Mistakes) -> dict[str, Any]:
    """A mapping of the file by name; {} if it is absent or none."""
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        mistakes.add((key,), "this must be a mapping of names, as in `nest-1: {…}`.")
        return {}
    return {str(name): entry for name, entry in value.items()}


def check_keys(where: Where, entry: Mapping[str, Any], known: Iterable[str], mistakes: Mistakes) -> None:
    """Note every key that is not known, with the nearest one that is."""
    known = sorted(known)
    for key in entry:
        if key not in known:
            hint = nearest(str(key), known) or f"; known are {', '.join(known)}"
            mistakes.add((*where, str(key)), f"there is no such key{hint}.")


def check_number(where: Where, value: Any, low: float, high: float, mistakes: Mistakes) -> bool:
    """Note it if the value is no number in low..high."""
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return True
    mistakes.add(where, f"{value!r} must be a number from {low:g} to {high:g}.")
    return False


def _as_number(key: Any) -> Any:
    try:
        return float(key)
    except (TypeError, ValueError):
        return key


def _check_name(where: Where, name: str, mistakes: Mistakes) -> None:
    if not PLACE_NAME.fullmatch(name):
        mistakes.add(where, "a name begins with a small letter and goes on with small letters, digits and -.")


def _check_position(name: str, entry: Any, positions: Mapping[str, Any], mistakes: Mistakes) -> None:
    where: Where = ("positions", name)
    _check_name(where, name, mistakes)
    if entry is None:
        return
    if not isinstance(entry, Mapping):
        mistakes.add(where, "this must be {frame: [[x, y, z], …]}, {at: NEST} or {}.")
        return
    check_keys(where, entry, _POSITION_KEYS, mistakes)
    if "frame" in entry and "at" in entry:
        mistakes.add(where, "frame and at exclude each other: a nest is taught, a nozzle is above a nest.")
    elif "frame" in entry:
        _check_frame((*where, "frame"), entry["frame"], mistakes)
    elif "at" in entry:
        other = positions.get(entry["at"])
        if not isinstance(other, Mapping) or "at" in other:
            mistakes.add(
                (*where, "at"),
                f"{entry['at']!r} is no nest to be above{nearest(str(entry['at']), positions)}.",
            )
    if "well" in entry and not any(shape.find(str(entry["well"])) for shape in TYPES.values()):
        mistakes.add((*where, "well"), f"{entry['well']!r} is no well name such as A1.")


def _check_frame(where: Where, points: Any, mistakes: Mistakes) -> None:
    try:
        Frame.taught(points, "frame")
    except BenchError as error:
        mistakes.add(where, str(error))
    except (TypeError, ValueError):
        mistakes.add(where, "this must be three points [x, y, z] of numbers in mm.")


def _check_labware(labware: Mapping[str, Any], positions: Mapping[str, Any], mistakes: Mistakes) -> None:
    taken: dict[str, str] = {}
    for name, entry in labware.items():
        where: Where = ("labware", name)
        _check_name(where, name, mistakes)
        if not isinstance(entry, Mapping):
            mistakes.add(where, "this must be {type: …, at: POSITION, …}.")
            continue
        check_keys(where, entry, _LABWARE_KEYS, mistakes)
        shape = TYPES.get(str(entry.get("type")))
        if shape is None:
            hint = nearest(str(entry.get("type")), TYPES)
            mistakes.add(
                (*where, "type"),
                f"{entry.get('type')!r} is no labware type{hint}; there are {', '.join(TYPES)}.",
            )
        else:
            _check_contents(where, entry, shape, mistakes)
        if "tare_g" in entry:
            check_number((*where, "tare_g"), entry["tare_g"], 0, 1e6, mistakes)
        if entry.get("at") is not None:
            _check_seat((*where, "at"), name, entry["at"], positions, taken, mistakes)


def _check_seat(
    where: Where, name: str, at: Any, positions: Mapping[str, Any], taken: dict[str, str], mistakes: Mistakes
) -> None:
    place = positions.get(at, ...)
    if place is ...:
        mistakes.add(where, f"there is no position {at!r}{nearest(str(at), positions)}.")
    elif isinstance(place, Mapping) and "at" in place:
        mistakes.add(where, f"{at} is a nozzle above {place['at']}; labware stands at {place['at']}.")
    elif at in taken:
        mistakes.add(where, f"{at} already holds {taken[at]}.")
    else:
        taken[at] = name


def _check_contents(where: Where, entry: Mapping[str, Any], shape: LabwareType, mistakes: Mistakes) -> None:
    capacity = entry.get("well_capacity_ul", shape.capacity_ul)
    if not check_number((*where, "well_capacity_ul"), capacity, 1e-3, 1e9, mistakes):
        return
    contents = entry.get("contents") or {}
    if not isinstance(contents, Mapping):
        mistakes.add((*where, "contents"), "this must be {A1: {LIQUID: volume in µl}}.")
        return
    for well, liquid in contents.items():
        spot: Where = (*where, "contents", str(well))
        if shape.find(str(well)) is None:
            mistakes.add(spot, f"{shape.name} has no well {well}.")
        if not isinstance(liquid, Mapping):
            mistakes.add(spot, "this must be {LIQUID: volume in µl}.")
            continue
        volumes = [check_number((*spot, str(name)), ul, 0, 1e9, mistakes) for name, ul in liquid.items()]
        if all(volumes) and sum(liquid.values()) > capacity:
            mistakes.add(spot, f"{sum(liquid.values()):g} µl do not fit into {capacity:g} µl.")


def _check_liquid(where: Where, entry: Any, mistakes: Mistakes) -> None:
    if entry is None:
        return
    if not isinstance(entry, Mapping):
        mistakes.add(where, "this must be {density_g_ml: 1.0, absorbance: {NM: AU of 1 cm}}.")
        return
    check_keys(where, entry, _LIQUID_KEYS, mistakes)
    if "density_g_ml" in entry:
        check_number((*where, "density_g_ml"), entry["density_g_ml"], 0.01, 30, mistakes)
    if "ph" in entry:
        check_number((*where, "ph"), entry["ph"], -2, 16, mistakes)
    table = entry.get("absorbance") or {}
    if not isinstance(table, Mapping):
        mistakes.add((*where, "absorbance"), "this must map wavelengths in nm to absorbance of 1 cm.")
        return
    for nm, value in table.items():
        spot = (*where, "absorbance", str(nm))
        # A file that was written as JSON has its numbers as text where they are keys.
        if check_number(spot, _as_number(nm), 100, 3000, mistakes):
            check_number(spot, value, 0, 1e5, mistakes)
