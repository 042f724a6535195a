"""The pump driver settles attempts, stops, and shares its line: against a scripted pump on a real PTY."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from drivers.api import Intent
from drivers.errors import Lost, Refused
from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur
from protocols.links import Links
from tests.drivers.cavro_rig import BUSY, DRAW, answer, at, beginning, draw, error, frame, make, stop
from tests.drivers.scripted import ScriptedPeer, Try, Turn

MEMO = {"port": 1, "before": 0, "after": 30, "expected_s": 0.3}


@pytest.mark.parametrize(
    ("status", "plunger", "kind", "says", "moved_ul"),
    [
        (answer(), 30, "finished", "", 10.0),
        (answer(), 0, "not_executed", "has not moved", None),
        (error(15), 0, "not_executed", "busy", None),
        (answer(), 12, "unknown", "stands at 4 µl", 4.0),
        (error(9), 30, "unknown", "blocked", 10.0),
        (error(9), 0, "unknown", "blocked", 0.0),
        (error(7), 0, "unknown", "restarted", None),
        (error(7), 30, "unknown", "restarted", None),
        (error(1), 0, "unknown", "initialisation failed", None),
    ],
)
async def test_the_plunger_settles_what_became_of_an_attempt(
    peer: ScriptedPeer,
    pump: CavroXCalibur,
    status: bytes,
    plunger: int,
    kind: str,
    says: str,
    moved_ul: float | None,
) -> None:
    peer.expect([Turn(frame(1, "Q"), status), Turn(frame(2, "?"), at(plunger))])
    outcome = await pump.settle(Intent("draw", "aspirate", {}, 1, frame(3, DRAW), MEMO))
    assert outcome.kind == kind
    assert says in outcome.reason
    assert outcome.result.get("volume_ul") == moved_ul


async def test_settling_waits_for_a_move_that_goes_on(peer: ScriptedPeer, pump: CavroXCalibur) -> None:
    peer.expect(
        [Turn(frame(1, "Q"), answer(BUSY)), Turn(frame(2, "Q"), answer(BUSY)), Turn(frame(3, "Q"), answer())]
    )
    peer.expect([Turn(frame(4, "?"), at(30))])
    assert (await pump.settle(Intent("draw", "aspirate", {}, 1, b"", MEMO))).kind == "finished"


async def test_a_stop_goes_through_at_once_and_the_move_ends_open(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect([*beginning(0), Turn(frame(3, DRAW), answer(BUSY)), Turn(frame(4, "Q"))])
    move = asyncio.ensure_future(pump.aspirate(draw, Try()))
    await peer.followed()
    pump.halt()
    peer.expect([Turn(stop(5), answer(BUSY))])
    with pytest.raises(Lost) as lost:
        await move
    assert lost.value.sent
    # It still moves: the stop is repeated, this time with acknowledgement.
    peer.expect([Turn(frame(6, "Q"), answer(BUSY)), Turn(frame(7, "T"), answer())])
    assert not await pump.halted()
    peer.expect([Turn(frame(1, "Q"), answer())])
    assert await pump.halted()


async def test_after_a_stop_between_two_looks_the_outcome_is_open(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect([*beginning(0), Turn(frame(3, DRAW), answer(BUSY))])
    move = asyncio.ensure_future(pump.aspirate(draw, Try()))
    await peer.followed()
    await asyncio.sleep(0.02)
    peer.expect([Turn(stop(4)), Turn(frame(5, "Q"), answer()), Turn(frame(6, "?"), at(12))])
    pump.halt()
    with pytest.raises(Lost, match="stopped during the move"):
        await move


async def test_nothing_is_sent_after_a_stop(peer: ScriptedPeer, pump: CavroXCalibur) -> None:
    class Stopping(Try):
        async def intend(self, frame: bytes, **memo: Any) -> None:
            pump.halt()

    peer.expect([*beginning(0), Turn(stop(4), answer())])
    with pytest.raises(Refused, match="stopped before the command was sent"):
        await pump.aspirate(draw, Stopping())
    await peer.followed()


async def test_one_of_two_pumps_on_a_line_is_stopped(peer: ScriptedPeer, links: Links) -> None:
    red, blue = make(peer, links, "red", address=1), make(peer, links, "blue", address=2)
    await red.open()
    await blue.open()
    peer.expect([Turn(stop(1, 1)), Turn(stop(1, 2)), Turn(frame(2, "Q", address=2), answer())])
    red.halt()
    blue.halt()
    assert await blue.halted()


async def test_a_port_that_is_not_there(peer: ScriptedPeer, links: Links) -> None:
    pump = make(peer, links, port="/dev/no-such-port")
    with pytest.raises(Lost, match="no-such-port") as lost:
        await pump.open()
    assert not lost.value.sent
    pump.halt()


async def test_two_pumps_that_want_the_line_set_differently(peer: ScriptedPeer, links: Links) -> None:
    await make(peer, links, "red").open()
    with pytest.raises(Refused, match="red and blue share this port"):
        await make(peer, links, "blue", baudrate=38400).open()


async def test_a_pump_that_was_never_opened(peer: ScriptedPeer, links: Links) -> None:
    pump = make(peer, links)
    pump.halt()
    with pytest.raises(Lost, match="not been opened") as lost:
        await pump.read()
    assert not lost.value.sent
