"""Back-off as a pure value, and whose turn it is."""

from __future__ import annotations

import asyncio

import pytest

from protocols.turns import SILENCES, Backoff, Turns, Unit


def test_a_back_off_doubles_up_to_its_end_and_starts_again() -> None:
    backoff = Backoff(0.2, 5.0)
    pauses = []
    for now in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0):
        backoff.failed(now)
        pauses.append(round(backoff.ready_at - now, 6))
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.succeeded()
    assert backoff.ready_at < 0
    backoff.failed(100.0)
    assert backoff.ready_at == pytest.approx(100.2)


async def test_a_unit_is_given_up_after_failures_in_a_row_only() -> None:
    unit = Unit("pump 1")
    for _ in range(SILENCES - 1):
        assert not unit.failed(1.0)
    assert not unit.answered()
    told = [unit.failed(2.0) for _ in range(SILENCES + 1)]
    assert told == [False] * (SILENCES - 1) + [True, False]
    assert unit.given_up
    assert unit.backoff.ready_at > 2.0
    assert unit.answered()
    assert not unit.given_up


async def turn(turns: Turns, name: str, log: list[str], label: str) -> None:
    unit = turns.unit(name)
    await turns.take(unit, 5.0, lambda: 0.0)
    log.append(label)
    await asyncio.sleep(0)
    turns.give_back(unit)


async def test_units_take_turns_and_keep_their_own_order() -> None:
    turns, log = Turns(), list[str]()
    async with asyncio.TaskGroup() as group:
        for label in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
            group.create_task(turn(turns, label[0], log, label))
    assert log == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_no_turn_in_time_gives_everything_back() -> None:
    turns, log = Turns(), list[str]()
    holder = turns.unit("a")
    await turns.take(holder, 5.0, lambda: 0.0)
    with pytest.raises(TimeoutError):
        await turns.take(turns.unit("b"), 0.01, lambda: 0.0)
    with pytest.raises(TimeoutError):
        await turns.take(holder, 0.01, lambda: 0.0)
    turns.give_back(holder)
    await turn(turns, "b", log, "b")
    await turn(turns, "a", log, "a")
    assert log == ["b", "a"]


async def test_who_is_cancelled_while_waiting_leaves_no_trace() -> None:
    turns, log = Turns(), list[str]()
    holder = turns.unit("a")
    await turns.take(holder, 5.0, lambda: 0.0)
    waiting = [asyncio.create_task(turn(turns, name, log, name)) for name in ("b", "b", "c")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    turns.give_back(holder)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert log == ["c", "b"]


async def test_a_unit_that_must_stay_outside_lets_the_others_pass() -> None:
    turns, log, held = Turns(), list[str](), [60.0]
    outside = turns.unit("dead")
    task = asyncio.create_task(turns.take(outside, 30.0, lambda: held[0]))
    await asyncio.sleep(0)
    await turn(turns, "b", log, "b")
    assert log == ["b"]
    assert not task.done()
    held[0] = 0.0
    turns.stir()
    await task
    turns.give_back(outside)
