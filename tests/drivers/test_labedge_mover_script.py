"""The robot program's handshake, run off the arm: first by itself, then with the driver at the other end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.api import Pose
from drivers.arms.universal_robots import handshake
from drivers.arms.universal_robots.driver import MoveLabware, Nothing, UniversalRobots, UrOptions
from drivers.arms.universal_robots.handshake import Answer, Fate, Job, JobNumber, fate
from drivers.errors import Fault, Lost, Refused
from protocols.links import Links
from tests.drivers.attempts import Try, intent_of
from tests.drivers.ur_peer import ArmPeer, Table, until
from tests.drivers.urscript import Controller, python_of

ARMS = Path(handshake.__file__).parents[1]
SCRIPT = ARMS / "labedge_mover.script"
PAGE = ARMS / "HANDSHAKE.md"


@pytest.fixture
def controller() -> Iterator[Controller]:
    made = Controller(SCRIPT, {})
    made.plate_at = (0.4, -0.2505)
    yield made
    made.stop()


def ask(controller: Controller, job: Job, on_lost: int = 0) -> None:
    for offset, word in enumerate(job.registers(controller.registers.get(142, 0), on_lost)):
        controller.registers[129 + offset] = word
    controller.registers[128] = 1


def answer(controller: Controller) -> Answer:
    return Answer.of([controller.registers.get(register, 0) for register in range(160, 172)])


def move(job_id: int, number: int = 1) -> Job:
    pick, place = Pose(400.0, -250.5, 120.0, 0.0), Pose(-100.0, 300.0, 80.0, 1.5708)
    made = Job(JobNumber.MOVE, job_id, pick, place, approach_mm=60.0, speed_mm_s=250.0)
    return made if number == 1 else Job(number, job_id)  # type: ignore[arg-type]  # a number nobody knows


async def ended(controller: Controller, job_id: int) -> Answer:
    await until(lambda: answer(controller).done_id == job_id and not answer(controller).busy)
    return answer(controller)


def test_script_touches_the_pages_registers_only() -> None:
    text = SCRIPT.read_text()
    read = {int(number) for number in re.findall(r"read_port_register\((\d+)\)", text)}
    written = {int(number) for number in re.findall(r"write_port_register\((\d+),", text)}
    assert read <= {*range(128, 144), 166, 167}
    assert written | {161} >= {160, 161, 162, 163, 164, 165, 166, 167, 168, 169, 170, 171}


def test_error_codes_are_the_pages() -> None:
    codes = dict(re.findall(r"global ERROR_(\w+) = (\d)", SCRIPT.read_text()))
    assert sorted(int(code) for code in codes.values()) == [0, *sorted(handshake.ERRORS)]
    page = PAGE.read_text()
    listed = re.search(r"Error codes: (.*?)\n\n", page, re.DOTALL)
    assert listed is not None
    assert re.findall(r"\b(\d) ", listed.group(1)) == [str(code) for code in handshake.ERRORS]


def test_unclosed_block_is_noticed() -> None:
    with pytest.raises(ValueError, match="never closed"):
        python_of("def f():\n  sync()\n")


async def test_job_runs_once_however_often_it_is_seen(controller: Controller) -> None:
    controller.play()
    await until(lambda: answer(controller).version == 1)
    ask(controller, move(7))
    await until(lambda: answer(controller).accepted)
    assert answer(controller).accepted_id == 7
    done = await ended(controller, 7)
    assert fate(done, 7) is Fate.FINISHED
    assert done.done
    assert answer(controller).accepted, "the request still stands"
    controller.registers[128] = 0
    await until(lambda: not answer(controller).accepted)
    ask(controller, move(7))
    await until(lambda: answer(controller).accepted)
    await asyncio.sleep(0.1)
    assert controller.log.count("grip") == 1
    assert controller.plate_at == (-0.1, 0.3)


async def test_path_goes_up_over_and_down(controller: Controller) -> None:
    controller.play()
    ask_after = until(lambda: answer(controller).version == 1)
    await ask_after
    ask(controller, move(8))
    await ended(controller, 8)
    assert controller.log == [
        "release",
        "at 400 -250 180",
        "at 400 -250 120",
        "grip",
        "at 400 -250 180",
        "at -100 300 180",
        "at -100 300 80",
        "release",
        "at -100 300 180",
    ]


async def test_reasons_not_to_move(controller: Controller) -> None:
    controller.play()
    await until(lambda: answer(controller).version == 1)
    for job_id, number, holds, reachable, error in (
        (1, 9, False, True, 1),
        (2, 1, False, False, 2),
        (3, 1, True, True, 6),
    ):
        controller.holds, controller.reachable = holds, reachable
        controller.registers[128] = 0
        await until(lambda: not answer(controller).accepted)
        ask(controller, move(job_id, number))
        assert (await ended(controller, job_id)).error == error
        assert not answer(controller).done
    assert controller.log == []


async def test_nothing_gripped(controller: Controller) -> None:
    controller.plate_at = None
    controller.play()
    await until(lambda: answer(controller).version == 1)
    ask(controller, move(4))
    assert (await ended(controller, 4)).error == 3


async def test_lost_edge_stops_the_arm_if_it_was_told_so(controller: Controller) -> None:
    controller.move_s = 60.0
    controller.play()
    await until(lambda: answer(controller).version == 1)
    ask(controller, move(5), on_lost=1)
    await until(lambda: answer(controller).busy)
    assert (await ended(controller, 5)).error == 5
    assert controller.log[-1] == "stopl"


async def test_request_from_an_earlier_life_is_not_taken(controller: Controller) -> None:
    ask(controller, move(6))
    controller.registers[166] = controller.registers[163] = 99
    controller.play()
    await until(lambda: answer(controller).version == 1 and answer(controller).heartbeat > 2)
    assert answer(controller).accepted_id == 0
    assert controller.log == []
    controller.registers[128] = 0
    await asyncio.sleep(0.05)
    ask(controller, move(6))
    await ended(controller, 6)


async def test_driver_and_script_understand_each_other(controller: Controller) -> None:
    links = Links()
    async with ArmPeer(own_program=False) as peer:
        controller.registers = peer.registers
        controller.play()
        options = UrOptions(driver="universal-robots", port=peer.port, dashboard=peer.dashboard)
        device = UniversalRobots("arm", options, links)
        device.geometry = Table()
        await device.open()
        carry = MoveLabware("plate-1", "nest-2")
        attempt = Try(0x0002_0001)
        await device.home(Nothing(), Try(0x0001_0001))
        assert (await device.read()).homed
        assert (await device.move_labware(carry, attempt)).position == "nest-2"
        assert (await device.settle(intent_of(attempt, "move_labware", carry))).kind == "finished"
        with pytest.raises(Fault, match="nothing was gripped"):
            await device.move_labware(carry, Try(0x0002_0002))
        controller.move_s = 5.0
        doubtful = Try(0x0002_0003)
        moving = asyncio.ensure_future(device.home(Nothing(), doubtful))
        await until(lambda: answer(controller).busy)
        controller.stop()
        with pytest.raises(Lost):
            await moving
        outcome = await device.settle(intent_of(doubtful, "home", Nothing()))
        assert outcome.kind == "unknown"
        with pytest.raises(Refused, match="does not run"):
            await device.home(Nothing(), Try(0x0002_0004))
        await device.close()
    await links.close()
    assert controller.log.count("grip") == 2
