"""The actor with a device that does what the test says: who may talk, when, and what waiting comes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.api import Identity
from drivers.errors import Fault, Lost, Refused
from edge.run import actor as module
from edge.run.actor import Actor, Interrupted, NotConnected, matches
from protocols.links import Links
from tests.edge.instruments import Bot, BotOptions, BotReadings, until


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.0, 0.001))


class Rig:
    """An actor, its device, and every state and sample it told."""

    def __init__(self, **options: Any) -> None:
        self.device = Bot("bot", BotOptions(driver="bot", port="x", **options), Links())
        self.states: list[tuple[str, str]] = []
        self.samples: list[float] = []
        self.actor = Actor(self.device, 60.0, self._state, self._sample)

    def _state(self, actor: Actor) -> None:
        self.states.append((actor.state, actor.reason))

    def _sample(self, actor: Actor) -> None:
        self.samples.append(actor.sample.values["temperature_c"])

    async def job(self, name: str, work: Callable[[], Awaitable[Any]] | None = None) -> Any:
        async def run() -> Any:
            self.device.log.append(name)
            return await work() if work is not None else name

        return await self.actor.perform(run, 5.0)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    before = asyncio.all_tasks()
    task = asyncio.create_task(rig.actor.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), "an actor ends by being cancelled and by nothing else"
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before, "it leaves nothing running"


async def test_it_connects_identifies_and_reads() -> None:
    async with running(Rig()) as rig:
        assert await rig.job("work") == "work"
        assert rig.device.log[:4] == ["open", "identify", "read", "work"]
        assert rig.samples == [20.0]
        assert rig.actor.identity == Identity("Bot", "1234", "1")
        await until(lambda: rig.actor.state == "ready")
        assert [state for state, _ in rig.states] == ["connecting", "ready", "busy", "ready"]


async def test_it_reads_on_its_own() -> None:
    rig = Rig()
    rig.actor.period_s = 0.001
    async with running(rig):
        await until(lambda: len(rig.samples) >= 3)
        rig.device.readings = BotReadings(temperature_c=37.0)
        await until(lambda: rig.samples[-1] == 37.0)
        assert rig.actor.sample.values == {"temperature_c": 37.0, "lid": "closed", "ready": True}
        rig.actor.quiet = True
        await asyncio.sleep(0.01)
        count = len(rig.samples)
        await asyncio.sleep(0.02)
        assert len(rig.samples) == count, "a device in doubt is left alone"


async def test_one_thing_at_a_time_in_order() -> None:
    async with running(Rig()) as rig:
        gate = asyncio.Event()
        first = asyncio.ensure_future(rig.job("first", gate.wait))
        rest = [asyncio.ensure_future(rig.job(name)) for name in ("second", "third")]
        await until(lambda: "first" in rig.device.log)
        await asyncio.sleep(0.005)
        assert "second" not in rig.device.log
        gate.set()
        await asyncio.gather(first, *rest)
        assert rig.device.log[-3:] == ["first", "second", "third"]


@pytest.mark.parametrize("error", [Refused("no"), Fault("stuck"), KeyError("bug"), Lost("late", sent=False)])
async def test_what_the_work_raises_reaches_who_asked_and_nobody_else(error: Exception) -> None:
    async with running(Rig()) as rig:

        async def fails() -> None:
            raise error

        with pytest.raises(type(error)):
            await rig.job("fails", fails)
        assert await rig.job("next") == "next"
        assert rig.device.log.count("open") == 1


async def test_a_device_with_another_serial_number_is_refused() -> None:
    async with running(Rig(identity="SN 9999")) as rig:
        await until(lambda: rig.actor.state == "refused")
        with pytest.raises(NotConnected, match=r"SN 1234.*but the cell file wants SN 9999"):
            await rig.job("work")
        assert {"read", "prepare", "work"}.isdisjoint(rig.device.log), "nothing else is asked of a stranger"
        rig.device.serial = "9999"
        await until(lambda: rig.actor.state == "ready")
        assert await rig.job("work") == "work"


async def test_a_twin_is_refused_while_a_run_is_under_way() -> None:
    rig = Rig()
    rig.actor.held_to = Identity("Bot", "9999", "1")
    async with running(rig):
        await until(lambda: rig.actor.state == "refused")
        with pytest.raises(NotConnected, match=r"SN 1234.*the run that is under way began with .*SN 9999"):
            await rig.job("work")
        assert {"read", "prepare", "work"}.isdisjoint(rig.device.log), "nothing else is asked of a twin"
        rig.actor.held_to = None
        await until(lambda: rig.actor.state == "ready")
        assert await rig.job("work") == "work"


@pytest.mark.parametrize(
    ("wanted", "identity", "same"),
    [
        ("SN 1234", Identity("Bot", "1234"), True),
        ("1234", Identity("Bot", "1234"), True),
        ("SN 123", Identity("Bot", "1234"), False),
        ("SN 1234", Identity("Bot 1234", "99"), False),
        ("Bot 7", Identity("Bot 7000"), True),
        ("SN 1", Identity("Bot"), False),
    ],
)
def test_identities(wanted: str, identity: Identity, same: bool) -> None:
    assert matches(wanted, identity) is same


async def test_a_job_waits_for_its_device_and_no_longer_than_it_may() -> None:
    rig = Rig()
    rig.device.absent = Lost("there is no port x", sent=False)
    async with running(rig):
        with pytest.raises(NotConnected, match="bot is not connected: there is no port x") as caught:
            await rig.actor.perform(rig.device.halted, 0.01)
        assert caught.value.sent is False
        waiting = asyncio.ensure_future(rig.job("work"))
        await until(lambda: rig.device.log.count("open") > 3)
        rig.device.absent = None
        assert await waiting == "work"


@pytest.mark.parametrize("error", [Lost("the line is dead"), Refused("odd"), TimeoutError(), KeyError("bug")])
async def test_a_device_that_goes_comes_back(error: Exception) -> None:
    rig = Rig()
    rig.actor.period_s = 0.001
    async with running(rig):
        await until(lambda: rig.actor.state == "ready")
        rig.device.absent = error
        await until(lambda: rig.actor.state in ("disconnected", "connecting"))
        reason = next(reason for state, reason in reversed(rig.states) if state == "disconnected")
        assert reason
        assert "close" in rig.device.log
        rig.device.absent = None
        assert await rig.job("work") == "work"


async def test_a_fault_in_the_readings_is_told_and_is_no_absence() -> None:
    rig = Rig()
    rig.actor.period_s = 0.001
    async with running(rig):
        await until(lambda: rig.actor.state == "ready")
        rig.device.absent = Fault("the electrode is dry")
        await until(lambda: rig.actor.reason == "the electrode is dry")
        assert rig.actor.state == "ready"
        rig.device.absent = None
        await until(lambda: rig.actor.reason == "")
        assert rig.device.log.count("open") == 1


async def test_a_lost_answer_is_followed_by_a_look_whether_the_device_is_there() -> None:
    async with running(Rig()) as rig:

        async def lost() -> None:
            raise Lost("no answer")

        with pytest.raises(Lost):
            await rig.job("a", lost)
        assert await rig.job("b") == "b"
        assert rig.device.log[-3:] == ["a", "read", "b"]
        rig.device.absent = Lost("no answer")
        with pytest.raises(Lost):
            await rig.job("c", lost)
        await until(lambda: rig.actor.state == "disconnected")
        rig.device.absent = None
        assert await rig.job("d") == "d"


async def test_jobs_behind_a_lost_device_wait_for_its_return_or_are_refused() -> None:
    async with running(Rig()) as rig:
        gone = asyncio.Event()

        async def lost() -> None:
            await gone.wait()
            rig.device.absent = Lost("no answer", sent=False)
            raise Lost("no answer")

        first = asyncio.ensure_future(rig.job("first", lost))
        patient = asyncio.ensure_future(rig.job("patient"))
        hasty = asyncio.ensure_future(rig.actor.perform(rig.device.halted, 0.005))
        await until(lambda: "first" in rig.device.log)
        await asyncio.sleep(0.01)
        gone.set()
        with pytest.raises(NotConnected):
            await hasty
        with pytest.raises(Lost):
            await first
        rig.device.absent = None
        assert await patient == "patient"
        assert "halted" not in rig.device.log


async def test_who_gives_up_waiting_in_the_queue_stops_nobody() -> None:
    async with running(Rig()) as rig:
        gate = asyncio.Event()
        first = asyncio.ensure_future(rig.job("first", gate.wait))
        second = asyncio.ensure_future(rig.job("second"))
        await until(lambda: "first" in rig.device.log)
        second.cancel()
        await asyncio.wait([second])
        gate.set()
        assert await first is True
        assert await rig.job("third") == "third"
        assert "second" not in rig.device.log


async def test_who_gives_up_its_own_work_ends_it() -> None:
    async with running(Rig()) as rig:
        ended: list[str] = []

        async def long() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("long")

        task = asyncio.ensure_future(rig.job("long", long))
        await until(lambda: "long" in rig.device.log)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await rig.job("next") == "next"
        assert ended == ["long"]


async def test_an_interruption_is_lost_to_who_asked_and_the_rest_goes_on() -> None:
    async with running(Rig()) as rig:
        rig.actor.interrupt()
        first = asyncio.ensure_future(rig.job("first", asyncio.Event().wait))
        second = asyncio.ensure_future(rig.job("second"))
        await until(lambda: "first" in rig.device.log)
        rig.actor.interrupt()
        with pytest.raises(Interrupted, match="stopped in the middle") as caught:
            await first
        assert caught.value.sent is True
        assert await second == "second"


async def test_an_actor_that_ends_takes_its_work_with_it() -> None:
    ended: list[str] = []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("work")

    async with running(Rig()) as rig:
        task = asyncio.ensure_future(rig.job("work", slow_to_end))
        await until(lambda: "work" in rig.device.log)
    assert ended == ["work"]
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


async def test_an_error_nobody_waits_for_any_more_is_no_loose_end() -> None:
    loose: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loose.append(context))
    async with running(Rig()) as rig:
        gate = asyncio.Event()

        async def fails_when_cancelled() -> None:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                raise Fault("stopped half way") from None

        task = asyncio.ensure_future(rig.job("work", fails_when_cancelled))
        await until(lambda: "work" in rig.device.log)
        task.cancel()
        await asyncio.wait([task])
        assert await rig.job("next") == "next"
    assert loose == []


async def test_connecting_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.005)
    rig = Rig()

    async def mute() -> Identity:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(rig.device, "identify", mute)
    async with running(rig):
        await until(lambda: ("disconnected", "it did not answer in time") in rig.states)
        monkeypatch.undo()
        assert await rig.job("work") == "work"


async def test_reading_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.actor.period_s = 0.001
    async with running(rig):
        await until(lambda: rig.actor.state == "ready")
        monkeypatch.setattr(module, "READ_S", 0.005)

        async def mute() -> BotReadings:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(rig.device, "read", mute)
        await until(lambda: ("disconnected", "it did not answer in time") in rig.states)
