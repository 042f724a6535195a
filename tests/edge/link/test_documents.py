"""A run's documents against the event model's own JSON Schemas; restarts leave no gap and no second uid."""

from __future__ import annotations

import json
from typing import Any

import event_model
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.link.documents import PHASES, Phase, RunDocuments, data_key
from edge.link.messages import Document
from edge.plan.model import parse

HEAD = {
    "plan_id": "p-1",
    "plan_name": "mix",
    "cell": "bench-1",
    "metadata": {"campaign": "c", "nested": {"list": [1, {"a": None}]}},
    "parameters": {"red_ul": 30, "wet": True},
}


def phase(execution: str, outcome: str = "finished", at: float = 10.0) -> Phase:
    return Phase(execution, "pump", "draw", at - 1.5, at, outcome, 1, "")


def a_run(documents: RunDocuments) -> list[Document]:
    found = documents.start(HEAD, 1.0)
    for n in range(3):
        values = {"mass_g": 0.1 * n, "stable": True, "label": "ok", "count": n, "spectrum": [1.0, 2.0]}
        found += documents.reading("look", "scale", f"mix[{n}]/look", values, 2.0 + n)
        found += documents.phase(phase(f"mix[{n}]/look", at=2.5 + n))
    found += documents.reading("again", "scale", "again", {"mass_g": 1.0}, 9.0)
    return found + documents.stop("Complete", "", 10.0)


def validated(found: list[Document]) -> list[tuple[str, dict[str, Any]]]:
    """As they arrive over the wire, each checked by the event model's validator."""
    again: list[tuple[str, dict[str, Any]]] = [
        (each.name, json.loads(msgspec.json.encode(each.doc))) for each in found
    ]
    for name, doc in again:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    return again


def consistent(found: list[Document]) -> None:
    """What the schemas cannot say: references, counts, keys."""
    assert [each.seq for each in found] == list(range(len(found)))
    assert (found[0].name, found[-1].name) == ("start", "stop")
    uids = [each.doc["uid"] for each in found if each.name != "event"] + [
        each.doc["uid"] for each in found if each.name == "event"
    ]
    assert len(uids) == len(set(uids))
    streams: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for each in found:
        if each.name == "descriptor":
            assert each.doc["run_start"] == found[0].doc["uid"]
            assert each.doc["name"] not in counts
            streams[each.doc["uid"]] = each.doc
            counts[each.doc["name"]] = 0
        elif each.name == "event":
            stream = streams[each.doc["descriptor"]]
            counts[stream["name"]] += 1
            assert each.doc["seq_num"] == counts[stream["name"]]
            assert set(each.doc["data"]) == set(each.doc["timestamps"]) == set(stream["data_keys"])
    assert found[-1].doc["run_start"] == found[0].doc["uid"]
    assert found[-1].doc["num_events"] == counts


def test_a_whole_run_is_valid_and_consistent() -> None:
    found = a_run(RunDocuments("0" * 32))
    validated(found)
    consistent(found)
    start = found[0].doc
    assert (start["uid"], start["time"], start["plan_id"]) == ("0" * 32, 1.0, "p-1")
    events = [
        each.doc["data"] for each in found if each.name == "event" and "scale_mass_g" in each.doc["data"]
    ]
    assert [data["execution"] for data in events] == ["mix[0]/look", "mix[1]/look", "mix[2]/look", "again"]
    assert {each.doc["name"] for each in found if each.name == "descriptor"} == {"look", "again", PHASES}


def test_units_and_types_of_data_keys() -> None:
    documents = RunDocuments("u")
    documents.start(HEAD, 0.0)
    descriptor, _ = documents.reading(
        "look", "scale", "look", {"mass_g": 1.0, "stable": False, "label": "x", "n": 3, "spectrum": [1]}, 0.0
    )
    keys = descriptor.doc["data_keys"]
    assert keys["scale_mass_g"] == {
        "dtype": "number",
        "shape": [],
        "units": "g",
        "source": "device:scale",
        "object_name": "scale",
    }
    assert (keys["scale_stable"]["dtype"], keys["scale_label"]["dtype"]) == ("boolean", "string")
    assert (keys["scale_n"]["dtype"], keys["scale_spectrum"]["shape"]) == ("integer", [1])
    assert "units" not in keys["scale_n"]
    assert descriptor.doc["object_keys"] == {
        "scale": ["scale_mass_g", "scale_stable", "scale_label", "scale_n", "scale_spectrum"]
    }


