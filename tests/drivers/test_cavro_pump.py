"""The pump driver against a scripted pump on a real PTY: what it sends, and what it makes of the answers."""

from __future__ import annotations

import pytest

from drivers.errors import DriverError, Fault, Lost, Refused
from drivers.liquid.cavro_xcalibur.declared import Aspirate, Dispense, Initialize
from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur
from protocols.links import Links
from tests.drivers.cavro_rig import BUSY, DRAW, READY, answer, at, beginning, draw, error, frame, make
from tests.drivers.scripted import ScriptedPeer, Try, Turn


async def test_a_move_has_an_absolute_target_and_a_durable_intent(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect(beginning(100))
    peer.expect([Turn(frame(3, "V6000IA130R"), answer(BUSY))])
    peer.expect(
        [Turn(frame(4, "Q"), answer(BUSY)), Turn(frame(5, "Q"), answer()), Turn(frame(6, "?"), at(130))]
    )
    attempt = Try(peer)
    moved = await pump.aspirate(draw, attempt)
    assert (moved.volume_ul, round(moved.plunger_ul, 3)) == (10.0, 43.333)
    assert attempt.frames == [frame(3, "V6000IA130R")]
    assert attempt.on_wire == frame(1, "Q") + frame(2, "?")
    assert (attempt.memo["before"], attempt.memo["after"], attempt.memo["port"]) == (100, 130, 1)


async def test_dispense_goes_through_the_nozzle_at_the_speed_asked_for(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect(beginning(60))
    peer.expect(
        [
            Turn(frame(3, "V600OA29R"), answer(BUSY)),
            Turn(frame(4, "Q"), answer()),
            Turn(frame(5, "?"), at(29)),
        ]
    )
    moved = await pump.dispense(Dispense("plate-1/B2", 10.4, speed_ul_s=100.0), Try())
    assert moved.volume_ul == pytest.approx(31 / 3)


async def test_a_distribution_valve_and_microsteps(peer: ScriptedPeer, links: Links) -> None:
    ports = {3: "reservoir/A1", 5: "waste/A1", 9: {"over": "nozzle-1"}}
    pump = make(peer, links, address=15, ports=ports, microsteps=True, expel_port=5)
    await pump.open()

    def there(sequence: int, command: str) -> bytes:
        return frame(sequence, command, address=15)

    peer.expect([Turn(there(1, "Q"), error(7)), Turn(there(2, "N1Z0,3,5R"), answer(BUSY))])
    peer.expect([Turn(there(3, "Q"), answer()), Turn(there(4, "?"), at(0))])
    await pump.initialize(Initialize(), Try())
    peer.expect(
        [
            Turn(there(5, "Q"), answer()),
            Turn(there(6, "?"), at(0)),
            Turn(there(7, "V6000I3A240R"), answer(BUSY)),
        ]
    )
    peer.expect([Turn(there(1, "Q"), answer()), Turn(there(2, "?"), at(240))])
    assert (await pump.aspirate(draw, Try())).plunger_ul == 10.0


async def test_a_lost_acknowledgement_is_asked_for_with_the_repeat_flag(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect(beginning(0))
    peer.expect(
        [Turn(frame(3, DRAW)), Turn(frame(3, DRAW, repeat=True)), Turn(frame(3, DRAW, repeat=True), answer())]
    )
    peer.expect([Turn(frame(4, "Q"), answer()), Turn(frame(5, "?"), at(30))])
    await pump.aspirate(draw, Try())


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        answer()[:-2],
        answer()[:-1] + b"\x00",
        b"\x021`\x03P",
        b"\xff\x00\x03\x02",
        answer(READY, "77"),
    ],
    ids=["silence", "half", "wrong-check", "not-for-us", "garbage", "answer-to-another-question"],
)
async def test_a_question_without_a_good_answer_is_asked_anew(
    peer: ScriptedPeer, pump: CavroXCalibur, noise: bytes
) -> None:
    peer.expect([Turn(frame(1, "Q"), noise), Turn(frame(2, "Q"), answer()), Turn(frame(3, "?"), at(3))])
    peer.expect([Turn(frame(4, "?6"), answer(READY, "o"))])
    readings = await pump.read()
    assert (readings.ready, readings.plunger_ul, readings.valve, readings.error) == (True, 1.0, "o", "")


async def test_an_answer_that_comes_late_is_not_taken_for_the_next(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect(
        [Turn(frame(1, "Q"), answer()), Turn(frame(2, "?"), at(7), after_s=0.2), Turn(frame(3, "?"), at(600))]
    )
    peer.expect([Turn(frame(4, "?6"), answer(READY, "i"))])
    assert (await pump.read()).plunger_ul == 200.0


async def test_a_pump_that_never_answers_a_command_leaves_its_outcome_open(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect(beginning(0))
    peer.expect([Turn(frame(3, DRAW)), *[Turn(frame(3, DRAW, repeat=True))] * 3])
    with pytest.raises(Lost, match="red") as lost:
        await pump.aspirate(draw, Try())
    assert lost.value.sent


@pytest.mark.parametrize(
    ("code", "says"),
    [(2, "does not know"), (3, "out of its range"), (7, "initialise it first"), (11, "bypass"), (15, "busy")],
)
async def test_an_error_in_the_acknowledgement_means_not_executed(
    peer: ScriptedPeer, pump: CavroXCalibur, code: int, says: str
) -> None:
    peer.expect([*beginning(0), Turn(frame(3, DRAW), error(code))])
    with pytest.raises(Refused, match=says):
        await pump.aspirate(draw, Try())


@pytest.mark.parametrize(
    ("code", "plunger", "kind", "says"),
    [
        (
            9,
            12,
            Fault,
            "stands at 4 µl, on its way from 0 µl to 10 µl.*plunger was blocked.*initialise it first",
        ),
        (9, 0, Fault, "plunger was blocked"),
        (10, 0, Fault, "valve was blocked"),
        (3, 0, Refused, "did not move.*out of its range"),
        (7, 0, Lost, "restarted during the move"),
        (6, 30, Fault, "EEPROM"),
    ],
)
async def test_an_error_when_the_move_has_ended(
    peer: ScriptedPeer, pump: CavroXCalibur, code: int, plunger: int, kind: type[DriverError], says: str
) -> None:
    peer.expect([*beginning(0), Turn(frame(3, DRAW), answer(BUSY))])
    peer.expect([Turn(frame(4, "Q"), error(code)), Turn(frame(5, "?"), at(plunger))])
    with pytest.raises(kind, match=says):
        await pump.aspirate(draw, Try())


@pytest.mark.parametrize(("plunger", "kind"), [(0, Refused), (17, Fault)])
async def test_a_good_acknowledgement_is_not_believed_without_the_plunger(
    peer: ScriptedPeer, pump: CavroXCalibur, plunger: int, kind: type[DriverError]
) -> None:
    peer.expect([*beginning(0), Turn(frame(3, DRAW), answer())])
    for sequence in (4, 6, 1):
        peer.expect([Turn(frame(sequence, "Q"), answer()), Turn(frame(sequence % 7 + 1, "?"), at(plunger))])
    with pytest.raises(kind):
        await pump.aspirate(draw, Try())


@pytest.mark.parametrize(
    ("status", "says"),
    [(answer(BUSY), "still moving"), (error(7), "initialise it first"), (error(9), "blocked")],
)
async def test_a_pump_that_cannot_move_is_not_told_to(
    peer: ScriptedPeer, pump: CavroXCalibur, status: bytes, says: str
) -> None:
    peer.expect([Turn(frame(1, "Q"), status)])
    attempt = Try()
    with pytest.raises(Refused, match=says):
        await pump.aspirate(draw, attempt)
    assert not attempt.frames


@pytest.mark.parametrize(
    ("args", "before", "says"),
    [
        (Aspirate("reservoir/A1", 10.0), 2990, "room for 3.33333 µl"),
        (Dispense("plate-1/A1", 10.0), 20, "holds 6.66667 µl"),
        (Aspirate("reservoir/A1", 0.16), 0, "one increment is 0.333333 µl"),
        (Dispense("plate-1/A1", 1.0), 0, "one increment"),
    ],
)
async def test_volumes_that_the_syringe_cannot_move(
    peer: ScriptedPeer, pump: CavroXCalibur, args: Aspirate | Dispense, before: int, says: str
) -> None:
    peer.expect(beginning(before))
    with pytest.raises(Refused, match=says):
        await (pump.aspirate(args, Try()) if isinstance(args, Aspirate) else pump.dispense(args, Try()))


async def test_a_pump_that_was_left_in_microstep_mode(peer: ScriptedPeer, pump: CavroXCalibur) -> None:
    peer.expect(beginning(24000))
    with pytest.raises(Refused, match="counts in microsteps"):
        await pump.dispense(Dispense("plate-1/A1", 10.0), Try())


async def test_rounding_may_leave_a_little_missing_and_the_result_tells(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect([*beginning(28), Turn(frame(3, "V6000OA0R"), answer(BUSY))])
    peer.expect([Turn(frame(4, "Q"), answer()), Turn(frame(5, "?"), at(0))])
    moved = await pump.dispense(Dispense("plate-1/A1", 10.0), Try())
    assert (round(moved.volume_ul, 3), moved.plunger_ul) == (9.333, 0.0)


async def test_a_speed_or_a_well_that_the_pump_does_not_have(peer: ScriptedPeer, links: Links) -> None:
    pump = make(peer, links, ports={1: "reservoir/A1"})
    with pytest.raises(Refused, match=r"0\.8333 to 1000 µl/s, not at 2000"):
        await pump.aspirate(Aspirate("reservoir/A1", 10.0, speed_ul_s=2000.0), Try())
    with pytest.raises(Refused, match=r"No valve port of red ends in plate-1/A1 \(1: reservoir/A1\)"):
        await pump.dispense(Dispense("plate-1/A1", 10.0), Try())


async def test_initialize_of_a_pump_that_has_just_been_switched_on(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect([Turn(frame(1, "Q"), error(7)), Turn(frame(2, "N0Z0R"), error(7, BUSY))])
    peer.expect(
        [Turn(frame(3, "Q"), answer(BUSY)), Turn(frame(4, "Q"), answer()), Turn(frame(5, "?"), at(0))]
    )
    attempt = Try()
    await pump.initialize(Initialize(), attempt)
    assert attempt.frames == [frame(2, "N0Z0R")]


async def test_initialize_does_not_spill_what_the_syringe_holds(
    peer: ScriptedPeer, pump: CavroXCalibur
) -> None:
    peer.expect(beginning(300))
    with pytest.raises(Refused, match=r"stands at 100 µl and would be emptied.*expel: true"):
        await pump.initialize(Initialize(), Try())
    peer.expect([Turn(frame(3, "Q"), answer()), Turn(frame(4, "N0Z0R"), answer(BUSY))])
    peer.expect([Turn(frame(5, "Q"), answer()), Turn(frame(6, "?"), at(0))])
    await pump.initialize(Initialize(expel=True), Try())


@pytest.mark.parametrize(
    ("syringe_ul", "force"), [(50, 2), (100, 2), (250, 1), (500, 1), (1000, 0), (5000, 0)]
)
async def test_small_glass_is_initialised_gently(
    peer: ScriptedPeer, links: Links, syringe_ul: float, force: int
) -> None:
    pump = make(peer, links, syringe_ul=syringe_ul)
    await pump.open()
    peer.expect([Turn(frame(1, "Q"), error(7)), Turn(frame(2, f"N0Z{force}R"), error(3))])
    with pytest.raises(Refused, match="out of its range"):
        await pump.initialize(Initialize(), Try())


@pytest.mark.parametrize(("status", "plunger"), [(error(1), None), (error(9), None), (answer(), 4)])
async def test_an_initialisation_that_failed(
    peer: ScriptedPeer, pump: CavroXCalibur, status: bytes, plunger: int | None
) -> None:
    peer.expect(
        [Turn(frame(1, "Q"), error(7)), Turn(frame(2, "N0Z0R"), answer(BUSY)), Turn(frame(3, "Q"), status)]
    )
    peer.expect([Turn(frame(4, "?"), at(plunger))] if plunger is not None else [])
    with pytest.raises(Fault, match="initialise"):
        await pump.initialize(Initialize(), Try())


async def test_identity(peer: ScriptedPeer, pump: CavroXCalibur) -> None:
    peer.expect(
        [Turn(frame(1, "&"), answer(READY, "30035432-C")), Turn(frame(2, "?76"), answer(READY, "3 port"))]
    )
    peer.expect([Turn(frame(3, "?202"), answer(READY, "1234"))])
    assert str(await pump.identify()) == "Cavro XCalibur (3 port), SN 1234, firmware 30035432-C"
    peer.expect(
        [
            Turn(frame(4, "&"), answer(READY, "P/N")),
            *[Turn(frame(n, q), error(3)) for n, q in ((5, "?76"), (6, "?202"))],
        ]
    )
    assert str(await pump.identify()) == "Cavro XCalibur, firmware P/N"
