"""The book-keeping: what may be drawn, given and placed, and that no liquid appears or disappears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.api import operations_of
from edge.cell import LabwareConfig
from edge.plan.cellmodel import CellModel
from edge.plan.inventory import TOLERANCE, Bookkeeper, Inventory, Standing
from tests.edge.instruments import LABWARE, POSITIONS, Bot, cell_of

OPERATIONS = operations_of(Bot)


def keeper(tmp_path: Path = Path("x"), **more: Any) -> Bookkeeper:
    model = CellModel(cell_of(tmp_path, **more))
    return Bookkeeper(model, Inventory.initial(model))


def args(operation: str, **values: Any) -> dict[str, Any]:
    return msgspec.structs.asdict(msgspec.convert(values, OPERATIONS[operation].args))


def problems(books: Bookkeeper, device: str, operation: str, **values: Any) -> dict[str, str]:
    found = books.problems(device, OPERATIONS[operation], args(operation, **values))
    assert all(sentence for _, sentence in found)
    return dict(found)


def do(books: Bookkeeper, device: str, operation: str, **values: Any) -> None:
    assert problems(books, device, operation, **values) == {}
    books.apply(device, OPERATIONS[operation], args(operation, **values), {})


def test_a_drop_goes_from_the_trough_into_the_well_under_the_nozzle() -> None:
    books = keeper()
    do(books, "pump", "draw", source="trough/A1", volume_ul=100)
    assert books.inventory.volume_ul("trough/A1") == pytest.approx(900)
    assert books.inventory.vessels["pump"] == pytest.approx({"dye": 100})
    do(books, "pump", "put", target="plate-1/A1", volume_ul=30)
    assert books.inventory.wells["plate-1/A1"] == pytest.approx({"dye": 30})
    assert books.inventory.vessels["pump"] == pytest.approx({"dye": 70})


def test_a_well_is_not_overdrawn() -> None:
    books = keeper(
        labware=LABWARE
        | {
            "trough": LabwareConfig(
                type="trough-1", at="shelf", well_capacity_ul=500, contents={"A1": {"dye": 50.0}}
            )
        }
    )
    found = problems(books, "pump", "draw", source="trough/A1", volume_ul=60)
    assert found == {
        "volume_ul": "trough/A1 would be overdrawn: it holds 50 µl, 60 µl are wanted",
    }
    assert books.inventory.volume_ul("trough/A1") == 50


def test_rounding_of_the_plunger_is_no_overdraw_and_makes_no_liquid() -> None:
    books = keeper()
    slack = TOLERANCE * 500
    do(books, "pump", "draw", source="trough/A1", volume_ul=300)
    do(books, "pump", "put", target="trough/A1", volume_ul=300 + slack * 0.99)
    assert books.inventory.volume_ul("trough/A1") == pytest.approx(1000)
    do(books, "pump", "draw", source="trough/A1", volume_ul=300)
    assert "volume_ul" in problems(books, "pump", "put", target="trough/A1", volume_ul=300 + slack * 1.01)


def test_the_vessel_is_not_overfilled() -> None:
    books = keeper()
    do(books, "pump", "draw", source="trough/A1", volume_ul=400)
    found = problems(books, "pump", "draw", source="trough/A1", volume_ul=102)
    assert found == {"volume_ul": "pump would hold 502 µl; it takes 500 µl"}


def test_what_is_not_held_is_not_given() -> None:
    books = keeper()
    found = problems(books, "pump", "put", target="plate-1/A1", volume_ul=30)
    assert found == {"volume_ul": "pump holds 0 µl, 30 µl are to be dispensed"}


def test_a_well_does_not_overflow() -> None:
    books = keeper()
    do(books, "pump", "draw", source="trough/A1", volume_ul=500)
    do(books, "pump", "put", target="plate-1/A1", volume_ul=360)
    found = problems(books, "pump", "put", target="plate-1/A1", volume_ul=10)
    assert found == {"volume_ul": "plate-1/A1 would overflow: 370 µl in a well of 360 µl"}


def test_every_reason_is_told_at_once() -> None:
    books = keeper()
    found = books.problems("pump", OPERATIONS["draw"], args("draw", source="trough/A1", volume_ul=2000))
    assert [argument for argument, _ in found] == ["volume_ul", "volume_ul"]


@pytest.mark.parametrize("well", ["plate-1/A2", "trough/B1", "nowhere/A1", "waste/A1"])
def test_a_well_that_no_outlet_ends_in_is_not_reached(well: str) -> None:
    books = keeper()
    for operation, argument in (("draw", "source"), ("put", "target")):
        found = problems(books, "pump", operation, **{argument: well, "volume_ul": 1})
        assert list(found) == [argument]
        assert "its outlets now end in trough/A1, plate-1/A1; move the labware first" in found[argument]


def test_an_arm_brings_another_well_under_the_nozzle() -> None:
    books = keeper()
    assert books.well_under("nozzle-1") == "plate-1/A1"
    do(books, "arm", "place", labware="plate-1", to="nozzle-1", well="H12")
    assert books.inventory.places["plate-1"] == Standing("nest-1", 11, 7)
    assert books.well_under("nozzle-1") == "plate-1/H12"
    do(books, "pump", "draw", source="trough/A1", volume_ul=10)
    do(books, "pump", "put", target="plate-1/H12", volume_ul=10)
    assert "target" in problems(books, "pump", "put", target="plate-1/A1", volume_ul=1)
    do(books, "arm", "place", labware="plate-1", to="nest-1")
    assert books.well_under("nozzle-1") == "plate-1/A1"


def test_a_nozzle_above_a_well_of_its_own() -> None:
    books = keeper()
    do(books, "arm", "place", labware="plate-1", to="nest-2")
    assert books.well_under("nozzle-b2") == "plate-1/B2"
    assert books.well_under("nozzle-1") is None
    do(books, "arm", "place", labware="plate-1", to="nozzle-b2", well="A1")
    assert books.well_under("nozzle-b2") == "plate-1/A1"
    assert books.well_under("nest-2") is None, "the corner of the plate hangs beside the point"
    do(books, "arm", "place", labware="plate-1", to="nozzle-b2", well="C3")
    assert books.inventory.places["plate-1"] == Standing("nest-2", 1, 1)


@pytest.mark.parametrize(
    ("values", "argument", "says"),
    [
        ({"labware": "plate-1", "to": "shelf"}, "to", "has no taught frame"),
        ({"labware": "plate-1", "to": "nowhere"}, "to", "has no taught frame"),
        ({"labware": "waste", "to": "nest-2"}, "labware", "not known where waste stands"),
        ({"labware": "ghost", "to": "nest-2"}, "labware", "there is no labware ghost"),
        ({"labware": "ghost", "to": "nest-2", "well": "B1"}, "labware", "there is no labware ghost"),
        ({"labware": "trough", "to": "nozzle-1"}, "to", "position nozzle-1 is occupied by plate-1"),
        ({"labware": "plate-1", "to": "nest-2", "well": "Z9"}, "well", "plate-1 has no well Z9"),
    ],
)
def test_what_cannot_be_placed(values: dict[str, str], argument: str, says: str) -> None:
    found = keeper().problems("arm", OPERATIONS["place"], args("place", **values))
    assert [sentence for about, sentence in found if about == argument and says in sentence]


def test_an_arm_with_a_short_reach() -> None:
    books = keeper(devices={"arm": {"reaches": ("nest-1",)}})
    assert problems(books, "arm", "place", labware="plate-1", to="nozzle-1", well="B1") == {}
    found = problems(books, "arm", "place", labware="plate-1", to="nest-2")
    assert found == {"to": "arm does not reach position nest-2"}


def test_a_reader_reads_what_stands_in_front_of_it() -> None:
    books = keeper()
    assert problems(books, "reader", "look", well="plate-1/A1") == {
        "well": "there is no labware at nest-2, where reader reads"
    }
    do(books, "arm", "place", labware="plate-1", to="nest-2")
    assert problems(books, "reader", "look", well="plate-1/B3") == {}
    assert problems(books, "reader", "look") == {}
    assert "not trough/A1" in problems(books, "reader", "look", well="trough/A1")["well"]
    assert problems(books, "pump", "look", well="trough/A1") == {}, "a pump looks anywhere"


def test_pushing_out_what_is_held_wants_to_be_said() -> None:
    books = keeper()
    assert problems(books, "pump", "empty") == {}
    do(books, "pump", "draw", source="trough/A1", volume_ul=40)
    found = problems(books, "pump", "empty")
    assert "still holds 40 µl" in found["expel"]
    assert "set expel: true" in found["expel"]
    do(books, "pump", "empty", expel=True)
    assert books.inventory.volume_ul("plate-1/A1") == pytest.approx(40)
    assert sum(books.inventory.vessels["pump"].values()) == 0


def test_what_is_pushed_out_does_not_overflow_a_well_either() -> None:
    books = keeper()
    do(books, "pump", "draw", source="trough/A1", volume_ul=400)
    found = problems(books, "pump", "empty", expel=True)
    assert found == {"expel": "plate-1/A1 would overflow: 400 µl in a well of 360 µl"}


def test_what_is_pushed_out_over_nothing_is_spilled_and_not_put_back() -> None:
    books = keeper()
    do(books, "pump", "draw", source="trough/A1", volume_ul=400)
    do(books, "arm", "place", labware="plate-1", to="nest-2")
    do(books, "pump", "empty", expel=True)
    assert books.inventory.volume_ul("trough/A1") == pytest.approx(600)
    assert sum(books.inventory.vessels["pump"].values()) == 0


def test_the_device_knows_better_what_was_moved() -> None:
    books = keeper()
    asked = args("draw", source="trough/A1", volume_ul=100)
    books.apply("pump", OPERATIONS["draw"], asked, {"volume_ul": 99.9})
    assert books.inventory.vessels["pump"] == pytest.approx({"dye": 99.9})
    for odd in (-50.0, 0.0, float("nan")):
        books.apply("pump", OPERATIONS["draw"], asked, {"volume_ul": odd})
        assert min(books.inventory.volume_ul("trough/A1"), *books.inventory.vessels["pump"].values()) >= 0


def test_mixtures_keep_their_proportions() -> None:
    mixed = LabwareConfig(
        type="trough-1", at="shelf", well_capacity_ul=500, contents={"A1": {"dye": 75.0, "water": 225.0}}
    )
    books = keeper(labware=LABWARE | {"trough": mixed})
    do(books, "pump", "draw", source="trough/A1", volume_ul=100)
    assert books.inventory.vessels["pump"] == pytest.approx({"dye": 25, "water": 75})
    do(books, "pump", "put", target="plate-1/A1", volume_ul=100)
    assert books.inventory.vessels["pump"] == {}


def test_the_first_inventory_is_the_cell_files() -> None:
    inventory = keeper().inventory
    assert inventory.places == {"plate-1": Standing("nest-1"), "trough": Standing("shelf")}
    assert inventory.wells == {"trough/A1": {"dye": 1000.0}}
    assert inventory.vessels == {"pump": {}}
    again = msgspec.json.decode(msgspec.json.encode(inventory), type=Inventory)
    assert again == inventory


def test_a_copy_lives_for_itself() -> None:
    books = keeper()
    before = books.inventory.copy()
    do(books, "pump", "draw", source="trough/A1", volume_ul=100)
    do(books, "arm", "place", labware="plate-1", to="nest-2")
    assert before == keeper().inventory


def test_positions_that_point_at_each_other_end() -> None:
    model = keeper(
        positions=POSITIONS | {"nozzle-1": msgspec.structs.replace(POSITIONS["nozzle-1"], at="nozzle-1")}
    ).cell
    assert model.nest_of("nozzle-1") == "nozzle-1"
    assert model.nest_of("nowhere") == "nowhere"


wells = st.sampled_from(["plate-1/A1", "plate-1/A2", "plate-1/B2", "plate-1/H12", "trough/A1", "waste/A1"])
volumes = st.floats(0.01, 600)
moves = st.one_of(
    st.tuples(
        st.just("pump"), st.just("draw"), st.fixed_dictionaries({"source": wells, "volume_ul": volumes})
    ),
    st.tuples(
        st.just("pump"), st.just("put"), st.fixed_dictionaries({"target": wells, "volume_ul": volumes})
    ),
    st.tuples(st.just("pump"), st.just("empty"), st.fixed_dictionaries({"expel": st.booleans()})),
    st.tuples(
        st.just("arm"),
        st.just("place"),
        st.fixed_dictionaries(
            {
                "labware": st.sampled_from(["plate-1", "trough", "waste"]),
                "to": st.sampled_from(["nest-1", "nest-2", "nozzle-1", "nozzle-b2", "shelf"]),
                "well": st.sampled_from(["A1", "A2", "B2", "H12", "Z9"]),
            }
        ),
    ),
)


def total(inventory: Inventory) -> float:
    return sum(sum(liquid.values()) for liquid in (*inventory.wells.values(), *inventory.vessels.values()))


@settings(max_examples=150, deadline=None)
@given(st.lists(moves, max_size=40))
def test_accepted_operations_neither_make_nor_lose_liquid(
    sequence: list[tuple[str, str, dict[str, Any]]],
) -> None:
    books = keeper()
    spilled = 0.0
    for device, name, values in sequence:
        asked = args(name, **values)
        before = books.inventory.copy()
        if books.problems(device, OPERATIONS[name], asked):
            assert books.inventory == before, "a question changes nothing"
            continue
        if name == "empty" and books.well_under("nozzle-1") is None:
            spilled += sum(books.inventory.vessels["pump"].values())
        books.apply(device, OPERATIONS[name], asked, {})
        assert total(books.inventory) + spilled == pytest.approx(1000.0)
        assert all(ul >= 0 for liquid in books.inventory.wells.values() for ul in liquid.values())
        assert sum(books.inventory.vessels["pump"].values()) <= 500 * (1 + TOLERANCE) + 1e-6
        for well in books.inventory.wells:
            assert books.inventory.volume_ul(well) <= books.cell.capacity_ul(well) + 1e-3
        standing = [place.nest for place in books.inventory.places.values() if place is not None]
        assert len(standing) == len(set(standing)), "one labware at a place"
