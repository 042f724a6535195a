"""A plan as values: parsed from JSON, nothing checked against a cell yet.

Every mistake is collected with its path, because a planner that is told one mistake at a time
needs one night for each.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

import msgspec

SCHEMA = "labedge.plan/1"
MAX_BYTES = 16 * 1024 * 1024
MAX_STEPS = 100_000
MAX_DEPTH = 64
MAX_REASONS = 1_000
"""A plan with more mistakes is rejected with the first thousand and a line that says so."""
MAX_SAID = 600
"""Characters of a reason's path or sentence: they may quote the plan, but not all of it."""

ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
RESERVED = frozenset({"phases"})
"""Ids that no step can have: each recorded step is a stream of the run, and this one is ours."""

Then = Literal["hold", "stop", "abort", "skip", "continue"]

NOT_BUILT_PLAN_KEYS = {"budget": "budgets", "deadline_s": "deadlines of whole plans"}
NOT_BUILT_STEP_KEYS = {
    "repeat": "repeat blocks",
    "if": "conditions",
    "else": "conditions",
    "parallel": "parallel blocks",
    "wait": "waits",
    "prompt": "prompts",
    "steps": "blocks",
    "after": "explicit order between steps",
    "touches": "declared touches",
}


class Reason(msgspec.Struct, frozen=True):
    """Why a plan is rejected: where in the plan (`steps[3].args.volume_ul`) and a sentence."""

    path: str
    message: str


class OnError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What follows a step that did not finish.

    `retry` counts further attempts after the first, each after `backoff_s`; then `then`.
    """

    retry: int = 0
    backoff_s: float = 0.0
    then: Then = "hold"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One phase: an operation of a device. `args` holds plain values and `{"$": "expression"}`."""

    id: str
    device: str
    operation: str
    args: dict[str, Any] = {}
    record: bool = False
    timeout_s: float | None = None
    on_error: OnError = OnError()


class Plan(msgspec.Struct, frozen=True):
    """A parsed plan (contract section 4)."""

    plan_id: str
    cell: str
    steps: tuple[Step, ...]
    name: str = ""
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int = 0
    metadata: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    order: Literal["sequential", "dataflow"] = "sequential"
    numbers: tuple[int, ...] = ()
    """Where in the payload's list each of `steps` stands: those with mistakes are left out of `steps`."""

    def path(self, index: int) -> str:
        """Where the step `steps[index]` stands in the payload, as reasons have it."""
        return f"steps[{self.numbers[index] if self.numbers else index}]"


class Unreadable(Exception):
    """The payload is no plan at all: there is no `plan_id` to answer to."""

    def __init__(self, reasons: list[Reason]) -> None:
        super().__init__(reasons[0].message)
        self.reasons = reasons


class Reasons:
    """Collects reasons up to the bound."""

    def __init__(self) -> None:
        self.found: list[Reason] = []
        self.more = False
        """Whether some were left out; looking for still more is of no use then."""

    def add(self, path: str, message: str) -> None:
        if len(self.found) < MAX_REASONS:
            self.found.append(Reason(_short(path), _short(message)))
        else:
            self.more = True

    def all(self) -> list[Reason]:
        if self.more:
            return [*self.found, Reason("", "there are more mistakes like these; mend these first")]
        return self.found


def _short(text: str) -> str:
    return text if len(text) <= MAX_SAID else f"{text[: MAX_SAID - 20]} … {text[-16:]}"


def parse(payload: bytes) -> tuple[Plan, list[Reason]]:
    """Plan and the mistakes in its form.

    With mistakes the plan holds what could be read; it is only good for its `plan_id`.
    Raises Unreadable when not even that can be told.
    """
    raw = _decode(payload)
    reasons = Reasons()
    plan_id = raw.pop("plan_id", None)
    if not isinstance(plan_id, str) or not ID.match(plan_id):
        raise Unreadable([Reason("plan_id", "plan_id must be 1 to 64 of the characters A-Z a-z 0-9 _ -")])
    if raw.pop("schema", None) != SCHEMA:
        reasons.add("schema", f'schema must be "{SCHEMA}"; this cell knows no other version')
    numbered = _steps(raw.pop("steps", None), reasons)
    for key, what in NOT_BUILT_PLAN_KEYS.items():
        if key in raw:
            raw.pop(key)
            reasons.add(key, f"{what} are not built yet in this version; leave `{key}` out")
    fields: dict[str, Any] = {"plan_id": plan_id, "cell": ""}
    fields["numbers"], fields["steps"] = tuple(numbered), tuple(numbered.values())
    known = {f.name: f.type for f in msgspec.structs.fields(Plan) if f.name != "numbers"}
    for key, value in raw.items():
        if key in known:
            _take(fields, key, value, known[key], reasons)
        else:
            reasons.add(key, f"unknown key `{key}`; a plan has {', '.join(sorted(known))}")
    if raw.get("cell", "") == "":
        reasons.add("cell", "the plan names no cell")
    _check_header(fields, reasons)
    return Plan(**fields), reasons.all()


