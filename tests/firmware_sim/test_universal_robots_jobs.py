"""The arm's program in the handshake of drivers/arms/HANDSHAKE.md; time is an argument."""

from __future__ import annotations

from typing import Any

import pytest

from firmware_sim.world import World
from tests.firmware_sim.arm_cell import HOME, MOVE, NEST_1, NEST_2, Cell, bench, frame


def test_a_job_from_request_to_done() -> None:
    cell = Cell()
    cell.ask(MOVE, 0x00020001)
    assert cell.get(162) == [0]
    cell.arm.tick(0.1)
    assert cell.get(162, 4) == [1, 1, 0, 0]
    assert cell.get(166, 4) == [2, 1, 0, 0]
    cell.put(128, 0)
    cell.arm.tick(0.1)
    assert cell.get(162, 2) == [0, 1]
    cell.until_done()
    assert cell.get(163, 3) == [0, 1, 0]
    assert cell.get(168, 3) == [2, 1, 0]
    assert cell.arm.world.where("plate-1") == "nest-2"
    pick, place, move = cell.actions
    assert (pick["what"], pick["labware"], pick["position"]) == ("pick", "plate-1", "nest-1")
    assert (place["what"], place["labware"], place["position"], place["well"]) == (
        "place",
        "plate-1",
        "nest-2",
        "A1",
    )
    assert (move["what"], move["outcome"], move["pose"][:3]) == ("move", "finished", [300.0, -300.0, 180.0])


def test_a_displaced_plate_has_the_wanted_well_under_the_nozzle() -> None:
    cell = Cell()
    # Well C5 at the taught point: four columns to the left, two rows back.
    cell.ask(MOVE, 5, place=(NEST_2[0] - 36.0, NEST_2[1] + 18.0, NEST_2[2]))
    cell.until_done()
    assert cell.actions[1]["well"] == "C5"
    assert cell.arm.world.under("nozzle") == "plate-1/C5"


def test_a_repeated_request_runs_once() -> None:
    cell = Cell()
    cell.ask(MOVE, 7)
    cell.arm.tick(0.1)
    cell.put(128, 0)
    cell.until_done()
    cell.ask(MOVE, 7)
    cell.run(20.0)
    assert cell.get(162, 2) == [1, 0]
    assert cell.whats().count("pick") == 1


def test_a_request_older_than_the_program_is_not_taken() -> None:
    cell = Cell()
    cell.say("stop")
    cell.ask(MOVE, 7)
    cell.say("play")
    cell.run(20.0)
    assert cell.get(162, 2) == [0, 0]
    assert "pick" not in cell.whats()
    cell.put(128, 0)
    cell.run(1.0)
    cell.put(128, 1)
    cell.run(60.0)
    assert cell.whats().count("pick") == 1


def test_a_new_job_waits_until_the_arm_is_free() -> None:
    cell = Cell()
    cell.ask(MOVE, 1)
    cell.arm.tick(0.1)
    cell.put(128, 0)
    cell.arm.tick(0.1)
    cell.ask(MOVE, 2, pick=NEST_2, place=NEST_1)
    cell.run(1.0)
    assert cell.get(162, 2) == [0, 1]
    assert cell.get(166, 2) == [0, 1]
    cell.run(40.0)
    assert cell.get(168, 2) == [0, 2]
    assert cell.arm.world.where("plate-1") == "nest-1"


def test_a_withdrawn_request_never_began() -> None:
    cell = Cell()
    cell.ask(MOVE, 9)
    cell.put(128, 0)
    cell.run(5.0)
    assert cell.get(166, 2) == [0, 0]
    assert cell.actions == []


def test_job_id_zero_is_never_taken() -> None:
    cell = Cell()
    cell.ask(MOVE, 0)
    cell.run(5.0)
    assert cell.get(162, 2) == [0, 0]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"job": 3}, 1),
        ({"pick": (-1300.0, -300.0, 100.0)}, 2),
        ({"place": (300.0, -300.0, 1290.0)}, 2),
        ({"pick": NEST_2}, 3),
        ({"place": NEST_1}, 0),
        ({"place": (0.0, -500.0, 100.0)}, 4),
    ],
)
def test_why_jobs_fail(changes: dict[str, Any], error: int) -> None:
    cell = Cell()
    cell.ask(**{"job": MOVE, "job_id": 3, **changes})
    cell.until_done()
    assert cell.get(164, 2) == [int(error == 0), error]
    assert cell.get(168, 2) == [0, 3]


