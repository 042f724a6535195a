"""Payloads as the contract writes them, in both directions, and schemas that agree with what is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest

from drivers.api import inline_schema
from edge.link.messages import (
    Alarm,
    CellStatus,
    Command,
    Document,
    Offline,
    Reason,
    Reply,
    RunStatus,
    StepCounts,
    Verdict,
    WaitingFor,
    utc_now,
)
from edge.link.topics import Topics

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUN = RunStatus(
    plan_id="p",
    run_uid="u",
    state="Held",
    steps=StepCounts(total=4, finished=1, in_doubt=1),
    current=["mix[2]/draw"],
    waiting_for=[WaitingFor("draw", "in_doubt", "no answer")],
    eta_s=None,
    reason="why",
    updated_at=NOW,
)


def wire(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_the_contracts_answers() -> None:
    assert wire(Verdict("p", "rejected", [Reason("steps[3].args.volume_ul", "too much")])) == {
        "plan_id": "p",
        "verdict": "rejected",
        "reasons": [{"path": "steps[3].args.volume_ul", "message": "too much"}],
    }
    assert wire(Verdict("p", "accepted")) == {"plan_id": "p", "verdict": "accepted", "reasons": []}
    assert wire(Reply("c", "done")) == {"id": "c", "result": "done", "reasons": []}
    assert wire(Document(3, "stop", {"uid": "x"})) == {"seq": 3, "name": "stop", "doc": {"uid": "x"}}
    assert wire(Offline()) == {"online": False}


def test_a_runs_status_has_what_the_contract_names() -> None:
    status = wire(RUN)
    assert set(status) >= {
        "plan_id",
        "run_uid",
        "state",
        "steps",
        "current",
        "waiting_for",
        "eta_s",
        "reason",
        "updated_at",
    }
    assert status["steps"] == {"total": 4, "finished": 1, "failed": 0, "skipped": 0, "in_doubt": 1}
    assert status["waiting_for"] == [{"step": "draw", "kind": "in_doubt", "text": "no answer"}]
    assert status["updated_at"] == "2026-01-01T12:00:00Z"
    assert msgspec.json.decode(msgspec.json.encode(RUN), type=RunStatus) == RUN


def command(**changes: Any) -> Command:
    return msgspec.json.decode(json.dumps({"command": "hold", "id": "c-1"} | changes), type=Command)


def test_a_command_with_everything_and_with_almost_nothing() -> None:
    assert command() == Command("hold", "c-1")
    full = command(
        cell="bench-1",
        issued_at="2026-01-01T12:00:00Z",
        expires_at="2026-01-01T14:00:00+01:00",
        by="ann",
        args={"plan_id": "p"},
    )
    assert full.issued_at == NOW
    assert full.expires_at == NOW.replace(hour=13)
    assert (full.by, full.args) == ("ann", {"plan_id": "p"})


@pytest.mark.parametrize(
    "changes",
    [
        {"command": None},
        {"id": 7},
        {"args": []},
        {"expires": "2026-01-01T12:00:00Z"},
        {"issued_at": "yesterday"},
        {"issued_at": 1_767_225_600},
        {"by": None},
    ],
)
def test_a_command_that_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        command(**changes)


@pytest.mark.parametrize(
    "message",
    [
        Verdict("p", "accepted"),
        Reply("c", "failed", [Reason("", "why")]),
        RUN,
        msgspec.structs.replace(RUN, eta_s=1.5, waiting_for=[]),
        Alarm("run-held", "high", "run", "why", "unacknowledged", NOW),
        Document(0, "start", {"uid": "u"}),
        Offline(),
        Command("hold", "c", issued_at=NOW),
    ],
)
def test_schemas_agree_with_what_is_sent(message: msgspec.Struct) -> None:
    schema = inline_schema(type(message))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(wire(message), schema)
    wrong = {key: {"no": object} for key in wire(message)}
    assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


def test_a_cells_status_survives_the_wire() -> None:
    fields = {
        "online": True,
        "state": "Idle",
        "mode": "Produce",
        "session": "s",
        "run": None,
        "queue": ["p"],
        "alarms": 0,
        "devices": {"red": {"state": "ready", "driver": "bot"}},
    }
    known = {field.name for field in msgspec.structs.fields(CellStatus)}
    status = msgspec.convert(fields | ({"cell": "bench-1"} if "cell" in known else {}), CellStatus)
    assert wire(status)["devices"]["red"]["state"] == "ready"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wire(status) | {"devices": {"red": {"state": "asleep", "driver": "bot"}}}, CellStatus)


def test_stamps_are_utc() -> None:
    assert utc_now().tzinfo is UTC


def test_topics_are_the_contracts() -> None:
    topics = Topics("bench-1")
    assert (topics.submit, topics.check, topics.command) == (
        "labedge/v1/bench-1/plan/submit",
        "labedge/v1/bench-1/plan/check",
        "labedge/v1/bench-1/command",
    )
    assert topics.reply("p") == "labedge/v1/bench-1/reply/p"
    assert topics.run_status("p") == "labedge/v1/bench-1/run/p/status"
    assert topics.documents("p") == "labedge/v1/bench-1/run/p/documents"
    assert topics.telemetry("red") == "labedge/v1/bench-1/telemetry/red"
    assert (topics.cell_status, topics.capabilities, topics.inventory, topics.alarm) == (
        "labedge/v1/bench-1/cell/status",
        "labedge/v1/bench-1/cell/capabilities",
        "labedge/v1/bench-1/cell/inventory",
        "labedge/v1/bench-1/alarm",
    )
