"""One attempt: what the journal knows before and after the wire, and which of the four outcomes it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drivers.api import Attempt, Identity, Intent, Outcome, operations_of
from drivers.errors import Fault, Lost, Refused
from edge.run import attempt as module
from edge.run import stopping
from edge.run.attempt import AttemptContext, ask_device, attempt, default_timeout_s
from edge.store.database import Database, StoreError
from edge.store.journal import IntentRecord, Journal, OutcomeRecord
from protocols.links import Links
from tests.edge.instruments import (
    Answer,
    Bot,
    BotOptions,
    Gate,
    Moved,
    Poke,
    fails,
    gives,
    hangs,
    loses,
    never_sent,
    refuses,
)

OPERATIONS = operations_of(Bot)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    database = Database(tmp_path)
    database.open()
    yield Journal(database)
    await database.close()


@pytest.fixture
def bot() -> Bot:
    return Bot("arm", BotOptions(driver="bot", port="x"), Links())


def context_of(journal: Journal, operation: str = "poke") -> AttemptContext:
    args = Poke(depth_mm=2.0)
    return AttemptContext(journal, "plan", "arm", operation, "mix[2]/poke", args, journal.reserve())


async def once(
    journal: Journal, bot: Bot, answer: Answer, operation: str = "poke", timeout_s: float = 5.0
) -> Outcome:
    bot.answers.append(answer)
    outcome = await attempt(bot, OPERATIONS[operation], context_of(journal, operation), timeout_s)
    await journal.durable()
    return outcome


@pytest.mark.parametrize(
    ("operation", "answer", "kind", "reason"),
    [
        ("poke", gives(Moved(1.5)), "finished", ""),
        ("poke", refuses, "not_executed", "not now"),
        ("poke", never_sent, "not_executed", "the port is closed"),
        ("poke", fails, "failed", "the plunger is stuck"),
        ("stir", loses, "unknown", "no answer"),
        ("heat", loses, "unknown", "no answer"),
    ],
)
async def test_the_four_outcomes(
    journal: Journal, bot: Bot, operation: str, answer: Answer, kind: str, reason: str
) -> None:
    outcome = await once(journal, bot, answer, operation)
    assert (outcome.kind, outcome.reason) == (kind, reason)
    if kind == "finished":
        assert outcome.result == {"volume_ul": 1.5}
    *_, last = journal.records("plan")
    assert isinstance(last, OutcomeRecord)
    assert (last.outcome, last.execution) == (outcome, "mix[2]/poke")


async def test_the_intent_is_durable_before_the_wire_and_the_outcome_comes_after(
    journal: Journal, bot: Bot
) -> None:
    seen: list[Any] = []

    async def looks(bot: Bot, attempt: Attempt) -> Any:
        seen.extend(journal.records("plan"))

    await once(journal, bot, looks)
    (intent,) = seen
    assert isinstance(intent, IntentRecord)
    assert (intent.intent.frame, intent.intent.args) == (b"poke", {"depth_mm": 2.0, "note": ""})
    first, last = journal.records("plan")
    assert first == intent
    assert isinstance(last, OutcomeRecord)
    assert first.n == last.n == intent.intent.job_id


async def test_what_the_driver_wants_to_remember_is_kept(journal: Journal) -> None:
    context = context_of(journal)
    await context.intend(b"\x02A\x03", before=3, after=90.5)
    (record,) = journal.records("plan")
    assert isinstance(record, IntentRecord)
    assert record.intent.memo == {"before": 3, "after": 90.5}
    assert record.intent == context.intent


async def test_without_a_journal_no_frame(
    journal: Journal, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full() -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(journal, "durable", full)
    with pytest.raises(StoreError):
        await attempt(bot, OPERATIONS["poke"], context_of(journal), 5.0)
    assert "poke" not in bot.log


@pytest.mark.parametrize(
    "said", [Outcome("finished"), Outcome("not_executed"), Outcome("failed", reason="x")]
)
async def test_a_device_that_can_tell_is_asked_at_once(journal: Journal, bot: Bot, said: Outcome) -> None:
    bot.settles.append(said)
    assert await once(journal, bot, loses) == said
    assert bot.log == ["poke", "settle poke"]


@pytest.mark.parametrize("error", [Refused("odd"), Fault("stuck")])
async def test_a_device_that_cannot_answer_leaves_it_unknown(
    journal: Journal, bot: Bot, error: Exception
) -> None:
    bot.settles.append(error)
    outcome = await once(journal, bot, loses)
    assert (outcome.kind, outcome.reason) == ("unknown", f"no answer; {error}")


async def test_a_device_that_went_away_is_asked_when_it_is_back(journal: Journal, bot: Bot) -> None:
    bot.settles.extend([Lost("silence"), Lost("silence"), Outcome("finished", reason="back")])
    assert await once(journal, bot, loses) == Outcome("finished", reason="back")
    assert bot.log == ["poke", "settle poke"] + ["open", "identify", "settle poke"] * 2


async def test_a_device_that_stays_away_leaves_it_unknown(journal: Journal, bot: Bot) -> None:
    bot.settles.append(Lost("silence"))
    outcome = await ask_device(bot, await an_intent(journal), "no answer", None, 0.0)
    assert (outcome.kind, outcome.reason) == ("unknown", "no answer; silence")


async def test_another_device_in_its_place_is_not_believed(journal: Journal, bot: Bot) -> None:
    bot.settles.extend([Lost("silence"), Outcome("finished")])
    known = Identity("Bot", serial="1")
    outcome = await ask_device(bot, await an_intent(journal), "no answer", known)
    assert outcome.kind == "unknown"
    assert outcome.reason == "no answer; arm is now Bot, SN 1234, firmware 1, and was Bot, SN 1"
    assert len(bot.settles) == 1


async def an_intent(journal: Journal) -> Intent:
    context = context_of(journal)
    await context.intend(b"poke")
    assert context.intent is not None
    return context.intent


async def test_a_lost_question_before_the_intent_was_not_executed(
    journal: Journal, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(name: str, attempt: Attempt, result: Any = None) -> Any:
        raise Lost("no answer to a question")

    monkeypatch.setattr(bot, "_act", silent)
    for operation, kind in (("poke", "not_executed"), ("stir", "not_executed"), ("heat", "unknown")):
        outcome = await attempt(bot, OPERATIONS[operation], context_of(journal, operation), 5.0)
        assert outcome.kind == kind
    assert "settle poke" not in bot.log


async def test_what_takes_too_long_is_stopped_confirmed_and_settled(
    journal: Journal, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once() -> None:
        return None

    durable = journal.durable
    monkeypatch.setattr(journal, "durable", at_once)
    bot.settles.append(Outcome("failed", reason="it stopped half way"))
    outcome = await once(journal, bot, hangs, timeout_s=0.01)
    assert outcome == Outcome("failed", reason="it stopped half way")
    assert bot.log == ["poke", "halt", "halted", "settle poke"]
    outcome = await once(journal, bot, hangs, "stir", timeout_s=0.01)
    assert (outcome.kind, outcome.reason) == ("unknown", "stir took longer than 0.01 s and was stopped")
    await durable()


async def test_what_does_not_stop_is_said(
    journal: Journal, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def moving() -> bool:
        return False

    async def brief(device: Bot) -> str:
        return await stopping.confirm(device, 0.01)

    monkeypatch.setattr(bot, "halted", moving)
    monkeypatch.setattr(module, "confirm", brief)
    outcome = await once(journal, bot, hangs, "stir", timeout_s=0.01)
    assert outcome.reason.endswith("was stopped; it still moves")


async def test_a_settling_without_end_ends(
    journal: Journal, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(intent: Any) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(module, "SETTLE_S", 0.01)
    monkeypatch.setattr(bot, "settle", endless)
    outcome = await ask_device(bot, await an_intent(journal), "no answer", None)
    assert (outcome.kind, outcome.reason) == ("unknown", "no answer; arm still moves after 0.01 s")


async def test_an_attempt_that_is_cancelled_has_no_outcome(journal: Journal, bot: Bot) -> None:
    gate = Gate()
    bot.answers.append(gate)
    task = asyncio.ensure_future(attempt(bot, OPERATIONS["poke"], context_of(journal), 5.0))
    await gate.reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await journal.durable()
    assert [type(record) for record in journal.records("plan")] == [IntentRecord]
    assert "halt" not in bot.log, "who cancels has sent the stop already"


async def test_results_are_plain_values(journal: Journal, bot: Bot) -> None:
    class Odd(msgspec.Struct):
        data: bytes
        nested: Moved

    outcome = await once(journal, bot, gives(Odd(b"\xff", Moved(1.0))))
    assert outcome.result == {"data": "/w==", "nested": {"volume_ul": 1.0}}


async def test_a_deadline_is_generous(bot: Bot) -> None:
    assert default_timeout_s(OPERATIONS["poke"], bot.options, Poke(depth_mm=10)) == 80.0
    assert default_timeout_s(OPERATIONS["stir"], bot.options, Poke()) == 35.0


# ---- stopping ---------------------------------------------------------------------------------------------


def test_one_stop_that_fails_does_not_delay_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bots = [Bot(name, BotOptions(driver="bot", port="x"), Links()) for name in ("a", "b", "c")]

    def broken() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(bots[1], "halt", broken)
    assert stopping.stop_everything(bots) == ["b"]
    assert [bot.log for bot in bots] == [["halt"], [], ["halt"]]


async def test_standing_still_is_asked_until_it_is_true(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool | Exception] = [False, Lost("noise"), False, True]

    async def halted() -> bool:
        answer = said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(bot, "halted", halted)
    assert await stopping.confirm(bot) == ""
    assert said == []


async def test_silence_about_standing_still_is_said(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(bot, "halted", silent)
    assert await stopping.confirm(bot, 0.01) == "it did not answer"
    monkeypatch.setattr(bot, "halted", lambda: _raises(Lost("the line is dead")))
    assert await stopping.confirm(bot, 0.01) == "the line is dead"


async def _raises(error: Exception) -> bool:
    raise error
