"""Drivers through entry points: `labedge.drivers`, name in the cell file -> class.

A driver is imported when a cell (or a person) names it: the OPC UA stack alone costs 200 ms and 28 MB.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points

import msgspec

from drivers.api import Device, Options, inline_schema, operations_of
from edge.convert import closest
from edge.errors import LabedgeError

GROUP = "labedge.drivers"


class UnknownDriver(LabedgeError):
    """No installed package brings a driver of this name."""


class BrokenDriver(LabedgeError):
    """The entry point is there; what it names cannot be used."""


def driver_names() -> tuple[str, ...]:
    """Names of all installed drivers, sorted; imports none of them."""
    return tuple(sorted(_entries()))


def driver(name: str) -> type[Device]:
    """The driver's class. Raises `UnknownDriver` or `BrokenDriver` with a sentence."""
    entries = _entries()
    if name not in entries:
        raise UnknownDriver(_unknown(name, sorted(entries)))
    entry = entries[name]
    try:
        found = entry.load()
    except Exception as error:  # a plug-in may fail in any way, and must not take the command with it
        reason = f"{type(error).__name__}: {error}"
        raise BrokenDriver(
            f"Driver {name} cannot be loaded from {entry.value} ({reason}); "
            "reinstall the package it comes with."
        ) from error
    _vet(name, entry, found)
    return found  # type: ignore[no-any-return]  # _vet has seen that it is a Device class


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _unknown(name: str, names: list[str]) -> str:
    if near := closest(name, names):
        return f"There is no driver {name}; did you mean {near}?"
    if not names:
        return f"There is no driver {name}: no drivers are installed; install labedge with `pip install`."
    return f"There is no driver {name}; installed are {', '.join(names)}."


def _vet(name: str, entry: EntryPoint, found: object) -> None:
    lack = ""
    if not (isinstance(found, type) and issubclass(found, Device)):
        lack = "it is not a Device class"
    elif inspect.isabstract(found):
        lack = f"it lacks {', '.join(sorted(found.__abstractmethods__))}"
    elif missing := [
        what for what in ("driver", "title", "safe_state", "Options", "Readings") if not hasattr(found, what)
    ]:
        lack = f"it does not declare {', '.join(missing)}"
    elif found.driver != name:
        lack = f"it calls itself {found.driver}"
    elif not (_is_kind(found.Options, Options) and _is_kind(found.Readings, msgspec.Struct)):
        lack = "its Options must extend drivers.api.Options and its Readings be a msgspec.Struct"
    else:
        lack = _contradiction(found)
    if lack:
        raise BrokenDriver(f"Driver {name} ({entry.value}) cannot be used: {lack}; tell the driver's author.")


def _is_kind(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


def _contradiction(device: type[Device]) -> str:
    """Why a driver's declarations make no schemas; empty if they do."""
    try:
        for struct in (device.Options, device.Readings):
            inline_schema(struct)
        for operation in operations_of(device).values():
            operation.schema()
    except Exception as error:  # type hints of a plug-in can be wrong in any way
        return f"what it declares is contradictory ({error})"
    return ""
