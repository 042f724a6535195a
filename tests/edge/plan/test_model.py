"""Plans as bytes: everything readable is read, every mistake has its path, nothing else happens."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.plan.model import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_REASONS,
    MAX_STEPS,
    OnError,
    Plan,
    Reason,
    Unreadable,
    nesting,
    parse,
)

STEP = {"id": "a", "device": "pump", "operation": "draw"}


def plan(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"schema": "labedge.plan/1", "plan_id": "p-1", "cell": "bench-1", "steps": [STEP]}
    return {key: value for key, value in (base | changes).items() if value is not ...}


def mistakes(**changes: Any) -> dict[str, str]:
    _, reasons = parse(json.dumps(plan(**changes)).encode())
    return {reason.path: reason.message for reason in reasons}


def step_mistakes(**changes: Any) -> dict[str, str]:
    step = {key: value for key, value in (STEP | changes).items() if value is not ...}
    return mistakes(steps=[step])


def test_a_whole_plan() -> None:
    steps = [
        STEP
        | {
            "args": {"volume_ul": {"$": "red_ul"}},
            "record": True,
            "timeout_s": 2.5,
            "on_error": {"retry": 2, "backoff_s": 1, "then": "skip"},
        },
        STEP | {"id": "b"},
    ]
    found, reasons = parse(
        json.dumps(
            plan(
                steps=steps,
                name="mix",
                issued_at="2026-01-01T00:00:00Z",
                expires_at="2026-01-01T02:00:00+01:00",
                priority=-3,
                metadata={"campaign": {"n": [1, {"deep": None}]}},
                parameters={"red_ul": 30, "kind": "a", "wet": True},
                order="dataflow",
            )
        ).encode()
    )
    assert reasons == []
    assert (found.plan_id, found.cell, found.name, found.priority) == ("p-1", "bench-1", "mix", -3)
    assert found.expires_at == datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert found.order == "dataflow"
    first, second = found.steps
    assert first.args == {"volume_ul": {"$": "red_ul"}}
    assert (first.record, first.timeout_s, first.on_error) == (True, 2.5, OnError(2, 1.0, "skip"))
    assert (second.record, second.timeout_s, second.on_error.then) == (False, None, "hold")


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not JSON"),
        (b"not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'"\xff"', "not JSON"),
        (b'{"plan_id": "p"', "not JSON"),
        (b'{"plan_id": "p", "name": "\\ud800"}', "not JSON"),
        (b'{"plan_id": "p", "priority": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "plan_id must be"),
        (b'{"plan_id": 7}', "plan_id must be"),
        (b'{"plan_id": "p/1"}', "plan_id must be"),
        (b'{"plan_id": "p\\n"}', "plan_id must be"),
        (b'{"plan_id": "%s"}' % (b"p" * 65), "plan_id must be"),
        (b"[" * (MAX_DEPTH + 1), "nested deeper"),
        (b" " * (MAX_BYTES + 1), "the limit is"),
    ],
)
def test_what_has_no_plan_id_is_unreadable(payload: bytes, says: str) -> None:
    with pytest.raises(Unreadable) as caught:
        parse(payload)
    assert says in caught.value.reasons[0].message


def test_the_bounds_themselves_are_allowed() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    payload = json.dumps(plan(metadata={"deep": deep}, plan_id="p" * 64)).encode()
    assert nesting(payload) == MAX_DEPTH
    found, reasons = parse(payload + b" " * (MAX_BYTES - len(payload)))
    assert (found.plan_id, reasons) == ("p" * 64, [])


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"schema": "labedge.plan/2"}, "schema", 'must be "labedge.plan/1"'),
        ({"schema": ...}, "schema", 'must be "labedge.plan/1"'),
        ({"cell": ...}, "cell", "names no cell"),
        ({"cell": ""}, "cell", "names no cell"),
        ({"cell": 7}, "cell", "Expected `str`"),
        ({"steps": ...}, "steps", "must be a list"),
        ({"steps": {}}, "steps", "must be a list"),
        ({"steps": []}, "steps", "has no steps"),
        ({"steps": [7]}, "steps[0]", "must be an object"),
        ({"numbers": [0]}, "numbers", "unknown key"),
        ({"stepz": []}, "stepz", "unknown key `stepz`; a plan has cell, expires_at"),
        ({"budget": {}}, "budget", "not built yet"),
        ({"order": "random"}, "order", "Invalid enum value"),
        ({"priority": "high"}, "priority", "Expected `int`"),
        ({"priority": 1_000_001}, "priority", "from -1000000 to 1000000"),
        ({"priority": 10**40}, "priority", "from -1000000 to 1000000"),
        ({"issued_at": "yesterday"}, "issued_at", "RFC3339"),
        ({"issued_at": "2026-01-01T00:00:00"}, "issued_at", "needs a time zone"),
        ({"expires_at": "2026-01-01T00:00:00"}, "expires_at", "needs a time zone"),
        ({"parameters": []}, "parameters", "Expected `object`"),
        ({"parameters": {"Red": 1}}, "parameters.Red", "must match"),
        ({"parameters": {"red": [1]}}, "parameters.red", "is a number, a string or a boolean"),
        ({"parameters": {"red": None}}, "parameters.red", "is a number, a string or a boolean"),
        ({"metadata": {"a.b": 1}}, "metadata.a.b", "must not be empty nor hold"),
        ({"metadata": {"a": [{"b/c": 1}]}}, "metadata.a[0].b/c", "must not be empty nor hold"),
        ({"metadata": {"": 1}}, "metadata.", "must not be empty nor hold"),
    ],
)
def test_mistakes_of_the_header(change: dict[str, Any], path: str, says: str) -> None:
    found = mistakes(**change)
    assert list(found) == [path]
    assert says in found[path]


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"id": ...}, "steps[0].id", "the step has no `id`"),
        ({"device": ...}, "steps[0].device", "the step has no `device`"),
        ({"operation": ...}, "steps[0].operation", "the step has no `operation`"),
        ({"id": "A"}, "steps[0].id", "must match"),
        ({"id": "a-b"}, "steps[0].id", "must match"),
        ({"id": "a\n"}, "steps[0].id", "must match"),
        ({"id": "a" * 65}, "steps[0].id", "must match"),
        ({"id": 7}, "steps[0].id", "Expected `str`"),
        ({"id": "phases"}, "steps[0].id", "choose another id"),
        ({"device": None}, "steps[0].device", "Expected `str`"),
        ({"args": []}, "steps[0].args", "Expected `object`"),
        ({"record": 1}, "steps[0].record", "Expected `bool`"),
        ({"timeout_s": 0}, "steps[0].timeout_s", "above 0"),
        ({"timeout_s": -1}, "steps[0].timeout_s", "above 0"),
        ({"timeout_s": 86_401}, "steps[0].timeout_s", "at most 86400"),
        ({"on_error": {"retry": -1}}, "steps[0].on_error.retry", "from 0 to 100"),
        ({"on_error": {"retry": 101}}, "steps[0].on_error.retry", "from 0 to 100"),
        ({"on_error": {"backoff_s": -1}}, "steps[0].on_error.backoff_s", "from 0 to 3600"),
        ({"on_error": {"then": "panic"}}, "steps[0].on_error", "Invalid enum value 'panic' - at `$.then`"),
        ({"on_error": {"if": 1}}, "steps[0].on_error", "unknown field `if`"),
        ({"retry": 3}, "steps[0].retry", "unknown key `retry`"),
        ({"repeat": {"count": 2}, "steps": []}, "steps[0].repeat", "repeat blocks are not built yet"),
        ({"wait": {"for_s": 5}}, "steps[0].wait", "waits are not built yet"),
        ({"if": "true"}, "steps[0].if", "conditions are not built yet"),
        ({"parallel": []}, "steps[0].parallel", "parallel blocks are not built yet"),
        ({"prompt": "Load"}, "steps[0].prompt", "prompts are not built yet"),
        ({"after": []}, "steps[0].after", "explicit order between steps are not built yet"),
        ({"touches": []}, "steps[0].touches", "declared touches are not built yet"),
    ],
)
def test_mistakes_of_a_step(change: dict[str, Any], path: str, says: str) -> None:
    found = step_mistakes(**change)
    assert path in found
    assert says in found[path]
    assert set(found) <= {path, "steps[0].steps"}


def test_every_mistake_at_once() -> None:
    bad = [STEP, STEP, {"id": "B", "device": 7}, STEP | {"id": "c", "timeout_s": 0, "typo": 1}]
    found = mistakes(schema=None, cell=..., steps=bad, priority="x", colour="red")
    assert set(found) == {
        "schema",
        "cell",
        "priority",
        "colour",
        "steps[1].id",
        "steps[2].id",
        "steps[2].device",
        "steps[2].operation",
        "steps[3].timeout_s",
        "steps[3].typo",
    }
    assert found["steps[1].id"] == "step id `a` is already used by steps[0]"


def test_a_mistaken_step_still_leaves_the_others() -> None:
    found, reasons = parse(json.dumps(plan(steps=[STEP, {"id": 1}, STEP | {"id": "c"}])).encode())
    assert [step.id for step in found.steps] == ["a", "c"]
    assert [found.path(index) for index in (0, 1)] == ["steps[0]", "steps[2]"]
    assert [reason.path for reason in reasons] == ["steps[1].id", "steps[1].device", "steps[1].operation"]


def test_very_many_and_very_long_mistakes_stay_a_short_answer() -> None:
    keys = {f"{'k' * 5000}{n}": n for n in range(MAX_REASONS + 50)}
    _, reasons = parse(json.dumps(plan(**keys)).encode())
    assert len(reasons) == MAX_REASONS + 1
    assert reasons[-1] == Reason("", "there are more mistakes like these; mend these first")
    assert max(len(reason.path) + len(reason.message) for reason in reasons) < 2_000
    assert reasons[0].path.startswith("kkk")
    assert reasons[0].path.endswith("k0")


def test_a_hundred_thousand_steps_and_not_one_more() -> None:
    steps = [STEP | {"id": f"s{n}"} for n in range(MAX_STEPS)]
    found, reasons = parse(json.dumps(plan(steps=steps)).encode())
    assert (len(found.steps), reasons) == (MAX_STEPS, [])
    steps.append(STEP | {"id": "one_more"})
    _, reasons = parse(json.dumps(plan(steps=steps)).encode())
    assert [reason.path for reason in reasons] == ["steps"]
    assert f"the limit is {MAX_STEPS}" in reasons[0].message


def reference_nesting(payload: bytes) -> int:
    depth = deepest = 0
    quoted = escaped = False
    for byte in payload:
        sign = chr(byte)
        if quoted:
            quoted = escaped or sign != '"'
            escaped = not escaped and sign == "\\"
        elif sign == '"':
            quoted, escaped = True, False
        elif sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if depth > MAX_DEPTH:
                return deepest
        elif sign in "]}":
            depth -= 1
    return deepest


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a", b"\n", b"\xff"])).map(b"".join))
def test_nesting_agrees_with_a_plain_scan(payload: bytes) -> None:
    assert nesting(payload) == reference_nesting(payload)


@pytest.mark.parametrize("piece", [b'"\\', b'"', b"\\", b'\\"', b"[]", b"a", b'"a"', b"]", b'["', b'"\\\\'])
def test_nesting_takes_time_in_proportion_to_length(piece: bytes) -> None:
    payload = (piece * 5_000_000)[:5_000_000]
    began = time.process_time()
    nesting(payload)
    nesting(b'"' + payload)
    assert time.process_time() - began < 5.0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
plan_keys = st.sampled_from(["schema", "cell", "name", "issued_at", "expires_at", "priority", "metadata"])
step_keys = st.sampled_from(["id", "device", "operation", "args", "record", "timeout_s", "on_error", "if"])
odd_plans = st.builds(
    lambda top, steps, parameters: plan(**top, steps=steps, parameters=parameters),
    st.dictionaries(plan_keys, values, max_size=4),
    values | st.lists(st.dictionaries(step_keys, values, max_size=6) | values, max_size=4),
    values,
)


def only_unreadable(payload: bytes) -> tuple[Plan, list[Reason]] | None:
    try:
        return parse(payload)
    except Unreadable as error:
        return None if error.reasons[0].message else pytest.fail("unreadable, and no word why")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_plan_or_unreadable(payload: bytes) -> None:
    only_unreadable(payload)


@settings(max_examples=200, deadline=None)
@given(values)
def test_any_json_is_a_plan_or_unreadable(value: Any) -> None:
    only_unreadable(json.dumps(value).encode())


@settings(max_examples=300, deadline=None)
@given(odd_plans)
def test_any_value_in_any_place_is_a_reason_with_a_path(value: dict[str, Any]) -> None:
    found = only_unreadable(json.dumps(value).encode())
    assert found is not None
    parsed, reasons = found
    assert parsed.plan_id == "p-1"
    assert all(reason.message for reason in reasons)
    roots = {reason.path.partition(".")[0].partition("[")[0] for reason in reasons}
    assert roots <= {*value, "steps", "parameters", "cell"}
