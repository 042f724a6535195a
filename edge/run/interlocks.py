"""Interlocks: conditions on live readings that hold, stop or abort the cell. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.cell import InterlockConfig
from edge.plan.expression import ExpressionError, Lookup, parse


@dataclass
class _Rule:
    config: InterlockConfig
    since: float | None = None
    """Monotonic time from which the condition has held without a break."""
    fired: bool = False

    def __post_init__(self) -> None:
        self.expression = parse(self.config.when)

    def holds(self, lookup: Lookup) -> bool:
        """A reading that is missing is no violation."""
        try:
            return self.expression.evaluate(lookup) is True
        except (ExpressionError, LookupError):
            return False


class Interlocks:
    """All interlocks of a cell."""

    def __init__(self, configs: Sequence[InterlockConfig]) -> None:
        self._rules = [_Rule(config) for config in configs]

    def evaluate(self, now: float, lookup: Lookup) -> tuple[list[InterlockConfig], list[InterlockConfig]]:
        """(violated since this call, back to normal since this call); `now` is monotonic seconds."""
        violated, normal = [], []
        for rule in self._rules:
            if not rule.holds(lookup):
                if rule.fired:
                    normal.append(rule.config)
                rule.since, rule.fired = None, False
                continue
            rule.since = now if rule.since is None else rule.since
            if not rule.fired and now - rule.since >= rule.config.for_s:
                rule.fired = True
                violated.append(rule.config)
        return violated, normal

    def due(self) -> float | None:
        """Monotonic time at which a condition that holds now becomes a violation; None if none is pending."""
        times = [
            rule.since + rule.config.for_s
            for rule in self._rules
            if rule.since is not None and not rule.fired
        ]
        return min(times, default=None)

    def violated(self) -> list[str]:
        """Names of the interlocks that are violated now."""
        return [rule.config.name for rule in self._rules if rule.fired]
