"""Every installed driver keeps the promises that validation, capabilities, help and dry run rest upon."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import jsonschema
import msgspec
import pytest

from drivers.api import (
    Device,
    Effect,
    LineUse,
    Operation,
    Options,
    Outlet,
    inline_schema,
    kinds_of,
    operations_of,
)
from protocols.links import Links

ENTRIES = sorted(entry_points(group="labedge.drivers"), key=lambda entry: entry.name)
DEVICES: dict[str, type[Device]] = {}
for entry in ENTRIES:
    try:
        DEVICES[entry.name] = entry.load()
    except ImportError:
        continue  # test_it_loads tells
OPERATIONS = [(name, operation) for name in DEVICES for operation in operations_of(DEVICES[name]).values()]

SAMPLES: dict[str, dict[str, Any]] = {
    "cavro-xcalibur": {
        "port": "/dev/ttyUSB0",
        "syringe_ul": 1000,
        "ports": {1: "reservoir/A1", 2: {"over": "nozzle-1"}},
    },
    "mt-sics": {"port": "/dev/ttyUSB1"},
    "hamilton-arc-ph": {"port": "/dev/ttyUSB2"},
    "universal-robots": {"port": "tcp://10.0.0.5:502"},
    "lads-photometer": {"port": "opc.tcp://10.0.0.9:4840"},
}
"""An entry of a cell file for each driver, without `driver`."""

ARGUMENTS = {"well": "plate-1/B2", "labware": "plate-1", "position": "nest-1"}


@pytest.fixture(params=sorted(DEVICES))
def device(request: pytest.FixtureRequest) -> type[Device]:
    return DEVICES[request.param]


@pytest.fixture(params=[pytest.param(pair, id=f"{pair[0]}-{pair[1].name}") for pair in OPERATIONS])
def declared(request: pytest.FixtureRequest) -> tuple[type[Device], Operation]:
    name, operation = request.param
    return DEVICES[name], operation


def sample_options(device: type[Device]) -> Any:
    assert device.driver in SAMPLES, f"add an entry for {device.driver} to SAMPLES"
    return msgspec.convert({"driver": device.driver, **SAMPLES[device.driver]}, device.Options)


def sample(rule: dict[str, Any]) -> Any:
    """A value that a JSON Schema allows, as far as argument schemas go."""
    if "default" in rule and rule["default"] is not None:
        return rule["default"]
    rule = next((one for one in rule.get("anyOf", []) if one.get("type") != "null"), rule)
    if "enum" in rule:
        return rule["enum"][0]
    if "x-labedge" in rule:
        return ARGUMENTS[rule["x-labedge"]]
    match rule["type"]:
        case "number" | "integer":
            low = rule.get("minimum", rule.get("exclusiveMinimum", 0))
            high = rule.get("maximum", rule.get("exclusiveMaximum", low + 2))
            return math.ceil((low + high) / 2) if rule["type"] == "integer" else (low + high) / 2
        case "boolean":
            return True
        case "array":
            return [sample(rule["items"])] * max(1, rule.get("minItems", 1))
        case "string":
            return "A1" if "A-Z" in rule.get("pattern", "") else "a"
    raise AssertionError(f"no sample for {rule}")


def sample_args(operation: Operation) -> Any:
    properties = operation.schema()["properties"]
    return msgspec.convert({name: sample(rule) for name, rule in properties.items()}, operation.args)


def simple_types(hint: Any) -> set[Any]:
    if get_origin(hint) in (Union, UnionType):
        return {kind for option in get_args(hint) for kind in simple_types(option)}
    if get_origin(hint) is list:
        return {kind for option in get_args(hint) for kind in simple_types(option)}
    return {hint}


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_it_loads(entry: EntryPoint) -> None:
    loaded = entry.load()
    assert issubclass(loaded, Device)
    assert loaded.driver == entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_its_page_cites_a_source(entry: EntryPoint) -> None:
    page = importlib.import_module(entry.module).__doc__ or ""
    assert re.search(r"\bSources?:", page), f"{entry.module} says nothing of its manual"


def test_it_says_what_it_is(device: type[Device]) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9-]*", device.driver)
    assert device.title
    assert device.safe_state.endswith(".")
    assert device.grade in ("simulated", "bench", "proven")
    assert not inspect.isabstract(device)


def test_its_options_are_strict_and_have_a_schema(device: type[Device]) -> None:
    assert issubclass(device.Options, Options)
    assert inline_schema(device.Options)["additionalProperties"] is False
    options = sample_options(device)
    with pytest.raises(AttributeError, match="immutable"):
        options.port = "elsewhere"


def test_its_line_and_its_outlets(device: type[Device]) -> None:
    options = sample_options(device)
    assert isinstance(device.line(options), LineUse)
    assert all(isinstance(outlet, Outlet) for outlet in device.outlets(options))
    assert bool(device.outlets(options)) == (device.vessel_ul(options) > 0)


def test_its_readings_are_plain(device: type[Device]) -> None:
    hints = get_type_hints(device.Readings)
    assert hints
    for name, hint in hints.items():
        assert simple_types(hint) <= {float, int, str, bool, NoneType}, name


def test_it_has_operations(device: type[Device]) -> None:
    assert operations_of(device)


def test_what_needs_a_query_to_settle_has_one(device: type[Device]) -> None:
    asks = any(operation.settles is Effect.QUERY for operation in operations_of(device).values())
    assert asks == (device.settle is not Device.settle)


async def test_halt_before_open_neither_waits_nor_raises(device: type[Device]) -> None:
    options = sample_options(device)
    links = Links()
    made = device("thing", options, links)
    assert not inspect.iscoroutinefunction(made.halt)
    made.halt()
    await made.close()
    await links.close()


def test_an_operation_is_named_and_explained(declared: tuple[type[Device], Operation]) -> None:
    _, operation = declared
    assert re.fullmatch(r"[a-z][a-z0-9_]*", operation.name)
    assert operation.help.endswith((".", ";"))
    assert isinstance(operation.settles, Effect)
    assert list(inspect.signature(operation.method).parameters) == ["self", "args", "attempt"]


def test_an_operation_has_a_strict_schema(declared: tuple[type[Device], Operation]) -> None:
    _, operation = declared
    schema = operation.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert "$ref" not in str(schema) or "$defs" in schema
    jsonschema.validate(msgspec.to_builtins(sample_args(operation)), schema)


def test_an_operation_tells_how_long_it_takes(declared: tuple[type[Device], Operation]) -> None:
    device, operation = declared
    seconds = operation.estimate_s(sample_options(device), sample_args(operation))
    assert math.isfinite(seconds)
    assert seconds > 0


def test_an_operation_touches_what_its_arguments_name(declared: tuple[type[Device], Operation]) -> None:
    _, operation = declared
    arguments = set(operation.schema()["properties"])
    touched: set[str] = set()
    for touch in operation.touches:
        touched |= set(asdict(touch).values())
    assert touched <= arguments
    # An argument that names a thing of the cell and is not touched would escape the book-keeping.
    assert set(kinds_of(operation.args)) <= touched


def test_a_result_is_plain(declared: tuple[type[Device], Operation]) -> None:
    _, operation = declared
    if operation.result is None:
        return
    for name, hint in get_type_hints(operation.result).items():
        assert simple_types(hint) <= {float, int, str, bool, NoneType}, name
