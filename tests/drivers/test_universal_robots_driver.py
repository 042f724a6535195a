"""The arm's driver against a scripted arm on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.api import Intent, operations_of
from drivers.arms.universal_robots import UniversalRobots, driver, mover
from drivers.arms.universal_robots.driver import MoveLabware, Nothing, UrOptions
from drivers.arms.universal_robots.handshake import Pulse
from drivers.errors import Fault, Lost, Refused
from protocols.links import Links
from tests.drivers.attempts import Try, intent_of
from tests.drivers.ur_peer import ArmPeer, Table, until

CARRY = MoveLabware("plate-1", "nest-2", "A2")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer answers at once or never: what is waited for in vain need not be waited for long."""
    monkeypatch.setattr(mover, "REPLY_S", 0.3)
    monkeypatch.setattr(mover, "RETRY_S", 0.05)
    monkeypatch.setattr(mover, "TAKE_S", 0.7)
    monkeypatch.setattr(driver, "WAKE_S", 0.7)
    monkeypatch.setattr(driver, "BEAT_S", 0.1)
    monkeypatch.setattr(Pulse, "SILENCE_S", 0.7)


@asynccontextmanager
async def arm(peer: ArmPeer, **options: Any) -> AsyncIterator[UniversalRobots]:
    links = Links()
    given = UrOptions(driver="universal-robots", port=peer.port, dashboard=peer.dashboard, **options)
    device = UniversalRobots("arm", given, links)
    device.geometry = Table()
    await device.open()
    try:
        yield device
    finally:
        await device.close()
        await links.close()


def intent(attempt: Try, operation: str = "move_labware") -> Intent:
    return intent_of(attempt, operation, CARRY if operation == "move_labware" else Nothing())


async def test_identify_names_model_serial_and_polyscope() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        identity = await device.identify()
    assert str(identity) == (
        "Universal Robots UR5, SN 20175500123, firmware URSoftware 5.9.4.1031232 (Jun 22 2022)"
    )


async def test_move_writes_the_whole_job_before_it_requests_it() -> None:
    async with ArmPeer() as peer, arm(peer, on_lost="stop") as device:
        attempt = Try()
        moved = await device.move_labware(CARRY, attempt)
    assert (moved.labware, moved.position, moved.well) == ("plate-1", "nest-2", "A2")
    assert [address for address, _ in peer.writes] == [129, 128, 128]
    words = peer.writes[0][1]
    assert words[:3] == [1, 1, 2]
    assert words[3:7] == [4000, 0x10000 - 2505, 1200, 0]
    assert words[7:11] == [0x10000 - 1090, 3000, 800, 1571]
    assert words[11:13] == [600, 250]
    assert words[14] == 1
    assert [values for _, values in peer.writes[1:]] == [[1], [0]]
    assert peer.log == ["job 1 id 65538"]


async def test_intent_is_durable_before_the_job_is_written() -> None:
    class Watching(Try):
        async def intend(self, frame: bytes, **memo: Any) -> None:
            assert peer.writes == []
            await super().intend(frame, **memo)

    async with ArmPeer() as peer, arm(peer) as device:
        attempt = Watching()
        await device.move_labware(CARRY, attempt)
    frame, memo = attempt.intents[0]
    written = b"".join(word.to_bytes(2, "big") for word in peer.writes[0][1])
    # The heartbeat register goes on counting between the intent and the write.
    assert frame[13 : 13 + 26] == written[:26]
    assert memo["pick"] == [400.0, -250.5, 120.0, 0.0]


async def test_lost_replies_to_both_writes_run_the_job_once() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.mute = {129: 1, 128: 1}
        await device.move_labware(CARRY, Try(1))
    assert peer.log == ["job 1 id 1"]
    assert [address for address, _ in peer.writes] == [129, 129, 128, 128, 128]


async def test_job_that_cannot_be_written_was_not_executed() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        await device.home(Nothing(), Try(1))
        peer.lost_writes = 3
        attempt = Try(2)
        with pytest.raises(Lost) as caught:
            await device.home(Nothing(), attempt)
        assert caught.value.sent is False
        assert (await device.settle(intent(attempt, "home"))).kind == "not_executed"
    assert peer.log == ["job 2 id 1"]


async def test_request_without_any_answer_is_in_doubt_and_settled_as_finished() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.mute = {128: 3}
        attempt = Try()
        with pytest.raises(Lost) as caught:
            await device.move_labware(CARRY, attempt)
        assert caught.value.sent
        assert (await device.settle(intent(attempt))).kind == "finished"
    assert peer.log == ["job 1 id 65538"]


