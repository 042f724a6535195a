"""The world: liquid is never made or lost, and geometry decides what is under a nozzle."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.errors import BenchError
from firmware_sim.geometry import Frame, Pose
from firmware_sim.labware import TYPES, well_name
from firmware_sim.world import World
from tests.firmware_sim.sims import BENCH


def world(**changes: Any) -> World:
    return World({**copy.deepcopy(BENCH), **changes})


def total(of: World) -> float:
    wells = [content for ware in of.labware.values() for content in ware.wells.values()]
    return sum(sum(content.values()) for content in [*wells, of.spilled])


def test_well_names_go_on_after_z() -> None:
    assert [well_name(row, 0) for row in (0, 25, 26, 31)] == ["A1", "Z1", "AA1", "AF1"]
    wells = list(TYPES["sbs-1536"].wells())
    assert (len(wells), wells[-1]) == (1536, "AF48")
    assert all(well_name(*found) == well for well in wells if (found := TYPES["sbs-1536"].find(well)))
    assert TYPES["sbs-96"].find("I1") is None
    assert TYPES["sbs-96"].find("A13") is None
    assert TYPES["sbs-96"].find("A0") is None


def test_a_draw_takes_the_mixture_and_only_what_is_there() -> None:
    w = world()
    w.put("plate-1/A1", {"red-dye": 30.0, "water": 90.0})
    assert w.draw("plate-1/A1", 40.0) == pytest.approx({"red-dye": 10.0, "water": 30.0})
    assert w.draw("plate-1/A1", 1000.0) == pytest.approx({"red-dye": 20.0, "water": 60.0})
    assert w.draw("plate-1/A1", 1.0) == {}
    assert w.well_volume_ul("plate-1/A1") == 0.0


def test_what_does_not_fit_runs_over_and_is_told() -> None:
    told: list[dict[str, Any]] = []
    w = World(BENCH, lambda what, **details: told.append({"what": what, **details}))
    w.put("plate-1/A1", {"red-dye": 400.0})
    assert w.well_volume_ul("plate-1/A1") == pytest.approx(360.0)
    assert w.spilled == pytest.approx({"red-dye": 40.0})
    assert told == [{"what": "spill", "amount_ul": pytest.approx(40.0), "place": "plate-1/A1"}]


@given(
    st.lists(
        st.tuples(st.sampled_from(["A1", "B2", "H12"]), st.floats(0, 500), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_liquid_is_never_made_or_lost(moves: list[tuple[str, float, bool]]) -> None:
    w = world()
    before = total(w)
    for well, ul, back in moves:
        source, target = ("plate-1/" + well, "reservoir/A1") if back else ("reservoir/A1", "plate-1/" + well)
        w.put(target, w.draw(source, ul))
        assert w.well_volume_ul("plate-1/" + well) <= 360.0 + 1e-6
    assert total(w) == pytest.approx(before, abs=1e-4)


def test_mass_follows_volume_density_and_tare() -> None:
    w = World(
        {
            "labware": {"cup": {"type": "tube-1", "tare_g": 12.5, "contents": {"A1": {"syrup": 1000.0}}}},
            "liquids": {"syrup": {"density_g_ml": 1.3}},
        }
    )
    assert w.mass_g("cup") == pytest.approx(13.8)
    w.put("cup/A1", {"unheard-of": 500.0})
    assert w.mass_g("cup") == pytest.approx(14.3)


def test_absorbance_follows_beer_and_lambert() -> None:
    w = world()
    w.put("plate-1/A1", {"red-dye": 32.0})
    # 32 µl on 32 mm² stand 1 mm high: a tenth of the absorbance of 1 cm.
    assert w.absorbance("plate-1/A1", 450) == pytest.approx(0.8)
    assert w.absorbance("plate-1/A1", 500) == pytest.approx(0.5)
    assert w.absorbance("plate-1/A1", 400) == pytest.approx(0.8)
    assert w.absorbance("plate-1/A1", 900) == pytest.approx(0.2)
    w.put("plate-1/A1", {"water": 100.0})
    assert w.absorbance("plate-1/A1", 450) == pytest.approx(0.8), (
        "diluting deepens the well as it thins the dye"
    )
    assert w.absorbance("plate-1/B1", 450) == 0.0


def test_the_nozzle_hits_the_well_that_the_arm_has_put_under_it() -> None:
    w = world()
    assert w.under("nozzle-1") == "plate-1/A1"
    assert w.pick(w.pose_of("nest-1")) == "plate-1"
    assert w.under("nozzle-1") is None
    assert w.where("plate-1") is None
    assert w.place("plate-1", w.pose_of("nest-1", well="C7"))
    assert (w.under("nozzle-1"), w.where("plate-1")) == ("plate-1/C7", "nest-1")
    w.pick(w.pose_of("nest-1", well="C7"))
    near = w.pose_of("nest-1", well="H12")
    assert w.place("plate-1", near._replace(x_mm=near.x_mm + 3.0))
    assert w.under("nozzle-1") == "plate-1/H12"


def test_a_nozzle_may_hang_over_another_well() -> None:
    w = world(positions={**BENCH["positions"], "nozzle-1": {"at": "nest-1", "well": "B3"}})
    assert w.under("nozzle-1") == "plate-1/B3"
    with pytest.raises(BenchError, match="no position 'elsewhere'"):
        w.under("elsewhere")


def test_picking_and_placing_need_the_right_place() -> None:
    w = world(
        positions={**BENCH["positions"], "nest-2": {"frame": [[500, 0, 50], [500, 99, 50], [563, 0, 50]]}}
    )
    there = w.pose_of("nest-1")
    assert w.pick(there._replace(z_mm=there.z_mm + 3.0)) is None, "closed above the plate"
    assert w.pick(there._replace(x_mm=there.x_mm + 6.0)) is None, "closed beside the plate"
    assert w.occupied(w.pose_of("nest-1", well="D4")) == "plate-1"
    assert w.pick(there._replace(x_mm=there.x_mm + 2.0)) == "plate-1"
    assert w.occupied(there) is None
    turned = w.pose_of("nest-2")
    assert not w.place("plate-1", turned._replace(rz_rad=0.0)), "across the nest"
    assert not w.place("plate-1", turned._replace(z_mm=60.0)), "10 mm above the nest"
    assert not w.place("plate-1", Pose(0.0, 0.0, 0.0, 0.0)), "no nest there"
    assert w.place("plate-1", turned)
    assert w.labware_at("nest-2") == "plate-1"


def test_a_nest_holds_one_plate() -> None:
    plates = {name: {"type": "sbs-96"} for name in ("plate-2",)}
    w = world(labware={**BENCH["labware"], **plates})
    assert not w.place("plate-2", w.pose_of("nest-1"))


def test_what_cannot_be_is_refused_with_a_sentence() -> None:
    w = world()
    with pytest.raises(BenchError, match="no labware 'plate-9'"):
        w.draw("plate-9/A1", 1.0)
    with pytest.raises(BenchError, match="no well 'Z9'"):
        w.put("plate-1/Z9", {})
    with pytest.raises(BenchError, match="one line"):
        Frame.taught([[0, 0, 0], [9, 0, 0], [18, 0, 0]], "frame")


def test_every_instrument_has_noise_of_its_own() -> None:
    assert world().rng_for("a").random() == world().rng_for("a").random()
    assert world().rng_for("a").random() != world().rng_for("b").random()


def test_snapshot_is_plain_data() -> None:
    shown = world().snapshot()
    assert shown["labware"]["plate-1"]["at"] == "nest-1"
    assert shown["labware"]["reservoir"]["wells"] == {
        "A1": {"volume_ul": 40000.0, "composition": {"red-dye": 40000.0}}
    }
