"""From recipes to a plan that the demo's own cell accepts, and back from its documents."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.client import plan
from edge.config import load_cell
from edge.demo.colour import WAVELENGTHS_NM, Mixtures, Recipe, to_recipes
from edge.demo.recipes import SYRINGE_UL, plate_wells, preparation, scanned_well, steps_of
from edge.demo.supervise import packaged, write_cell
from edge.demo.target import DYES, LEAST_DYE_UL, hidden_target
from edge.plan.cellmodel import CellModel
from edge.plan.check import check
from edge.plan.inventory import Bookkeeper, Inventory
from edge.plan.model import parse
from edge.yamlfile import parse_yaml

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def model() -> CellModel:
    return CellModel(load_cell(Path(str(files("edge.demo").joinpath("cell.yaml")))))


def _recipes(seed: int, n: int) -> list[Recipe]:
    return to_recipes(Mixtures().sample(np.random.default_rng(seed), n))


def _liquids() -> dict[str, Any]:
    return dict(parse_yaml(packaged("bench.yaml")).data["liquids"])


@pytest.mark.parametrize("seed", range(5))
def test_a_whole_plate_is_accepted_by_the_cell_plan_after_plan(model: CellModel, seed: int) -> None:
    keeper = Bookkeeper(model, Inventory.initial(model))
    wells = plate_wells()
    for number in range(12):
        recipes = _recipes(100 * seed + number, 8)
        mine = wells[8 * number : 8 * number + 8]
        steps = (preparation() if number == 0 else []) + steps_of(recipes, mine)
        parsed, wrong = parse(json.dumps(plan("demo", steps)).encode())
        compiled, reasons = check(parsed, model, keeper.inventory, NOW)
        assert wrong + reasons == []
        for step in compiled.steps:
            args = {name: argument.value for name, argument in step.args.items()}
            defaults = {name: None for name in ("well",)} | {"expel": False}
            keeper.apply(step.step.device, step.operation, defaults | args, {})
        for well, recipe in zip(mine, recipes, strict=True):
            wanted = {
                "red-dye": recipe.red_ul,
                "yellow-dye": recipe.yellow_ul,
                "blue-dye": recipe.blue_ul,
                "water": recipe.water_ul,
            }
            found = keeper.inventory.wells[f"plate-1/{well}"]
            assert found == pytest.approx({name: ul for name, ul in wanted.items() if ul})
    assert all(sum(held.values()) == pytest.approx(0, abs=1e-6) for held in keeper.inventory.vessels.values())


def test_a_syringe_is_filled_again_when_one_stroke_is_not_enough() -> None:
    water = [Recipe(0, 0, 0, 200)] * 8
    steps = steps_of(water, plate_wells()[:8])
    fills = [step["args"]["volume_ul"] for step in steps if step["operation"] == "aspirate"]
    assert sum(fills) == 1600
    assert max(fills) <= SYRINGE_UL
    assert len(fills) == 2


def test_nothing_is_dispensed_of_a_dye_that_a_recipe_lacks() -> None:
    steps = steps_of([Recipe(0, 0, 50, 150)], ["B7"])
    assert Counter(step["device"] for step in steps if step["operation"] == "dispense") == {
        "blue": 1,
        "water": 1,
    }
    assert [step["args"]["well"] for step in steps if step["id"] == "carry_b7"] == ["B7"]


def test_a_scan_is_told_from_other_events() -> None:
    absorbance = [0.1, 0.2, 0.3]
    assert scanned_well({"execution": "scan_b12", "reader_absorbance": absorbance}) == ("B12", absorbance)
    assert scanned_well({"execution": "weigh_water", "scale_mass_g": 1.0}) is None
    assert scanned_well({"execution": "scan_b12", "outcome": "finished"}) is None


def test_every_scanned_well_is_recorded() -> None:
    steps = steps_of(_recipes(1, 3), ["A1", "A2", "A3"])
    scans = [step for step in steps if step["operation"] == "scan"]
    assert [step["args"]["well"] for step in scans] == ["plate-1/A1", "plate-1/A2", "plate-1/A3"]
    assert all(step["record"] for step in scans)
    assert scans[0]["args"]["wavelengths_nm"] == list(WAVELENGTHS_NM)


def test_the_hidden_colour_is_one_that_can_be_made() -> None:
    liquids = _liquids()
    seen = set()
    for seed in range(20):
        recipe, target = hidden_target(liquids, seed, Mixtures())
        assert recipe.total_ul == 200
        assert min(recipe.red_ul, recipe.yellow_ul, recipe.blue_ul) >= LEAST_DYE_UL
        assert all(0.05 < au < 3.0 for au in target)
        assert hidden_target(liquids, seed, Mixtures()) == (recipe, target)
        seen.add(recipe)
    assert len(seen) > 15


def test_the_target_follows_beer_and_lambert() -> None:
    liquids = {dye: {"absorbance": dict.fromkeys(WAVELENGTHS_NM, 0.0)} for dye in DYES}
    liquids["red-dye"]["absorbance"][520] = 3.2
    recipe, target = hidden_target(liquids, 0, Mixtures())
    # 32 mm² per well: n µl of 3.2 AU/cm stand n/320 cm high
    assert target == pytest.approx([0.0, recipe.red_ul / 100, 0.0])


def test_bench_and_cell_agree_on_everything_they_both_name() -> None:
    bench, cell = (parse_yaml(packaged(name)).data for name in ("bench.yaml", "cell.yaml"))
    assert bench["positions"] == cell["positions"]
    for name, labware in cell["labware"].items():
        assert {key: bench["labware"][name][key] for key in labware} == labware
    for name, device in cell["devices"].items():
        instrument = bench["instruments"][name]
        assert instrument["model"] == device["driver"]
        for key in ("address", "syringe_ul", "ports"):
            assert instrument.get(key) == device.get(key)


def test_the_cell_file_gets_the_real_addresses(tmp_path: Path) -> None:
    addresses = {
        "arm": "tcp://127.0.0.1:1001",
        "arm.dashboard": "tcp://127.0.0.1:1002",
        "reader": "opc.tcp://127.0.0.1:1003",
    }
    cell = load_cell(write_cell(tmp_path, "mqtt://127.0.0.1:1004", addresses))
    assert (cell.mqtt.host, cell.mqtt.port) == ("127.0.0.1", 1004)
    assert cell.devices["arm"].options.port == "tcp://127.0.0.1:1001"
    assert cell.devices["arm"].options.dashboard == "127.0.0.1:1002"  # type: ignore[attr-defined]  # of its driver
    assert cell.devices["reader"].options.port == "opc.tcp://127.0.0.1:1003"
    assert str(tmp_path) in cell.devices["red"].options.port
