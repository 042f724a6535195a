"""The pan of a balance: what stands on it, and how its reading settles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from firmware_sim.errors import BenchError
from firmware_sim.options import number
from firmware_sim.world import World

_TIME_CONSTANT_S = 0.15


class Pan:
    """Weighs the labware at position `at`, or the labware named by `weighs` while no gripper holds it.

    With neither: the labware at the position of the balance's own name; else the only labware of the bench,
    its only plate, or the only one that stands at a position; else nothing. `drift_g` is added to the truth.
    """

    def __init__(self, name: str, options: Mapping[str, Any], world: World, readability_g: float) -> None:
        self._world = world
        self._readability_g = readability_g
        self._settle_s = number(options, "settle_s", 1.0, 0.0, 600.0)
        self._position: str | None = options.get("at")
        self._labware: str | None = options.get("weighs")
        if self._position is not None and self._position not in world.positions:
            raise BenchError(f"at: there is no position {self._position!r} on this bench.")
        if self._labware is not None and self._labware not in world.labware:
            raise BenchError(f"weighs: there is no labware {self._labware!r} on this bench.")
        if self._position is not None and self._labware is not None:
            raise BenchError("at and weighs exclude each other; keep the one that is meant.")
        if self._position is None and self._labware is None:
            self._position = name if name in world.positions else None
            self._labware = None if self._position else _likely(world)
        self.drift_per_s = 0.0
        self.drift_g = 0.0
        self._mass_g = self.mass_g()
        self.shown_g = self._mass_g
        self._calm_s = self._settle_s

    def mass_g(self) -> float:
        """True mass on the pan, g."""
        name = self._labware
        if self._position is not None:
            name = self._world.labware_at(self._position)
        if name is None or self._world.where(name) is None:
            return 0.0
        return self._world.mass_g(name)

    @property
    def stable(self) -> bool:
        return self._calm_s >= self._settle_s and abs(self.mass_g() - self._mass_g) <= self._readability_g / 2

    def due(self) -> float:
        """Seconds until the reading is stable if nothing changes any more."""
        return max(0.0, self._settle_s - self._calm_s)

    def tick(self, dt: float) -> None:
        """A change seen now counts as having happened when the tick began."""
        mass = self.mass_g()
        if abs(mass - self._mass_g) > self._readability_g / 2:
            self._mass_g = mass
            self._calm_s = 0.0
        self._calm_s += dt
        self.drift_g += self.drift_per_s * dt
        target = mass + self.drift_g
        self.shown_g = target + (self.shown_g - target) * math.exp(-dt / _TIME_CONSTANT_S)
        if self.stable:
            self.shown_g = target


def _likely(world: World) -> str | None:
    standing = [ware.name for ware in world.labware.values() if ware.position in world.positions]
    sole = world.sole_labware() or world.sole_labware(sbs_only=True)
    return sole or (standing[0] if len(standing) == 1 else None)
