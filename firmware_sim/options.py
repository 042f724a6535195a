"""Reading an instrument's options, with sentences for what is wrong with them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from firmware_sim.errors import BenchError


def number(options: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    """A number within low..high, or the default."""
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BenchError(f"{key} is {value!r} and must be a number from {low:g} to {high:g}.")
    return float(value)


def whole(options: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    """A whole number within low..high, or the default."""
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BenchError(f"{key} is {value!r} and must be a whole number from {low} to {high}.")
    return value


def text(options: Mapping[str, Any], key: str, default: str) -> str:
    """A string, or the default."""
    value = options.get(key, default)
    if not isinstance(value, str):
        raise BenchError(f"{key} is {value!r} and must be text; put it in quotes.")
    return value


def serial_number(name: str, options: Mapping[str, Any]) -> str:
    """The option `serial`, or seven digits that are always the same for an instrument of this name."""
    return text(options, "serial", f"{zlib.crc32(name.encode()) % 10_000_000:07d}")
