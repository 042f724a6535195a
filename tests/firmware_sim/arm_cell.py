"""An arm in a small world, written to and read from as the edge does."""

from __future__ import annotations

from typing import Any

from firmware_sim.instruments.universal_robots import DashboardConnection, UniversalRobots
from firmware_sim.world import World

NEST_1 = (-300.0, -300.0, 100.0)
NEST_2 = (300.0, -300.0, 120.0)
MOVE, HOME = 1, 2


def frame(origin: tuple[float, float, float]) -> list[list[float]]:
    x, y, z = origin
    return [[x, y, z], [x + 99.0, y, z], [x, y - 63.0, z]]


def bench(speed: float = 1.0) -> World:
    return World(
        {
            "speed": speed,
            "positions": {
                "nest-1": {"frame": frame(NEST_1)},
                "nest-2": {"frame": frame(NEST_2)},
                "nozzle": {"at": "nest-2"},
            },
            "labware": {"plate-1": {"type": "sbs-96", "at": "nest-1"}},
        }
    )


class Cell:
    """An arm with its log, written to and read from as the edge does."""

    def __init__(self, world: World | None = None, **options: Any) -> None:
        self.actions: list[dict[str, Any]] = []
        self.arm = UniversalRobots(
            "arm", {"dashboard": "127.0.0.1:0", **options}, world or bench(), self._log
        )
        self.dashboard = DashboardConnection(self.arm)

    def _log(self, instrument: str, kind: str, what: str, **details: Any) -> None:
        self.actions.append({"instrument": instrument, "kind": kind, "what": what, **details})

    def say(self, command: str) -> str:
        return self.dashboard.receive(command.encode() + b"\n").decode().rstrip("\n")

    def get(self, first: int, count: int = 1) -> list[int]:
        return self.arm.read(3, first, count)

    def put(self, first: int, *values: int) -> None:
        self.arm.write(16, first, [value & 0xFFFF for value in values])

    def ask(
        self,
        job: int,
        job_id: int,
        pick: tuple[float, ...] = NEST_1,
        place: tuple[float, ...] = NEST_2,
        speed: int = 200,
        on_lost: int = 0,
    ) -> None:
        tenths = [round(value * 10) for value in pick] + [0] + [round(value * 10) for value in place] + [0]
        self.put(129, job, job_id >> 16, job_id, *tenths, 600, speed)
        self.put(143, on_lost)
        self.put(128, 1)

    def run(self, seconds: float, beat: bool = True) -> None:
        """Let physical time pass with a living edge."""
        for _ in range(round(seconds / 0.5)):
            if beat:
                self.put(142, self.get(142)[0] + 1)
            self.arm.tick(0.5)

    def until_done(self) -> None:
        for _ in range(400):
            self.run(0.5)
            if not self.get(163)[0]:
                return
        raise AssertionError("the job does not end")

    def whats(self) -> list[str]:
        return [action["what"] for action in self.actions]


def carrying() -> Cell:
    """In free travel with the plate in the gripper."""
    cell = Cell()
    cell.ask(MOVE, 1)
    for _ in range(400):
        cell.arm.tick(0.05)
        if cell.get(170) == [1]:
            cell.arm.tick(1.0)
            return cell
    raise AssertionError("never gripped")
