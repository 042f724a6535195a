"""The arm's registers, its dashboard, and what stops it; time is an argument."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.api import BenchError
from firmware_sim.hosts.modbus import TcpSlave
from firmware_sim.instruments.universal_robots import DashboardConnection
from tests.firmware_sim.arm_cell import MOVE, Cell, bench, carrying

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "universal_robots.yaml"


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


# Stops.


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
