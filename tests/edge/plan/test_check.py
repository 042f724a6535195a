"""The verdict on a plan before anything moves."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge.cell import PositionConfig
from edge.plan.cellmodel import CellModel, field_kinds
from edge.plan.check import CompiledPlan, check, resolve
from edge.plan.inventory import Inventory
from edge.plan.model import MAX_REASONS, Reason, parse
from tests.edge.instruments import Bot, Look, Poke, cell_of

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODEL = CellModel(cell_of(Path("x")))


def step(step_id: str, device: str, operation: str, **args: Any) -> dict[str, Any]:
    return {"id": step_id, "device": device, "operation": operation, "args": args}


def draw(step_id: str, volume_ul: Any, source: Any = "trough/A1") -> dict[str, Any]:
    return step(step_id, "pump", "draw", source=source, volume_ul=volume_ul)


def put(step_id: str, volume_ul: Any, target: Any = "plate-1/A1") -> dict[str, Any]:
    return step(step_id, "pump", "put", target=target, volume_ul=volume_ul)


def poke(step_id: str, depth_mm: Any = 1, **more: Any) -> dict[str, Any]:
    return step(step_id, "arm", "poke", depth_mm=depth_mm) | more


def judged(
    *steps: dict[str, Any], model: CellModel = MODEL, **head: Any
) -> tuple[CompiledPlan, list[Reason]]:
    body = {"schema": "labedge.plan/1", "plan_id": "p-1", "cell": "bench-1", "steps": list(steps)} | head
    plan, wrong = parse(json.dumps(body).encode())
    compiled, reasons = check(plan, model, Inventory.initial(model), NOW)
    return compiled, wrong + reasons


def reasons(*steps: dict[str, Any], **head: Any) -> dict[str, str]:
    return {reason.path: reason.message for reason in judged(*steps, **head)[1]}


def accepted(*steps: dict[str, Any], **head: Any) -> CompiledPlan:
    compiled, found = judged(*steps, **head)
    assert found == []
    return compiled


def test_a_plan_that_can_run() -> None:
    compiled = accepted(
        draw("take", {"$": "red_ul"}),
        put("drop", {"$": "take.volume_ul / 2"}),
        step("look", "pump", "look") | {"record": True},
        poke("deep", {"$": "min(look.absorbance * 10, 5) + len(look.spectrum)"}),
        parameters={"red_ul": 30},
        expires_at="2026-01-01T13:00:00Z",
    )
    assert [each.execution for each in compiled.steps] == ["take", "drop", "look", "deep"]
    assert compiled.steps[0].args["volume_ul"].value == 30
    assert compiled.steps[1].args["volume_ul"].expression is not None


def test_another_cell_and_a_plan_that_is_over() -> None:
    found = reasons(poke("a"), cell="bench-2", expires_at="2026-01-01T12:00:00Z", order="dataflow")
    assert found["cell"] == "the plan is for cell `bench-2`; this is `bench-1`"
    assert "expired at 2026-01-01T12:00:00" in found["expires_at"]
    assert "`dataflow` is not built yet" in found["order"]
    assert len(found) == 3
    later = NOW + timedelta(seconds=1)
    assert reasons(poke("a"), expires_at=later.isoformat()) == {}
    assert reasons(poke("a"), expires_at="0001-01-01T00:00:00+14:00").keys() == {"expires_at"}


@pytest.mark.parametrize(
    ("wrong", "path", "says"),
    [
        (step("a", "pumb", "draw"), "steps[0].device", "no device `pumb`; did you mean `pump`?"),
        (step("a", "xyz", "draw"), "steps[0].device", "no device `xyz`; there is pump, arm, reader"),
        (step("a", "pump", "drow"), "steps[0].operation", "did you mean `draw`?"),
        (step("a", "pump", "fly"), "steps[0].operation", "pump (bot) has no operation `fly`; there is draw"),
        (draw("a", 0), "steps[0].args.volume_ul", "> 0.0"),
        (draw("a", "30"), "steps[0].args.volume_ul", "Expected `float`, got `str`"),
        (draw("a", 30, "trough"), "steps[0].args.source", "matching regex"),
        (draw("a", 30, "trogh/A1"), "steps[0].args.source", "there is no well `trogh/A1`; labware: plate-1"),
        (draw("a", 30, "trough/A2"), "steps[0].args.source", "there is no well `trough/A2`"),
        (step("a", "pump", "draw", volume_ul=1), "steps[0].args.source", "draw needs `source`"),
        (
            step("a", "pump", "draw", source="trough/A1", volume_ul=1, volum_ul=1),
            "steps[0].args.volum_ul",
            "takes no `volum_ul`; did you mean `volume_ul`?",
        ),
        (
            step("a", "arm", "place", labware="plate-9", to="nest-2"),
            "steps[0].args.labware",
            "no labware `plate-9`; did you mean `plate-1`?",
        ),
        (
            step("a", "arm", "place", labware="plate-1", to="nest-9"),
            "steps[0].args.to",
            "no position `nest-9`; did you mean `nest-",
        ),
        (
            step("a", "arm", "place", labware="plate-1", to="nest-2", well="a1"),
            "steps[0].args.well",
            "matching regex",
        ),
        (step("a", "pump", "empty") | {"record": True}, "steps[0].record", "nothing to record"),
        (step("a", "reader", "look", well="trough/A7"), "steps[0].args.well", "no well `trough/A7`"),
    ],
)
def test_what_the_cell_does_not_have(wrong: dict[str, Any], path: str, says: str) -> None:
    _, found = judged(wrong)
    assert {reason.path for reason in found} == {path}
    assert [reason for reason in found if says in reason.message]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"$": "red_ul +"}, "ends where a value is missing (at character 9)"),
        ({"$": "red_ul + 'a'"}, "the text `a` stands where a number is needed"),
        ({"$": "red_ul / 0"}, "division by zero"),
        ({"$": "blue_ul"}, "`blue_ul` is no parameter, no earlier step's result and no live reading"),
        ({"$": "red_uk"}, "did you mean `red_ul`?"),
        ({"$": "later.volume_ul"}, "is a result of step `later`, which has not run by then"),
        ({"$": "a.volume_ul"}, "is a result of step `a`, which has not run by then"),
        ({"$": "arm.speed"}, "`arm.speed` is no parameter"),
        ({"$": "arm.lid"}, "gives a string; a number is needed"),
        ({"$": "arm.ready"}, "gives a boolean; a number is needed"),
        ({"$": "arm.lid + 1"}, "a string stands where a number is needed"),
        ({"$": "kind"}, "Expected `float`, got `str`"),
        ({"$": "red_ul - 40"}, "> 0.0"),
        ({"$": "red_ul", "x": 1}, "with nothing beside it"),
        ({"$": 7}, "with nothing beside it"),
        ({"$": "huge * 1.0"}, "not finite"),
        ([{"$": "red_ul"}], "Expected `float`, got `array`"),
        ({"volume": 3}, "Expected `float`, got `object`"),
    ],
)
def test_expressions_that_give_nothing(value: Any, says: str) -> None:
    found = reasons(
        draw("a", value), draw("later", 1), parameters={"red_ul": 30, "kind": "x", "huge": 10**305}
    )
    assert list(found) == ["steps[0].args.volume_ul"]
    assert says in found["steps[0].args.volume_ul"]


def test_constants_are_folded_and_checked_like_plain_values() -> None:
    found = reasons(draw("a", {"$": "2 * 400"}), draw("b", {"$": "share * 1500"}), parameters={"share": 0.5})
    assert "pump would hold 800 µl" in found["steps[0].args.volume_ul"]
    assert set(found) == {"steps[0].args.volume_ul", "steps[1].args.volume_ul"}
    target = {"$": "where"}
    assert "no well `plate-1/Z99`" in str(reasons(put("a", 1, target), parameters={"where": "plate-1/Z99"}))


def test_live_readings_have_types_and_no_value_yet() -> None:
    compiled = accepted(poke("a", {"$": "max(arm.temperature_c, 1)"}))
    argument = compiled.steps[0].args["depth_mm"]
    assert argument.expression is not None
    assert argument.expression.names() == {"arm.temperature_c"}


@pytest.mark.parametrize(
    ("head", "steps", "path"),
    [
        ({"parameters": {"pump": 1}}, [poke("a")], "parameters.pump"),
        ({}, [poke("pump")], "steps[0].id"),
        ({"parameters": {"a": 1}}, [poke("a")], "steps[0].id"),
    ],
)
def test_names_share_one_namespace(head: dict[str, Any], steps: list[dict[str, Any]], path: str) -> None:
    found = reasons(*steps, **head)
    assert list(found) == [path]
    assert "is already" in found[path]


def test_volumes_are_followed_through_the_whole_plan() -> None:
    found = reasons(
        draw("a", 400),
        put("b", 200),
        put("c", 200),
        draw("d", 500),
        put("e", 500, "trough/A1"),
        draw("f", 400),
        put("g", 30),
    )
    assert found == {
        "steps[2].args.volume_ul": "plate-1/A1 would overflow: 400 µl in a well of 360 µl",
        "steps[6].args.volume_ul": "plate-1/A1 would overflow: 430 µl in a well of 360 µl",
    }


def test_labware_is_followed_too() -> None:
    away = step("away", "arm", "place", labware="plate-1", to="nest-2")
    found = reasons(draw("a", 100), away, put("b", 50))
    assert "does not reach plate-1/A1" in found["steps[2].args.target"]
    shifted = step("shift", "arm", "place", labware="plate-1", to="nozzle-1", well="B3")
    accepted(draw("a", 100), shifted, put("b", 50, "plate-1/B3"))


def test_amounts_of_the_run_time_are_booked_at_run_time() -> None:
    accepted(draw("a", {"$": "arm.temperature_c"}), draw("b", 5000))
    assert reasons(draw("b", 5000), draw("a", {"$": "arm.temperature_c"}))


def test_the_checked_inventory_is_not_changed() -> None:
    inventory = Inventory.initial(MODEL)
    plan, _ = parse(
        json.dumps(
            {"schema": "labedge.plan/1", "plan_id": "p", "cell": "bench-1", "steps": [draw("a", 100)]}
        ).encode()
    )
    assert check(plan, MODEL, inventory, NOW)[1] == []
    assert inventory == Inventory.initial(MODEL)


def test_reasons_keep_the_numbers_of_the_payload() -> None:
    found = reasons({"id": 7}, poke("a"), step("b", "pumb", "draw"), poke("arm"))
    assert {"steps[2].device", "steps[3].id"} <= set(found)
    assert not any(path.startswith("steps[1]") for path in found)


def test_thousands_of_mistakes_in_a_long_plan_end_soon() -> None:
    good = [poke(f"good_{n}") for n in range(3_000)]
    bad = [poke(f"bad_{n}", {"$": f"god_{n}.volume_ul"}) for n in range(3_000)]
    began = time.process_time()
    _, found = judged(*good, *bad)
    assert time.process_time() - began < 10.0
    assert len(found) == MAX_REASONS + 1
    assert max(len(reason.message) for reason in found) < 2_000


def test_a_long_plan_of_expressions_takes_time_in_proportion_to_its_length() -> None:
    def seconds(count: int) -> float:
        steps = [poke("s0")] + [poke(f"s{n}", {"$": f"s{n - 1}.volume_ul"}) for n in range(1, count)]
        began = time.process_time()
        accepted(*steps)
        return time.process_time() - began

    seconds(100)
    assert seconds(8_000) < 24 * max(seconds(1_000), 0.01)


def test_arguments_at_run_time() -> None:
    compiled = accepted(poke("a"), poke("b", {"$": "a.volume_ul + 1"})).steps[1]
    args, wrong = resolve(compiled, {"a.volume_ul": 2.0}.__getitem__)
    assert (args, wrong) == (Poke(depth_mm=3.0), [])
    args, (reason,) = resolve(compiled, {"a.volume_ul": 200.0}.__getitem__)
    assert args is None
    assert "<= 100" in reason.message
    args, (reason,) = resolve(compiled, {"a.volume_ul": "text"}.__getitem__)
    assert reason == Reason(
        "args.depth_mm", "the text `text` stands where a number is needed (at character 1)"
    )

    def nothing(name: str) -> Any:
        raise LookupError(f"step of `{name}` failed")

    args, (reason,) = resolve(compiled, nothing)
    assert reason == Reason("args.depth_mm", "step of `a.volume_ul` failed")


def test_estimates_where_the_arguments_are_known() -> None:
    assert accepted(poke("a", 7), poke("b", {"$": "a.volume_ul"})).estimates == (7.0, None)


def test_the_types_that_expressions_know() -> None:
    assert field_kinds(Look) == {"times": "number"}
    assert field_kinds(Bot.Readings) == {"temperature_c": "number", "lid": "string", "ready": "boolean"}
    assert MODEL.result_kinds("pump", "look") == {
        "absorbance": "number",
        "label": "string",
        "spectrum": "list",
    }
    assert MODEL.result_kinds("pump", "empty") == MODEL.result_kinds("none", "look") == {}
    assert MODEL.has_frame("nest-1")
    assert not MODEL.has_frame("nozzle-1")


def test_a_cell_without_anything() -> None:
    bare = CellModel(cell_of(Path("x"), devices={}, labware={}, positions={"shelf": PositionConfig()}))
    assert "there is none" in reasons(draw("a", 1), model=bare)["steps[0].device"]
    alone = CellModel(cell_of(Path("x"), devices={"pump": {}}, labware={}, positions={}))
    assert "labware: none" in reasons(draw("a", 1), model=alone)["steps[0].args.source"]
