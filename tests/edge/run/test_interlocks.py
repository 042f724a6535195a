"""Interlocks against a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pytest

from edge.cell import InterlockConfig
from edge.run.interlocks import Interlocks


def lock(name: str = "hot", when: str = "oven.temperature_c > 60", for_s: float = 0.0) -> InterlockConfig:
    return InterlockConfig(name=name, when=when, for_s=for_s, command="hold")


class Cell:
    """Readings and a clock."""

    def __init__(self, *configs: InterlockConfig) -> None:
        self.locks = Interlocks(configs)
        self.readings: dict[str, Any] = {}

    def at(self, now: float, **readings: Any) -> tuple[list[str], list[str]]:
        self.readings |= {name.replace("__", "."): value for name, value in readings.items()}
        violated, normal = self.locks.evaluate(now, self.readings.__getitem__)
        return [config.name for config in violated], [config.name for config in normal]


def test_a_violation_is_told_once_and_its_end_once() -> None:
    cell = Cell(lock())
    assert cell.at(1.0, oven__temperature_c=60.0) == ([], [])
    assert cell.at(2.0, oven__temperature_c=60.1) == (["hot"], [])
    assert cell.locks.violated() == ["hot"]
    assert cell.at(3.0) == ([], [])
    assert cell.at(4.0, oven__temperature_c=59.0) == ([], ["hot"])
    assert cell.locks.violated() == []
    assert cell.at(5.0) == ([], [])
    assert cell.at(6.0, oven__temperature_c=70.0) == (["hot"], [])


def test_it_has_to_hold_for_its_time_without_a_break() -> None:
    cell = Cell(lock(for_s=2.0))
    assert cell.at(10.0, oven__temperature_c=61.0) == ([], [])
    assert cell.locks.due() == 12.0
    assert cell.at(11.9) == ([], [])
    assert cell.at(11.95, oven__temperature_c=59.0) == ([], [])
    assert cell.locks.due() is None
    assert cell.at(12.0, oven__temperature_c=61.0) == ([], [])
    assert cell.locks.due() == 14.0
    assert cell.at(14.0) == (["hot"], [])
    assert cell.locks.due() is None


def test_what_is_due_first_counts() -> None:
    cell = Cell(lock("a", for_s=5.0), lock("b", for_s=1.0), lock("c", when="oven.lid == 'open'", for_s=0.5))
    assert cell.at(0.0, oven__temperature_c=61.0, oven__lid="closed") == ([], [])
    assert cell.locks.due() == 1.0
    assert cell.at(1.0) == (["b"], [])
    assert cell.locks.due() == 5.0
    assert cell.at(2.0, oven__lid="open") == ([], [])
    assert cell.locks.due() == 2.5
    assert cell.at(5.0, oven__lid="open") == (["a", "c"], [])
    assert cell.locks.violated() == ["a", "b", "c"]


@pytest.mark.parametrize("value", [None, "hot", float("nan"), True, [70.0]])
def test_what_cannot_be_judged_is_no_violation(value: Any) -> None:
    cell = Cell(lock())
    assert cell.at(1.0) == ([], [])
    assert cell.at(2.0, oven__temperature_c=value) == ([], [])
    assert cell.locks.due() is None


def test_only_true_is_a_violation() -> None:
    cell = Cell(lock(when="oven.temperature_c"))
    assert cell.at(1.0, oven__temperature_c=1) == ([], [])
    assert cell.at(2.0, oven__temperature_c=True) == (["hot"], [])


def test_none_at_all() -> None:
    locks = Interlocks([])
    assert locks.evaluate(0.0, dict[str, Any]().__getitem__) == ([], [])
    assert (locks.due(), locks.violated()) == (None, [])
