"""The generated schemas: valid themselves, and what really goes over the wire validates against them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from edge.cli import main
from edge.client import plan, step
from edge.link import messages
from edge.link.interface import TOPICS, asyncapi, names, schema
from edge.link.senml import pack
from edge.link.topics import Topics
from edge.plan.model import Reason, Unreadable, parse

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = plan(
    "bench-1",
    [
        step("prime", "red", "initialize"),
        step("draw", "red", "aspirate", source="reservoir/A1", volume_ul={"$": "red_ul"})
        | {"timeout_s": 20, "on_error": {"retry": 2, "backoff_s": 1, "then": "hold"}},
        step("read", "reader", "measure", record=True),
    ],
    name="colour mix 12",
    priority=0,
    metadata={"campaign": "colour-match"},
    parameters={"red_ul": 30},
    order="sequential",
)
EXAMPLES: dict[str, Any] = {
    "Plan": PLAN,
    "Command": messages.Command("hold", "c1", "bench-1", NOW, NOW, "somebody", {}),
    "Verdict": messages.Verdict("p1", "rejected", [messages.Reason("steps[0]", "why")]),
    "Reply": messages.Reply("c1", "done"),
    "RunStatus": messages.RunStatus(
        "p1",
        "u1",
        "Held",
        messages.StepCounts(3, finished=1),
        ["draw"],
        [messages.WaitingFor("draw", "in_doubt", "who knows")],
        None,
        "",
        NOW,
    ),
    "Document": messages.Document(0, "start", {"uid": "u1", "time": 1.0}),
    "CellStatus": messages.CellStatus(
        True, "Idle", "Produce", "s1", None, [], 0, {"red": messages.DeviceStatus("ready", "cavro-xcalibur")}
    ),
    "Offline": messages.Offline(),
    "Capabilities": messages.Capabilities(
        "bench-1",
        {
            "red": messages.DeviceCapability(
                "cavro-xcalibur",
                {"aspirate": messages.OperationCapability("draws", {}, None, "query", [{"does": "draws"}])},
                {},
                "stands still",
                "simulated",
            )
        },
        ["nest-1"],
        {"plate-1": "sbs-96"},
        messages.Limits(1, 1, 1, 1),
    ),
    "InventoryStatus": messages.InventoryStatus(
        {
            "plate-1": messages.LabwareInventory(
                "sbs-96", None, {"A1": messages.WellInventory(1.0, {"water": 1.0})}
            )
        },
        {},
        NOW,
    ),
    "SenMLPack": pack("bench-1", "scale", {"mass_g": 1.5, "stable": True}, 1e9),
    "Alarm": messages.Alarm("a1", "high", "red", "gone", "unacknowledged", NOW),
}


def _check(name: str, value: Any) -> None:
    Draft202012Validator(schema(name)).validate(msgspec.to_builtins(value))


@pytest.mark.parametrize("name", names())
def test_a_schema_is_valid_and_takes_what_is_sent(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    _check(name, EXAMPLES[name])


def test_the_plan_is_one_that_the_parser_takes() -> None:
    _, reasons = parse(json.dumps(PLAN).encode())
    assert reasons == []


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "labedge.plan/2"},
        {"plan_id": "no blanks"},
        {"cell": 7},
        {"steps": []},
        {"steps": [{"id": "UPPER", "device": "red", "operation": "x"}]},
        {"steps": [{"id": "a", "device": "red", "operation": "x", "surprise": 1}]},
        {"surprise": 1},
        {"numbers": [0]},
        {"parameters": {"Red": 1}},
    ],
)
def test_schema_and_parser_refuse_the_same(change: dict[str, Any]) -> None:
    wrong = PLAN | change
    with pytest.raises(jsonschema.ValidationError):
        _check("Plan", wrong)
    assert _reasons(wrong)


def _reasons(wrong: dict[str, Any]) -> list[Reason]:
    try:
        return parse(json.dumps(wrong).encode())[1]
    except Unreadable as error:
        return error.reasons


def test_every_struct_of_the_messages_has_its_schema() -> None:
    structs = {
        name
        for name, kind in vars(messages).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    defined = set(asyncapi("0")["components"]["schemas"])
    assert structs <= defined


def test_every_topic_of_a_cell_is_in_the_document() -> None:
    topics = Topics("{cell}")
    fixed = {value for key, value in vars(topics).items() if key != "base"}
    made = {topics.reply("{id}"), topics.run_status("{plan_id}"), topics.documents("{plan_id}")}
    assert {topic.address for topic in TOPICS} == fixed | made | {topics.telemetry("{device}")}


def test_the_asyncapi_document_refers_only_to_what_is_there() -> None:
    document = asyncapi("1.2.3")
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["version"] == "1.2.3"
    for reference in _references(document):
        part = document
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]
        assert part
    for channel in document["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
    for name, each in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(each)
        assert name


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [found for value in part.values() for found in _references(value)]
    if isinstance(part, list):
        return [found for value in part for found in _references(value)]
    return []


def test_abort_has_the_retain_flag_of_nothing_and_telemetry_no_guarantee() -> None:
    operations = asyncapi("0")["operations"]
    assert operations["receive.command"]["bindings"]["mqtt"] == {
        "qos": 1,
        "retain": False,
        "bindingVersion": "0.2.0",
    }
    assert operations["send.telemetry"]["bindings"]["mqtt"]["qos"] == 0
    assert operations["send.runStatus"]["bindings"]["mqtt"]["retain"] is True


def test_the_command_prints_them() -> None:
    run = CliRunner().invoke
    assert run(main, ["schema"]).output.split() == names()
    assert json.loads(run(main, ["schema", "Plan"]).output) == schema("Plan")
    assert json.loads(run(main, ["schema", "--asyncapi"]).output)["channels"]["alarm"]
    wrong = run(main, ["schema", "Paln"])
    assert wrong.exit_code == 2
    assert "did you mean Plan?" in wrong.output
    assert run(main, ["schema", "Plan", "--asyncapi"]).exit_code == 2
