"""The interface on MQTT as data: which topic carries what, and the schemas of everything. Pure.

One table, from which the JSON Schemas (2020-12) and the AsyncAPI 3.0 document are generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edge.link import messages
from edge.link.topics import Topics
from edge.plan.model import ID, NAME, SCHEMA, Plan

Schema = dict[str, Any]

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.0.0"
PLAN = "Plan"
SENML = "SenMLPack"
COMPONENTS = "#/components/schemas/{name}"
LOCAL = "#/$defs/{name}"


@dataclass(frozen=True)
class Topic:
    """One topic of a cell."""

    name: str
    address: str
    sender: Literal["edge", "planner or operator"]
    payloads: tuple[str, ...]
    """Names of schemas."""
    summary: str
    qos: Literal[0, 1] = 1
    retained: bool = False


_T = Topics("{cell}")

TOPICS = (
    Topic("planSubmit", _T.submit, "planner or operator", (PLAN,), "A plan to run."),
    Topic("planCheck", _T.check, "planner or operator", (PLAN,), "A plan to check and not to run."),
    Topic("command", _T.command, "planner or operator", ("Command",), "What is to be done with cell or run."),
    Topic(
        "reply", _T.reply("{id}"), "edge", ("Verdict", "Reply"), "Answer to the plan or command of this id."
    ),
    Topic(
        "runStatus",
        _T.run_status("{plan_id}"),
        "edge",
        ("RunStatus",),
        "State of an accepted run.",
        retained=True,
    ),
    Topic("runDocuments", _T.documents("{plan_id}"), "edge", ("Document",), "The run as Bluesky documents."),
    Topic(
        "cellStatus",
        _T.cell_status,
        "edge",
        ("CellStatus", "Offline"),
        "State of the cell; Offline is the last will.",
        retained=True,
    ),
    Topic(
        "cellCapabilities",
        _T.capabilities,
        "edge",
        ("Capabilities",),
        "Devices, operations, positions, limits.",
        retained=True,
    ),
    Topic(
        "cellInventory",
        _T.inventory,
        "edge",
        ("InventoryStatus",),
        "Labware and what is in it.",
        retained=True,
    ),
    Topic("telemetry", _T.telemetry("{device}"), "edge", (SENML,), "Live readings of a device.", qos=0),
    Topic("alarm", _T.alarm, "edge", ("Alarm",), "An alarm at each change of its state."),
)

_PARAMETERS = {
    "cell": "The cell's id.",
    "id": "plan_id of a plan, id of a command; sha256-<hex of the payload> where it could not be read.",
    "plan_id": "The plan's id.",
    "device": "The device's name in the cell file.",
}


def schema(name: str) -> Schema:
    """One payload's JSON Schema, self-contained. Raises KeyError for a name that `names` does not have."""
    every = _schemas(LOCAL)
    top = every.pop(name)
    needed = _needed(top, every)
    head: Schema = {"$schema": JSON_SCHEMA, "title": name}
    return head | top | ({"$defs": {one: every[one] for one in sorted(needed)}} if needed else {})


def names() -> list[str]:
    """Every payload that has a schema, in the order of the topics."""
    return list(dict.fromkeys(name for topic in TOPICS for name in topic.payloads))


def asyncapi(version: str) -> Schema:
    """The AsyncAPI 3.0 document of this version of labedge."""
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "labedge cell",
            "version": version,
            "description": "A laboratory cell on MQTT: plans and commands in, status and data out.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {f"{_verb(topic)}.{topic.name}": _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {name: _message(name) for name in names()},
            "schemas": _schemas(COMPONENTS),
        },
    }


def _verb(topic: Topic) -> str:
    """Seen from the cell."""
    return "send" if topic.sender == "edge" else "receive"


def _channel(topic: Topic) -> Schema:
    parameters = {
        key: {"description": text} for key, text in _PARAMETERS.items() if f"{{{key}}}" in topic.address
    }
    return {
        "address": topic.address,
        "summary": topic.summary,
        "parameters": parameters,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in topic.payloads},
    }


def _operation(topic: Topic) -> Schema:
    return {
        "action": _verb(topic),
        "summary": topic.summary,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{name}"} for name in topic.payloads],
        "bindings": {"mqtt": {"qos": topic.qos, "retain": topic.retained, "bindingVersion": "0.2.0"}},
    }


def _message(name: str) -> Schema:
    kind = "application/senml+json" if name == SENML else "application/json"
    return {"name": name, "contentType": kind, "payload": {"$ref": COMPONENTS.format(name=name)}}


class SenMLRecord(msgspec.Struct, omit_defaults=True):
    """A SenML record (RFC 8428, 4); the first of a pack has the base name and time."""

    n: str
    bn: str | msgspec.UnsetType = msgspec.UNSET
    bt: float | msgspec.UnsetType = msgspec.UNSET
    u: str | msgspec.UnsetType = msgspec.UNSET
    v: float | msgspec.UnsetType = msgspec.UNSET
    vs: str | msgspec.UnsetType = msgspec.UNSET
    vb: bool | msgspec.UnsetType = msgspec.UNSET


def _schemas(reference: str) -> dict[str, Schema]:
    """Every schema by name, referring to each other as `reference` says."""
    structs = [getattr(messages, name) for name in names() if name not in (PLAN, SENML)]
    _, found = msgspec.json.schema_components([*structs, Plan, SenMLRecord], ref_template=reference)
    record = found.pop("SenMLRecord")
    found[SENML] = {"type": "array", "items": record, "minItems": 1, "description": "SenML (RFC 8428)."}
    _plan_rules(found)
    return found


def _plan_rules(found: dict[str, Schema]) -> None:
    """What the plan's parser demands beyond the types of its fields."""
    plan, step = found[PLAN], found["Step"]
    del plan["properties"]["numbers"]  # the parser's own note, no key of a payload
    plan["properties"] = {"schema": {"const": SCHEMA}, **plan["properties"]}
    plan["required"] = ["schema", *plan["required"]]
    plan["additionalProperties"] = False
    identifier, name = (f"^{rule.pattern.removesuffix(chr(92) + 'Z')}$" for rule in (ID, NAME))
    for key in ("plan_id", "cell"):
        plan["properties"][key] = plan["properties"][key] | {"pattern": identifier}
    plan["properties"]["parameters"] |= {"propertyNames": {"pattern": name}}
    plan["properties"]["steps"] |= {"minItems": 1}
    step["properties"]["id"] = step["properties"]["id"] | {"pattern": name}


def _needed(schema_: Any, every: dict[str, Schema]) -> set[str]:
    """Names of the schemas that one refers to, directly or not."""
    found: set[str] = set()
    waiting = [schema_]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(every[name])
    return found
