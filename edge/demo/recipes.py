"""From recipes to the steps of a plan, and from its documents back to absorbances. Pure.

A plan fills each syringe once for all its wells (again where one stroke is not enough), carries well after
well under the nozzle, and then has the photometer look at all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edge.client import step
from edge.demo.colour import WAVELENGTHS_NM, Recipe

Step = dict[str, Any]

PUMPS = ("red", "yellow", "blue", "water")
PLATE = "plate-1"
NOZZLE = "nozzle-1"
READER = "reader"
SYRINGE_UL = 1000
RETRY = {"retry": 2, "backoff_s": 0.5, "then": "hold"}


def plate_wells() -> list[str]:
    """The wells of a 96-well plate, row by row."""
    return [f"{row}{column}" for row in "ABCDEFGH" for column in range(1, 13)]


def preparation() -> list[Step]:
    """Steps that only the first plan needs: find every home."""
    return [
        step("power_arm", "arm", "initialize"),
        *(step(f"home_{pump}", pump, "initialize") for pump in PUMPS),
    ]


def steps_of(recipes: Sequence[Recipe], wells: Sequence[str]) -> list[Step]:
    """Steps that mix each recipe in its well and read it; `scan_<well>` has the result."""
    checks = [
        step("weigh_water", "scale", "weigh", record=True),
        step("measure_ph", "ph", "measure", record=True),
    ]
    look = [_scan(well) for well in wells]
    carry = step("to_reader", "arm", "move_labware", labware=PLATE, to=READER)
    return [*checks, *_mixing(recipes, wells), carry, *look]


def _mixing(recipes: Sequence[Recipe], wells: Sequence[str]) -> Iterator[Step]:
    doses = [_doses(recipe) for recipe in recipes]
    left = {pump: sum(dose[pump] for dose in doses) for pump in PUMPS}
    held = dict.fromkeys(PUMPS, 0)
    for well, dose in zip(wells, doses, strict=True):
        name = well.lower()
        for pump in PUMPS:
            if held[pump] < dose[pump]:
                fill = min(left[pump], SYRINGE_UL) - held[pump]
                held[pump] += fill
                yield step(f"fill_{pump}_{name}", pump, "aspirate", source=f"{pump}-stock/A1", volume_ul=fill)
        yield step(f"carry_{name}", "arm", "move_labware", labware=PLATE, to=NOZZLE, well=well)
        for pump in PUMPS:
            if dose[pump]:
                held[pump] -= dose[pump]
                left[pump] -= dose[pump]
                yield step(f"{pump}_{name}", pump, "dispense", target=f"{PLATE}/{well}", volume_ul=dose[pump])


def _doses(recipe: Recipe) -> dict[str, int]:
    return {
        "red": recipe.red_ul,
        "yellow": recipe.yellow_ul,
        "blue": recipe.blue_ul,
        "water": recipe.water_ul,
    }


def _scan(well: str) -> Step:
    name = f"scan_{well.lower()}"
    wavelengths = [float(nm) for nm in WAVELENGTHS_NM]
    made = step(name, "reader", "scan", record=True, well=f"{PLATE}/{well}", wavelengths_nm=wavelengths)
    return made | {"on_error": RETRY}


def scanned_well(data: Mapping[str, Any]) -> tuple[str, list[float]] | None:
    """Well and absorbances of an event's data; None if it is not one of a scan."""
    execution = str(data.get("execution", ""))
    if not execution.startswith("scan_") or f"{READER}_absorbance" not in data:
        return None
    return execution.removeprefix("scan_").upper(), [float(au) for au in data[f"{READER}_absorbance"]]