@pytest.mark.parametrize("error", [2, 3, 4, 6])
async def test_error_of_the_program_is_a_fault_with_its_sentence(error: int) -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.error = error
        attempt = Try()
        with pytest.raises(Fault, match=r"arm: .*(reach|gripped|occupied|holds)"):
            await device.move_labware(CARRY, attempt)
        outcome = await device.settle(intent(attempt))
    assert outcome.kind == "failed"


async def test_job_that_is_not_taken_is_withdrawn() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        await device.home(Nothing(), Try(1))
        peer.takes_jobs = False
        with pytest.raises(Refused, match="withdrawn"):
            await device.home(Nothing(), Try(2))
        assert peer.registers[128] == 0
        peer.takes_jobs = True
        await asyncio.sleep(0.1)
    assert peer.log == ["job 2 id 1"]


async def test_settle_waits_for_a_job_that_still_runs() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.ends_jobs = False
        attempt = Try()
        moving = asyncio.ensure_future(device.move_labware(CARRY, attempt))
        await peer.until("job 1")
        moving.cancel()
        await asyncio.wait([moving])
        settling = asyncio.ensure_future(device.settle(intent(attempt)))
        await asyncio.sleep(0.3)
        assert not settling.done()
        peer.end_job()
        outcome = await settling
    assert outcome.kind == "finished"
    assert outcome.result == {"labware": "plate-1", "position": "nest-2", "well": "A2"}


async def test_settle_withdraws_a_request_nobody_has_taken() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        await device.home(Nothing(), Try(1))
        peer.takes_jobs = False
        attempt = Try(2)
        asking = asyncio.ensure_future(device.home(Nothing(), attempt))
        await until(lambda: peer.registers[128] == 1)
        asking.cancel()
        await asyncio.wait([asking])
        outcome = await device.settle(intent(attempt, "home"))
        assert outcome.kind == "not_executed"
        peer.takes_jobs = True
        await asyncio.sleep(0.1)
    assert peer.log == ["job 2 id 1"]


async def test_settle_after_a_restart_of_the_program_asks_a_person() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        attempt = Try()
        await device.move_labware(CARRY, attempt)
        peer.end_program()
        peer.start_program()
        outcome = await device.settle(intent(attempt))
    assert outcome.kind == "unknown"
    assert "restarted" in outcome.reason


async def test_settle_after_a_restart_knows_a_job_that_never_reached_the_registers() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        await device.home(Nothing(), Try(1))
        peer.end_program()
        peer.start_program()
        late = Intent("x", "home", {}, 2, b"", {"job_before": 1, "patience_s": 5.0})
        assert (await device.settle(late)).kind == "not_executed"
        first = Intent("x", "home", {}, 2, b"", {"job_before": 0, "patience_s": 5.0})
        assert (await device.settle(first)).kind == "unknown"


async def test_program_that_ends_part_way_is_lost_then_unknown() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.ends_jobs = False
        attempt = Try()
        moving = asyncio.ensure_future(device.move_labware(CARRY, attempt))
        await peer.until("job 1")
        peer.end_program()
        with pytest.raises(Lost) as caught:
            await moving
        assert caught.value.sent
        outcome = await device.settle(intent(attempt))
    assert outcome.kind == "unknown"
    assert "where the labware is" in outcome.reason


async def test_registers_that_outlive_the_program_are_not_believed() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.keeps_registers = True
        peer.ends_jobs = False
        moving = asyncio.ensure_future(device.home(Nothing(), Try()))
        await peer.until("job 2")
        peer.end_program()
        with pytest.raises(Lost, match="stood still"):
            await moving
        assert (await device.read()).program is False
        assert (await device.read()).busy is False


async def test_protective_stop_is_a_fault_and_ends_the_program() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.ends_jobs = False
        moving = asyncio.ensure_future(device.move_labware(CARRY, Try()))
        await peer.until("job 1")
        peer.registers[261] = 1
        with pytest.raises(Fault, match="protective stop"):
            await moving
        await peer.until("stop")
        assert (await device.read()).protective_stop
        with pytest.raises(Refused):
            await device.move_labware(CARRY, Try(9))


async def test_emergency_stop_is_refused_before_a_job_and_on_initialize() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.registers[262] = 1
        with pytest.raises(Refused, match="emergency stop"):
            await device.home(Nothing(), Try())
        peer.safety = "ROBOT_EMERGENCY_STOP"
        with pytest.raises(Refused, match="release the button"):
            await device.initialize(Nothing(), Try())
    assert peer.writes == []


