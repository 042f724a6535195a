"""The wet end of a syringe pump: a barrel, a valve, and what its ports are plumbed to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firmware_sim.errors import BenchError
from firmware_sim.world import Liquid, World

_TRACE_UL = 1e-6

BYPASS = 0
"""Port number of a valve that shuts the syringe off."""

Tally = dict[str, float]
"""Volume in µl by place: a well, `spill` or `air`."""


class Plumbing:
    """What each valve port leads to: a fixed well, or whatever well is under a nozzle now.

    `ports` is the option of the bench file, `{1: reservoir/A1, 2: {over: nozzle-1}}`. A port that is not
    named is open to the air.
    """

    def __init__(self, ports: Any, world: World) -> None:
        self._world = world
        self._wells: dict[int, str] = {}
        self._nozzles: dict[int, str] = {}
        if not isinstance(ports, Mapping):
            raise BenchError(
                "ports must map port numbers to wells, as in {1: reservoir/A1, 2: {over: nozzle-1}}."
            )
        for port, end in ports.items():
            self._connect(port, end)

    @property
    def highest(self) -> int:
        """The highest port number that is plumbed; 0 if none."""
        return max([*self._wells, *self._nozzles], default=0)

    def place(self, port: int) -> str | None:
        """The well at the end of this port now; None: nothing there."""
        if port in self._nozzles:
            return self._world.under(self._nozzles[port])
        return self._wells.get(port)

    def end(self, port: int) -> str | None:
        """The nozzle position or well that this port leads to; None for an open port."""
        return self._nozzles.get(port) or self._wells.get(port)

    def _connect(self, port: Any, end: Any) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 12:
            raise BenchError(f"ports: {port!r} is no port number; they are 1 to 12.")
        if isinstance(end, str):
            self._world.find(end)
            self._wells[port] = end
        elif isinstance(end, Mapping) and set(end) == {"over"} and end["over"] in self._world.positions:
            self._nozzles[port] = end["over"]
        else:
            raise BenchError(
                f"ports.{port} is {end!r} and must be a well or {{over: POSITION}} of this bench."
            )


class Barrel:
    """Liquid between plunger and valve. A bubble sits at the valve: air leaves before liquid does."""

    def __init__(self, plumbing: Plumbing, world: World) -> None:
        self._plumbing = plumbing
        self._world = world
        self.liquid: Liquid = {}
        self.air_ul = 0.0

    @property
    def liquid_ul(self) -> float:
        return sum(self.liquid.values())

    def pull(self, port: int, volume_ul: float, tally: Tally) -> None:
        """The plunger goes down: liquid from the port's well, and air for what the well does not give."""
        well = self._plumbing.place(port)
        drawn = self._world.draw(well, volume_ul) if well else {}
        for name, amount in drawn.items():
            self.liquid[name] = self.liquid.get(name, 0.0) + amount
        got = sum(drawn.values())
        _count(tally, well or "air", got)
        missing = volume_ul - got
        self.air_ul += missing
        _count(tally, "air", missing)

    def push(self, port: int, volume_ul: float, tally: Tally) -> None:
        """The plunger goes up: first the bubble, then liquid into the port's well, or beside it."""
        bubble = min(self.air_ul, volume_ul)
        self.air_ul -= bubble
        _count(tally, "air", bubble)
        out = self._take(volume_ul - bubble)
        amount = sum(out.values())
        if amount <= 0:
            return
        well = self._plumbing.place(port)
        if well:
            self._world.put(well, out)
        else:
            self._world.spill(out, self._plumbing.end(port))
        _count(tally, well or "spill", amount)

    def _take(self, volume_ul: float) -> Liquid:
        held = self.liquid_ul
        if held <= 0 or volume_ul <= 0:
            return {}
        share = min(1.0, volume_ul / held)
        out = {name: amount * share for name, amount in self.liquid.items()}
        self.liquid = {
            name: amount - out[name] for name, amount in self.liquid.items() if amount - out[name] > _TRACE_UL
        }
        return out


def _count(tally: Tally, place: str, amount: float) -> None:
    if amount > 0:
        tally[place] = tally.get(place, 0.0) + amount