@pytest.mark.parametrize(
    ("state", "status"), [("Complete", "success"), ("Stopped", "fail"), ("Aborted", "abort")]
)
def test_how_a_run_ended(state: str, status: str) -> None:
    documents = RunDocuments("u")
    found = [*documents.start(HEAD, 0.0), *documents.stop(state, "because", 1.0)]
    validated(found)
    consistent(found)
    assert (found[-1].doc["exit_status"], found[-1].doc["reason"]) == (status, "because")
    assert documents.stopped


def test_a_phase_says_all_of_an_execution() -> None:
    documents = RunDocuments("u")
    documents.start(HEAD, 0.0)
    _, event = documents.phase(Phase("a", "pump", "draw", 1.0, 2.5, "in_doubt", 3, "no answer"))
    assert event.doc["data"] == {
        "execution": "a",
        "device": "pump",
        "operation": "draw",
        "started_at": 1.0,
        "ended_at": 2.5,
        "outcome": "in_doubt",
        "attempts": 3,
        "reason": "no answer",
    }


@pytest.mark.parametrize("cut", range(12))
def test_a_resumed_run_goes_on_where_its_kept_documents_end(cut: int) -> None:
    """A restart after any document: the rest is what it would have been."""
    uninterrupted = a_run(RunDocuments("u"))
    kept = [
        msgspec.json.decode(msgspec.json.encode(document), type=Document) for document in uninterrupted[:cut]
    ]
    resumed = RunDocuments("u", kept)
    assert resumed.started == (cut > 0)
    assert not resumed.stopped
    found = list(kept)
    if not resumed.started:
        found += resumed.start(HEAD, 1.0)
    written = {json.dumps(each.doc["data"], sort_keys=True) for each in found if each.name == "event"}

    def unwritten(values: dict[str, Any]) -> bool:
        return json.dumps(values, sort_keys=True) not in written

    for n in range(3):
        values = {"mass_g": 0.1 * n, "stable": True, "label": "ok", "count": n, "spectrum": [1.0, 2.0]}
        data = {f"scale_{key}": value for key, value in values.items()}
        if unwritten(data | {"execution": f"mix[{n}]/look"}):
            found += resumed.reading("look", "scale", f"mix[{n}]/look", values, 2.0 + n)
        if unwritten(msgspec.structs.asdict(phase(f"mix[{n}]/look", at=2.5 + n))):
            found += resumed.phase(phase(f"mix[{n}]/look", at=2.5 + n))
    if unwritten({"scale_mass_g": 1.0, "execution": "again"}):
        found += resumed.reading("again", "scale", "again", {"mass_g": 1.0}, 9.0)
    found += resumed.stop("Complete", "", 10.0)
    consistent(found)
    assert [each.doc["uid"] for each in found] == [each.doc["uid"] for each in uninterrupted]


def test_a_stopped_run_is_known_as_stopped() -> None:
    kept = a_run(RunDocuments("u"))
    assert RunDocuments("u", kept).stopped


def test_runs_share_no_uid() -> None:
    first, second = ({each.doc["uid"] for each in a_run(RunDocuments(uid))} for uid in ("a", "b"))
    assert first.isdisjoint(second)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(True, "boolean"), ("x", "string"), (1, "integer"), (1.5, "number"), ([1], "array"), ((), "array")],
)
def test_dtypes(value: Any, dtype: str) -> None:
    assert data_key("d", "x", value)["dtype"] == dtype


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=6), values, max_size=4))
def test_the_metadata_of_every_accepted_plan_makes_a_valid_start(metadata: dict[str, Any]) -> None:
    step = {"id": "a", "device": "pump", "operation": "draw"}
    head = {"schema": "labedge.plan/1", "plan_id": "p", "cell": "c", "steps": [step], "metadata": metadata}
    plan, reasons = parse(json.dumps(head).encode())
    if not reasons:
        validated(RunDocuments("u").start(HEAD | {"metadata": plan.metadata}, 0.0))