def test_an_occupied_place_leaves_the_plate_in_the_gripper() -> None:
    world = World(
        {
            "positions": {"nest-1": {"frame": frame(NEST_1)}, "nest-2": {"frame": frame(NEST_2)}},
            "labware": {
                "plate-1": {"type": "sbs-96", "at": "nest-1"},
                "plate-2": {"type": "sbs-96", "at": "nest-2"},
            },
        }
    )
    cell = Cell(world)
    cell.ask(MOVE, 3)
    cell.until_done()
    assert (cell.get(165), cell.get(170)) == ([4], [1])
    assert world.where("plate-1") is None
    assert cell.arm.state()["holding"] == "plate-1"
    cell.put(128, 0)
    cell.arm.tick(0.1)
    cell.ask(MOVE, 4)
    cell.until_done()
    assert cell.get(165) == [6]


def test_home() -> None:
    cell = Cell(home=[-400.0, -200.0, 400.0])
    cell.ask(MOVE, 1)
    cell.until_done()
    cell.put(128, 0)
    cell.arm.tick(0.1)
    assert cell.get(171) == [0]
    cell.ask(HOME, 2)
    cell.until_done()
    assert cell.get(171) == [1]
    assert cell.arm.state()["tcp"] == {"x_mm": -400.0, "y_mm": -200.0, "z_mm": 400.0, "rz_rad": 0.0}


def test_motion_takes_path_over_speed_and_the_gripper_half_a_second() -> None:
    # From 100 mm above the pick pose: 100 down, 60 up, 9 over, 60 down, 60 up at 100 mm/s, twice 0.5 s.
    cell = Cell(home=[-300.0, -300.0, 200.0])
    cell.ask(MOVE, 1, place=(-300.0 - 9.0, -300.0, 100.0), speed=100)
    cell.arm.tick(0.008)
    expected = (100 + 60 + 9 + 60 + 60) / 100 + 2 * 0.5
    cell.arm.tick(expected - 0.01)
    assert cell.get(163) == [1]
    cell.arm.tick(0.02)
    assert cell.get(163, 2) == [0, 1]
    assert cell.actions[1]["well"] == "A2"


def test_the_tool_is_seen_on_its_way() -> None:
    cell = Cell(home=[-300.0, -300.0, 200.0])
    cell.ask(MOVE, 1, speed=100)
    cell.arm.tick(0.008 + 0.25)
    assert cell.get(402) == [1750]


def test_one_long_tick_is_as_good_as_many() -> None:
    one, many = Cell(), Cell()
    for cell in (one, many):
        cell.ask(MOVE, 1)
    one.arm.tick(30.0)
    for _ in range(3000):
        many.arm.tick(0.01)
    assert one.actions == many.actions
    assert one.arm.state() == many.arm.state()


def test_speed_of_the_bench_scales_motion_and_not_the_handshake() -> None:
    cell = Cell(bench(speed=10.0))
    cell.ask(MOVE, 1)
    cell.arm.tick(0.05)
    assert cell.get(162) == [0], "a cycle is 8 ms of real time, 80 ms of physical time here"
    cell.arm.tick(0.05)
    assert cell.get(162) == [1]
    cell.arm.tick(100.0)
    assert cell.get(161) == [100]


def test_due_leads_from_event_to_event() -> None:
    cell = Cell()
    cell.arm.tick(1.0)
    assert cell.arm.due() is None
    cell.ask(MOVE, 1)
    for _ in range(40):
        due = cell.arm.due()
        if due is None:
            break
        cell.arm.tick(due)
    assert cell.get(164) == [1]


def test_heartbeat_counts_while_the_program_plays() -> None:
    cell = Cell()
    cell.arm.tick(2.0)
    assert cell.get(161) == [20]
    cell.say("pause")
    cell.arm.tick(2.0)
    assert cell.get(161) == [20]