async def test_initialize_powers_releases_and_plays_with_nothing_requested() -> None:
    async with ArmPeer() as peer:
        peer.robot_mode, peer.registers[258] = "POWER_OFF", 3
        peer.end_program()
        peer.registers[128] = 1
        async with arm(peer) as device:
            with pytest.raises(Refused, match="initialize"):
                await device.home(Nothing(), Try(4))
            await device.initialize(Nothing(), Try(5))
            assert (await device.read()).program
            assert peer.log == ["power on", "brake release", "load labedge_mover.urp", "play"]
            await device.home(Nothing(), Try(6))
        assert peer.log[-1] == "job 2 id 6"


async def test_program_that_is_missing_on_the_controller_is_named() -> None:
    async with ArmPeer() as peer:
        peer.end_program()
        async with arm(peer, program="other.urp") as device:
            with pytest.raises(Refused, match=r"File not found: other\.urp"):
                await device.prepare()


async def test_foreign_program_is_left_alone() -> None:
    async with ArmPeer() as peer:
        peer.beating = False
        async with arm(peer) as device:
            with pytest.raises(Refused, match="another program"):
                await device.prepare()
    assert peer.log == []


async def test_halt_ends_the_program_and_only_a_reset_plays_it_again() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.ends_jobs = False
        moving = asyncio.ensure_future(device.move_labware(CARRY, Try()))
        await peer.until("job 1")
        assert not await device.halted()
        device.halt()
        await peer.until("stop")
        with pytest.raises(Lost):
            await moving
        assert await device.halted()
        with pytest.raises(Refused, match="stopped"):
            await device.home(Nothing(), Try(3))
        peer.ends_jobs = True
        await device.prepare()
        assert peer.log[-2:] == ["load labedge_mover.urp", "play"]
        await device.home(Nothing(), Try(4))


async def test_halt_while_a_dashboard_answer_is_awaited() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.swallow_dashboard = True
        asking = asyncio.ensure_future(device.identify())
        await peer.until("get robot model")
        device.halt()
        with pytest.raises(Lost):
            await asking
        await peer.until("stop")
        assert not peer.playing


async def test_halt_with_the_dashboard_down_is_made_up_for() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.drop()
        await until(lambda: not device._desk.exchange.is_open)
        device.halt()
        await peer.until("stop")
        assert not peer.playing
        await until(lambda: device._desk.exchange.is_open and not device._stop_owed)
        assert await device.halted()


async def test_halt_before_open_does_nothing() -> None:
    links = Links()
    device = UniversalRobots("arm", UrOptions(driver="universal-robots", port="tcp://127.0.0.1:9"), links)
    device.halt()
    await device.close()
    await links.close()


async def test_heartbeat_counts_and_tells_what_to_do_without_it() -> None:
    async with ArmPeer() as peer, arm(peer, on_lost="stop"):
        await until(lambda: peer.registers.get(142, 0) >= 3)
        assert peer.registers[143] == 1
        gone = peer.registers[142]
    await asyncio.sleep(0.4)
    assert peer.registers[142] == gone


async def test_read_gives_the_tool_in_mm() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.registers[170] = 1
        reading = await device.read()
    assert (reading.x_mm, reading.y_mm, reading.z_mm) == (100.0, -400.0, 300.0)
    assert reading.mode == "running"
    assert reading.holding
    assert not reading.homed


async def test_unknown_place_and_unreachable_pose_are_refused_before_anything_is_written() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        with pytest.raises(Refused, match="place pose has x = 4000"):
            await device.move_labware(MoveLabware("plate-1", "far"), Try())
        assert isinstance(device.geometry, Table)
        device.geometry.standing = None
        with pytest.raises(Refused, match="Nobody knows where plate-1"):
            await device.move_labware(CARRY, Try())
        device.geometry = None
        with pytest.raises(Refused, match="teach frames"):
            await device.move_labware(CARRY, Try())
    assert peer.writes == []


async def test_arm_that_is_busy_takes_no_second_job() -> None:
    async with ArmPeer() as peer, arm(peer) as device:
        peer.ends_jobs = False
        peer.registers[163] = 1
        with pytest.raises(Refused, match="busy"):
            await device.home(Nothing(), Try())
    assert peer.log == []


async def test_serial_port_is_refused() -> None:
    links = Links()
    device = UniversalRobots("arm", UrOptions(driver="universal-robots", port="/dev/ttyUSB0"), links)
    with pytest.raises(Refused, match="tcp://"):
        await device.open()
    await links.close()


def test_declaration() -> None:
    operations = operations_of(UniversalRobots)
    assert list(operations) == ["initialize", "home", "move_labware"]
    options = UrOptions(driver="universal-robots", port="tcp://h:502", speed_mm_s=100.0)
    slow = operations["move_labware"].estimate_s(options, CARRY)
    fast = operations["move_labware"].estimate_s(UrOptions(driver="x", port="tcp://h:502"), CARRY)
    assert slow > fast > 1
    assert UniversalRobots.line(options).framing == "modbus-tcp"