def _decode(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_BYTES:
        raise Unreadable([Reason("", f"the plan has {len(payload)} bytes; the limit is {MAX_BYTES}")])
    if nesting(payload) > MAX_DEPTH:
        raise Unreadable([Reason("", f"the plan is nested deeper than {MAX_DEPTH} levels")])
    try:
        raw = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable([Reason("", f"the plan is not JSON: {error}")]) from None
    if not isinstance(raw, dict):
        raise Unreadable([Reason("", "the plan is not a JSON object")])
    return raw


# possessive, and with an optional closing quote, so that no input makes it look back
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def nesting(payload: bytes) -> int:
    """Depth of brackets outside strings; stops counting just above MAX_DEPTH."""
    depth = deepest = 0
    for token in _BRACKETS.finditer(payload):
        first = token.group()[0]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if depth > MAX_DEPTH:
                break
        elif first in b"]}":
            depth -= 1
    return deepest


def _take(fields: dict[str, Any], key: str, value: Any, kind: Any, reasons: Reasons) -> None:
    try:
        fields[key] = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reasons.add(key, f"{error}")


def _check_header(fields: dict[str, Any], reasons: Reasons) -> None:
    for key in ("issued_at", "expires_at"):
        moment = fields.get(key)
        if moment is not None and moment.tzinfo is None:
            reasons.add(key, f"{key} needs a time zone, as in 2026-01-01T00:00:00Z")
            fields[key] = None
    if not -1_000_000 <= fields.get("priority", 0) <= 1_000_000:
        reasons.add("priority", "priority must be from -1000000 to 1000000")
    for name, value in fields.get("parameters", {}).items():
        if not NAME.match(name):
            reasons.add(f"parameters.{name}", "a parameter's name must match [a-z][a-z0-9_]*")
        if not isinstance(value, (int, float, str, bool)):
            reasons.add(f"parameters.{name}", "a parameter is a number, a string or a boolean")
    _check_keys(fields.get("metadata", {}), "metadata", reasons)


def _check_keys(value: Any, path: str, reasons: Reasons) -> None:
    """The event model's start document takes no other keys."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_keys(item, f"{path}[{index}]", reasons)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key or "." in key or "/" in key:
                reasons.add(f"{path}.{key}", "a key of metadata must not be empty nor hold . or /")
            _check_keys(item, f"{path}.{key}", reasons)


def _steps(raw: Any, reasons: Reasons) -> dict[int, Step]:
    """By their number in the list."""
    if not isinstance(raw, list):
        reasons.add("steps", "steps must be a list")
        return {}
    if len(raw) > MAX_STEPS:
        reasons.add("steps", f"the plan has {len(raw)} steps; the limit is {MAX_STEPS}")
        return {}
    if not raw:
        reasons.add("steps", "the plan has no steps")
    seen: dict[str, int] = {}
    steps = {}
    for index, item in enumerate(raw):
        step = _step(item, f"steps[{index}]", reasons)
        if step is None:
            continue
        if step.id in seen:
            reasons.add(
                f"steps[{index}].id", f"step id `{step.id}` is already used by steps[{seen[step.id]}]"
            )
        seen.setdefault(step.id, index)
        steps[index] = step
    return steps


def _step(item: Any, path: str, reasons: Reasons) -> Step | None:
    before = len(reasons.found)
    try:
        step = msgspec.convert(item, Step)
    except msgspec.ValidationError as error:
        _explain(item, path, reasons)
        if len(reasons.found) == before:
            reasons.add(path, f"{error}")
        return None
    _check_step({"id": step.id, "timeout_s": step.timeout_s, "on_error": step.on_error}, path, reasons)
    return step if len(reasons.found) == before and not reasons.more else None


def _explain(item: Any, path: str, reasons: Reasons) -> None:
    """Key by key what is wrong with a step, since the conversion as a whole tells one mistake alone."""
    if not isinstance(item, dict):
        reasons.add(path, "a step must be an object")
        return
    blocks = [key for key in item if key in NOT_BUILT_STEP_KEYS]
    for key in blocks:
        reasons.add(f"{path}.{key}", f"{NOT_BUILT_STEP_KEYS[key]} are not built yet in this version")
    if blocks:
        return
    fields: dict[str, Any] = {}
    for key, value in item.items():
        if key not in _STEP_FIELDS:
            reasons.add(f"{path}.{key}", f"unknown key `{key}`; a step has {', '.join(_STEP_FIELDS)}")
            continue
        try:
            fields[key] = msgspec.convert(value, _STEP_FIELDS[key].type)
        except msgspec.ValidationError as error:
            reasons.add(f"{path}.{key}", f"{error}")
    for key, field in _STEP_FIELDS.items():
        if field.required and key not in item:
            reasons.add(f"{path}.{key}", f"the step has no `{key}`")
    _check_step(fields, path, reasons)


_STEP_FIELDS = {field.name: field for field in msgspec.structs.fields(Step)}


def _check_step(fields: dict[str, Any], path: str, reasons: Reasons) -> None:
    if "id" in fields and not NAME.match(fields["id"]):
        reasons.add(f"{path}.id", "a step's id must match [a-z][a-z0-9_]* and have at most 64 characters")
    elif fields.get("id") in RESERVED:
        reasons.add(f"{path}.id", f"`{fields['id']}` is the stream of every run's steps; choose another id")
    timeout = fields.get("timeout_s")
    if timeout is not None and not 0 < timeout <= 86_400:
        reasons.add(f"{path}.timeout_s", "timeout_s must be above 0 and at most 86400 seconds")
    on_error = fields.get("on_error", OnError())
    if not 0 <= on_error.retry <= 100:
        reasons.add(f"{path}.on_error.retry", "retry must be from 0 to 100")
    if not 0 <= on_error.backoff_s <= 3_600:
        reasons.add(f"{path}.on_error.backoff_s", "backoff_s must be from 0 to 3600 seconds")
