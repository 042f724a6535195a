"""The handshake as values, against the page's tables and the golden frames."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivers.api import Pose
from drivers.arms.universal_robots.handshake import Answer, Fate, Job, JobNumber, Pulse, fate, reason
from drivers.errors import Refused
from protocols.modbus import frame_read_holding, frame_write_registers
from protocols.registers import signed16

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "universal_robots.yaml"
MINE = 0x0001_0002


def answer(**changes: Any) -> Answer:
    words = {"version": 1, "heartbeat": 5, "accepted": False, "busy": False, "done": False, "error": 0}
    fields = words | {"accepted_id": 0, "done_id": 0, "holding": False, "homed": False} | changes
    return Answer(**fields)


def vector(name: str) -> bytes:
    found = yaml.safe_load(VECTORS.read_text())["vectors"]
    return bytes.fromhex(next(entry["hex"] for entry in found if entry["id"] == f"universal_robots-{name}"))


def test_read_requests_are_the_golden_frames() -> None:
    assert frame_read_holding(0, 400, 1, tid=4) == vector("01")
    assert frame_read_holding(0, 258, 1, tid=5) == vector("03")


def test_golden_replies_are_minus_400_mm_and_running() -> None:
    x = int.from_bytes(vector("02")[-2:], "big")
    assert signed16(x) / 10 == -400.0
    assert int.from_bytes(vector("04")[-2:], "big") == 7


def test_job_stands_in_its_registers() -> None:
    job = Job(
        JobNumber.MOVE,
        0xABCD_1234,
        Pose(400.04, -250.5, 120.0, math.pi / 2),
        Pose(-3276.7, 0.0, 3276.7, -0.5),
        approach_mm=60.0,
        speed_mm_s=250.4,
    )
    assert job.registers(70000, 1) == [
        1,
        0xABCD,
        0x1234,
        4000,
        0x10000 - 2505,
        1200,
        1571,
        0x10000 - 32767,
        0,
        32767,
        0x10000 - 500,
        600,
        250,
        70000 - 65536,
        1,
    ]


def test_job_frame_is_one_write_of_registers_129_to_143() -> None:
    words = Job(JobNumber.HOME, 7, approach_mm=60, speed_mm_s=250).registers(0, 0)
    frame = frame_write_registers(0, 129, words, tid=0)
    assert frame.hex(" ") == (
        "00 00 00 00 00 25 00 10 00 81 00 0f 1e 00 02 00 00 00 07" + 8 * " 00 00" + " 02 58 00 fa 00 00 00 00"
    )


@pytest.mark.parametrize("turn", [3 * math.pi, -math.pi, 7.0])
def test_any_turn_fits_a_register(turn: float) -> None:
    words = Job(JobNumber.MOVE, 1, Pose(0, 0, 0, turn)).registers(0, 0)
    assert abs(signed16(words[6])) <= 3142
    assert math.isclose(math.sin(signed16(words[6]) / 1000), math.sin(turn), abs_tol=2e-3)


@pytest.mark.parametrize("x_mm", [3276.8, -3276.8, math.inf, math.nan])
def test_pose_out_of_range_is_refused(x_mm: float) -> None:
    with pytest.raises(Refused, match="place pose has x"):
        Job(JobNumber.MOVE, 1, place=Pose(x_mm, 0, 0, 0)).registers(0, 0)


def test_answer_reads_its_twelve_registers() -> None:
    words = [1, 99, 1, 1, 0, 3, 0x0001, 0x0002, 0xFFFF, 0xFFFE, 1, 1]
    assert Answer.of(words) == Answer(1, 99, True, True, False, 3, MINE, 0xFFFFFFFE, True, True)


@pytest.mark.parametrize(
    ("registers", "became"),
    [
        ({"accepted_id": MINE, "done_id": MINE, "done": True}, Fate.FINISHED),
        ({"accepted_id": MINE, "done_id": MINE, "error": 3}, Fate.FAILED),
        ({"accepted_id": MINE, "done_id": 5, "busy": True}, Fate.RUNNING),
        ({"accepted_id": MINE, "done_id": 5}, Fate.STOPPED),
        ({"accepted_id": 5, "done_id": 5, "done": True}, Fate.NEVER_BEGAN),
        ({"accepted_id": 0}, Fate.RESTARTED),
    ],
)
def test_every_row_of_the_page(registers: dict[str, Any], became: Fate) -> None:
    assert fate(answer(**registers), MINE) is became


def test_every_error_has_a_sentence() -> None:
    texts = [reason(code) for code in range(1, 7)]
    assert len(set(texts)) == 6
    assert "error 99" in reason(99)


def test_heartbeat_proves_life_only_by_moving() -> None:
    pulse = Pulse()
    pulse.see(answer(heartbeat=5), 0.0)
    assert not pulse.alive(0.0)
    pulse.see(answer(heartbeat=6), 0.3)
    assert pulse.alive(0.4)
    pulse.see(answer(heartbeat=6), 2.2)
    assert pulse.alive(2.29)
    assert not pulse.alive(2.31)
    pulse.see(answer(heartbeat=7), 2.5)
    assert pulse.alive(2.5)
    pulse.see(answer(version=0, heartbeat=0), 2.6)
    assert not pulse.alive(2.6)
