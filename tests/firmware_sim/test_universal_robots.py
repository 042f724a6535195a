"""The arm against its registers, its dashboard, and the handshake of its program; time is an argument."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.api import BenchError
from firmware_sim.hosts.modbus import TcpSlave
from firmware_sim.instruments.universal_robots import DashboardConnection, UniversalRobots
from firmware_sim.world import World

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "universal_robots.yaml"
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


# Registers and dashboard.


def test_modbus_vectors() -> None:
    vectors = [
        v for v in yaml.safe_load(VECTORS.read_text())["vectors"] if v["transport"].startswith("Modbus")
    ]
    slave = TcpSlave(Cell(home=[-400.0, 100.0, 200.0]).arm)
    asked = [bytes.fromhex(v["hex"]) for v in vectors if v["direction"] == "host->device"]
    assert [slave.receive(request) for request in asked] == [
        bytes.fromhex(v["hex"]) for v in vectors if v["direction"] == "device->host"
    ]


def test_dashboard_vectors() -> None:
    vectors = [v for v in yaml.safe_load(VECTORS.read_text())["vectors"] if "dashboard" in v["transport"]]
    arm = Cell(running=False).arm
    service = arm.services()["dashboard"]
    greeting, *rest = vectors
    assert service.greeting == bytes.fromhex(greeting["hex"])
    connection = service.connect()
    assert len(rest) == 8
    for request, response in zip(rest[::2], rest[1::2], strict=True):
        assert connection.receive(bytes.fromhex(request["hex"])) == bytes.fromhex(response["hex"])


def test_from_power_off_to_playing() -> None:
    cell = Cell(running=False)
    assert (cell.get(258), cell.get(260), cell.get(160)) == ([3], [0], [0])
    assert cell.say("play") == "Failed to execute: play"
    assert cell.say("power on") == "Powering on"
    assert cell.say("robotmode") == "Robotmode: POWER_ON"
    cell.arm.tick(2.0)
    assert cell.say("robotmode") == "Robotmode: IDLE"
    assert (cell.get(258), cell.get(260)) == ([5], [1])
    assert cell.say("brake release") == "Brake releasing"
    assert cell.say("robotmode") == "Robotmode: IDLE"
    cell.arm.tick(2.0)
    assert cell.say("robotmode") == "Robotmode: RUNNING"
    assert cell.say("running") == "Program running: false"
    assert cell.say("load nothing.urp") == "File not found: nothing.urp"
    assert cell.say("load labedge_mover.urp") == "Loading program: labedge_mover.urp"
    assert cell.say("play") == "Starting program"
    assert cell.say("running") == "Program running: true"
    assert cell.say("programState") == "PLAYING labedge_mover.urp"
    assert cell.get(160) == [1]
    assert cell.say("power off") == "Powering off"
    assert (cell.get(258), cell.get(160)) == ([3], [0])


def test_brake_release_powers_on_by_itself() -> None:
    cell = Cell(running=False)
    cell.say("brake release")
    cell.arm.tick(3.0)
    assert cell.say("robotmode") == "Robotmode: RUNNING"


def test_identity_and_unknown_commands() -> None:
    cell = Cell(serial="20195500123")
    assert cell.say("get serial number") == "20195500123"
    assert cell.say("get robot model") == "UR10"
    assert cell.say("PolyscopeVersion").startswith("URSoftware 5.")
    assert cell.say("make coffee") == 'could not understand: "make coffee"'


def test_dashboard_takes_pieces_and_hangs_up_on_quit() -> None:
    connection = DashboardConnection(Cell().arm)
    assert connection.receive(b"safety") == b""
    assert connection.receive(b"status\nrunn") == b"Safetystatus: NORMAL\n"
    assert connection.receive(b"ing\nquit\nrunning\n") == b"Program running: true\nDisconnected\n"
    assert connection.closed


def test_what_may_be_read_and_written() -> None:
    slave = TcpSlave(Cell().arm)

    def exception(pdu: str) -> int:
        return slave.receive(bytes.fromhex(f"0001 0000 {len(bytes.fromhex(pdu)) + 1:04x} 00 {pdu}"))[-1]

    assert exception("06 0102 0001") == 2
    assert exception("10 00ff 0002 04 0001 0002") == 2
    assert exception("03 0190 0007") == 2
    assert exception("01 0040 0001") == 2
    assert Cell().arm.read(1, 260, 3) == [1, 0, 0]


def test_digital_outputs_are_bits_and_a_register() -> None:
    cell = Cell()
    cell.arm.write(5, 17, [1])
    cell.arm.write(15, 18, [1, 0])
    assert (cell.get(1), cell.arm.read(1, 16, 4)) == ([6], [0, 1, 1, 0])


def test_joints_reach_the_tool() -> None:
    cell = Cell(home=[-400.0, -200.0, 400.0])
    base, shoulder, elbow = (value - 65536 if value > 32767 else value for value in cell.get(270, 3))
    upper, fore = shoulder / 1000, (shoulder + elbow) / 1000
    out = 612.7 * math.cos(upper) + 571.6 * math.cos(fore)
    up = 180.7 - 612.7 * math.sin(upper) - 571.6 * math.sin(fore)
    assert out == pytest.approx(math.hypot(400, 200), abs=2)
    assert up == pytest.approx(400, abs=2)
    assert base / 1000 == pytest.approx(math.atan2(-200, -400), abs=1e-3)


# The handshake.


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


# Stops.


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


def test_stop_ends_the_program_and_keeps_the_grip() -> None:
    cell = carrying()
    assert cell.say("stop") == "Stopped"
    assert cell.get(160, 12) == [0] * 12
    there = cell.arm.state()["tcp"]
    cell.arm.tick(10.0)
    assert cell.arm.state()["tcp"] == there
    assert cell.arm.world.where("plate-1") is None
    assert cell.whats() == ["pick", "move"]
    assert (cell.actions[1]["outcome"], cell.actions[1]["labware"]) == ("stopped", "plate-1")
    assert cell.say("stop") == "Failed to execute: stop"
    assert cell.say("play") == "Starting program"
    cell.put(128, 0)
    cell.arm.tick(1.0)
    assert cell.get(160) == [1]
    assert (cell.get(166, 4), cell.get(170)) == ([0, 0, 0, 0], [1])
    assert cell.arm.state()["tcp"] == there


@pytest.mark.parametrize(("on_lost", "error", "where"), [(0, 0, "nest-2"), (1, 5, None)])
def test_a_silent_edge(on_lost: int, error: int, where: str | None) -> None:
    cell = Cell()
    cell.ask(MOVE, 1, speed=50, on_lost=on_lost)
    cell.run(12.0)
    assert cell.get(163) == [1]
    cell.run(60.0, beat=False)
    assert (cell.get(163), cell.get(165), cell.get(168, 2)) == ([0], [error], [0, 1])
    assert cell.arm.world.where("plate-1") == where


def test_a_silent_edge_counts_real_seconds() -> None:
    cell = Cell(bench(speed=10.0))
    cell.ask(MOVE, 1, speed=10, on_lost=1)
    cell.arm.tick(29.0)
    assert cell.get(163) == [1]
    cell.arm.tick(3.0)
    assert cell.get(165) == [5]


def test_protective_stop_pauses_and_after_five_seconds_lets_go_on() -> None:
    cell = carrying()
    cell.arm.stick(1)
    assert cell.say("safetystatus") == "Safetystatus: PROTECTIVE_STOP"
    assert (cell.get(261), cell.get(265)) == ([1], [1])
    there = cell.arm.state()["tcp"]
    cell.arm.tick(2.0)
    assert cell.arm.state()["tcp"] == there
    assert cell.say("unlock protective stop").startswith("Cannot unlock protective stop until 5s")
    assert cell.say("play") == "Failed to execute: play"
    cell.arm.tick(4.0)
    assert cell.say("unlock protective stop") == "Protective stop releasing"
    assert cell.say("close safety popup") == "closing safety popup"
    assert cell.say("programState") == "PAUSED labedge_mover.urp"
    assert cell.say("play") == "Starting program"
    cell.until_done()
    assert cell.get(164) == [1]
    assert cell.whats() == ["pick", "place", "move"]


def test_a_stuck_arm_stops_again_until_it_is_freed() -> None:
    cell = Cell()
    cell.arm.stick(None)
    assert cell.get(261) == [0]
    for _ in range(2):
        cell.ask(MOVE, 1)
        cell.run(1.0)
        assert cell.get(261) == [1]
        assert cell.actions == []
        cell.arm.tick(5.0)
        cell.say("unlock protective stop")
        cell.say("play")
    cell.arm.tick(6.0)
    cell.arm.stick(0)
    cell.say("unlock protective stop")
    cell.say("play")
    cell.until_done()
    assert cell.get(164) == [1]


def test_emergency_stop_powers_off_and_ends_the_program() -> None:
    cell = carrying()
    cell.arm.fail(7)
    assert cell.say("safetystatus") == "Safetystatus: ROBOT_EMERGENCY_STOP"
    assert (cell.get(258), cell.get(262), cell.get(160)) == ([3], [1], [0])
    assert cell.say("power on") == "Failed to execute: power on"
    cell.arm.fail(1)
    cell.say("brake release")
    cell.arm.tick(5.0)
    assert cell.say("play") == "Starting program"
    assert cell.arm.state()["holding"] == "plate-1"


def test_reboot_forgets_registers_and_keeps_the_grip() -> None:
    cell = carrying()
    cell.arm.reboot()
    assert cell.get(128, 128) == [0] * 128
    assert cell.say("robotmode") == "Robotmode: POWER_OFF"
    assert cell.arm.state()["holding"] == "plate-1"


@pytest.mark.parametrize("options", [{"home": [1, 2]}, {"running": "yes"}, {"reach_mm": 0}, {"program": 5}])
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=next(iter(options))):
        Cell(**options)


def test_an_unknown_safety_status_is_refused() -> None:
    with pytest.raises(BenchError, match="no safety status 99"):
        Cell().arm.fail(99)


def test_pose_is_read_as_the_rotation_vector_of_a_tool_pointing_down() -> None:
    cell = Cell()
    assert cell.get(403, 3) == [3142, 0, 0]
    cell.put(135, 1571)
    cell.put(129, MOVE, 0, 1, 3000, -3000, 1200)
    cell.put(140, 600, 200)
    cell.put(128, 1)
    cell.until_done()
    assert cell.get(165) == [3]
    # Turned by a quarter, the axis of the half turn lies half way between x and y.
    assert cell.get(403, 3) == [pytest.approx(2221, abs=1), pytest.approx(2222, abs=1), 0]
