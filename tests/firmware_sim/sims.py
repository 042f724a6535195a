"""A small world and pumps in it, with time as an argument."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Any

from firmware_sim.instruments.cavro_xcalibur import CavroXCalibur
from firmware_sim.world import World

NEST = {"frame": [[300, 100, 50], [399, 100, 50], [300, 37, 50]]}
BENCH: dict[str, Any] = {
    "seed": 7,
    "positions": {"nest-1": NEST, "nozzle-1": {"at": "nest-1"}},
    "labware": {
        "plate-1": {"type": "sbs-96", "at": "nest-1"},
        "reservoir": {"type": "trough-1", "contents": {"A1": {"red-dye": 40000.0}}},
    },
    "liquids": {"red-dye": {"absorbance": {450: 8.0, 550: 2.0}}},
}
PORTS = {1: "reservoir/A1", 2: {"over": "nozzle-1"}}


class Notes:
    """A log that can be asked."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, instrument: str, kind: str, what: str, **details: Any) -> None:
        self.lines.append({"instrument": instrument, "kind": kind, "what": what, **details})

    def of(self, *what: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["what"] in what]


def oem(command: str, sequence: int = 1, repeated: bool = False, address: int = 0x31) -> bytes:
    """A command block, its checksum computed here."""
    flags = 0x30 | sequence | (0x08 if repeated else 0)
    body = bytes([0x02, address, flags]) + command.encode() + b"\x03"
    return body + bytes([reduce(xor, body)])


class PumpBench:
    """One pump over a plate."""

    def __init__(self, bench: dict[str, Any] | None = None, **options: Any) -> None:
        self.notes = Notes()
        self.world = World(BENCH if bench is None else bench)
        self.pump = CavroXCalibur("red", {"ports": PORTS, **options}, self.world, self.notes)

    def ask(self, command: str, sequence: int = 1, repeated: bool = False) -> tuple[int, str]:
        """Status byte and data of the answer."""
        reply = self.pump.receive(oem(command, sequence, repeated))
        assert reply[:2] == b"\x020"
        assert reply[-2:] == bytes([0x03, reduce(xor, reply[:-1])])
        return reply[2], reply[3:-2].decode()

    def settle(self) -> float:
        """Let everything end that is under way; returns the seconds it took."""
        spent = 0.0
        while (due := self.pump.due()) is not None:
            self.pump.tick(due)
            spent += due
        return spent

    def initialize(self) -> None:
        self.ask("ZR")
        self.settle()
        assert self.ask("Q") == (0x60, "")
        self.notes.lines.clear()
