"""`labedge drivers`: what is installed, and everything a driver declares of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from drivers.api import Device, Operation, inline_schema, operations_of, unit_of
from edge.errors import LabedgeError
from edge.loader import BrokenDriver, driver, driver_names

Schema = dict[str, Any]


@click.command(epilog="Example: labedge drivers mt-sics")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the declarations as JSON.")
def drivers(name: str | None, as_json: bool) -> None:
    """List the installed drivers, or show one: options, operations, readings, safe state."""
    if name is not None:
        device = driver(name)
        _print(described(device)) if as_json else click.echo("\n".join(_page(device)))
        return
    found, broken = _load_all()
    if as_json:
        _print({device.driver: described(device) for device in found})
    else:
        width = max((len(device.driver) for device in found), default=0)
        for device in found:
            click.echo(f"{device.driver:{width}}  {device.title} ({device.grade})")
    for error in broken:
        click.echo(str(error), err=True)
    if not found:
        raise LabedgeError("No drivers are installed; install labedge with `pip install`.")


def _load_all() -> tuple[list[type[Device]], list[BrokenDriver]]:
    found, broken = [], []
    for name in driver_names():
        try:
            found.append(driver(name))
        except BrokenDriver as error:
            broken.append(error)
    return found, broken


def described(device: type[Device]) -> dict[str, Any]:
    """Everything a driver declares, as plain data with JSON Schemas."""
    return {
        "driver": device.driver,
        "title": device.title,
        "grade": device.grade,
        "safe_state": device.safe_state,
        "options": inline_schema(device.Options),
        "operations": {
            name: {
                "help": operation.help,
                "settles": operation.settles.value,
                "args": operation.schema(),
                "result": inline_schema(operation.result) if operation.result else None,
            }
            for name, operation in operations_of(device).items()
        },
        "readings": inline_schema(device.Readings),
    }


def _print(data: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(data)).decode())


def _page(device: type[Device]) -> Iterator[str]:
    yield f"{device.driver}: {device.title}"
    yield f"  grade: {device.grade}"
    yield f"  safe state: {device.safe_state}"
    yield ""
    yield "Options in the cell file:"
    yield from _fields(inline_schema(device.Options), "  ")
    yield ""
    yield "Operations:"
    for operation in operations_of(device).values():
        yield from _operation(operation)
    yield ""
    yield "Readings:"
    yield from _fields(inline_schema(device.Readings), "  ", results=True)


def _operation(operation: Operation) -> Iterator[str]:
    yield f"  {operation.name}: {operation.help}"
    yield f"    if the answer is lost: {operation.settles.value}"
    yield from _fields(operation.schema(), "    ")
    if operation.result is not None:
        yield "    result:"
        yield from _fields(inline_schema(operation.result), "      ", results=True)


def _fields(schema: Schema, indent: str, *, results: bool = False) -> Iterator[str]:
    """One line a field: name, what it takes, unit, whether it may be left out."""
    properties: dict[str, Schema] = schema.get("properties", {})
    width = max((len(name) for name in properties), default=0)
    for name, rule in properties.items():
        words = phrase(rule, schema.get("$defs", {}))
        unit = unit_of(name)
        parts = [words, unit if unit and not words.startswith(unit) else ""]
        if name in schema.get("required", []) and not results:
            parts.append("required")
        elif rule.get("default") not in (None, {}, []):
            parts.append(f"default {msgspec.json.encode(rule['default']).decode()}")
        yield f"{indent}{name:{width}}  {', '.join(part for part in parts if part)}"


_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "mapping",
    "null": "nothing",
}


def phrase(rule: Schema, definitions: dict[str, Schema]) -> str:
    """What a JSON Schema rule takes, in words."""
    if "$ref" in rule:
        return phrase(definitions[rule["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in rule:
        inner = (phrase(part, definitions) for part in rule["anyOf"] if part.get("type") != "null")
        return " or ".join(dict.fromkeys(inner))
    if "enum" in rule:
        return " | ".join(str(choice) for choice in rule["enum"])
    kind = rule.get("type")
    if kind == "array":
        return f"list of {phrase(rule.get('items', {}), definitions)}"
    words = rule.get("description") or _TYPES.get(kind or "", "anything")
    if kind == "object" and rule.get("properties"):
        inside = ", ".join(
            f"{name}: {phrase(part, definitions)}" for name, part in rule["properties"].items()
        )
        words = f"{{{inside}}}"
    return words + _bounds(rule)


def _bounds(rule: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {rule[key]:g}" for key, sign in signs.items() if key in rule]
    return f", {', '.join(bounds)}" if bounds else ""
