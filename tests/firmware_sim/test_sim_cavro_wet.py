"""The pump's wet end: what is really moved, how long it takes, and what a stop leaves."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.firmware_sim.sims import BENCH, PORTS, PumpBench


def volumes(bench: PumpBench) -> tuple[float, float, float]:
    """Reservoir, well A1, syringe, in µl."""
    syringe = sum(bench.pump.state()["liquid_ul"].values())
    return bench.world.well_volume_ul("reservoir/A1"), bench.world.well_volume_ul("plate-1/A1"), syringe


def test_an_aliquot_goes_from_reservoir_to_well() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA300R")
    assert bench.settle() == pytest.approx(0.25 + 300 / 700)
    assert volumes(bench) == pytest.approx((39900.0, 0.0, 100.0))
    bench.ask("OA0R")
    bench.settle()
    assert volumes(bench) == pytest.approx((39900.0, 100.0, 0.0))
    moved = [
        (line["what"], line["amount_ul"], line["place"]) for line in bench.notes.of("aspirate", "dispense")
    ]
    assert moved == [("aspirate", 100.0, "reservoir/A1"), ("dispense", 100.0, "plate-1/A1")]
    assert [line["port"] for line in bench.notes.of("valve")] == [1, 2]


def test_a_stop_half_way_leaves_half() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA3000R")
    bench.pump.tick(0.25 + 1.0)
    bench.ask("T")
    bench.pump.tick(10.0)
    assert bench.ask("?") == (0x60, "700")
    assert volumes(bench) == pytest.approx((40000 - 700 / 3, 0.0, 700 / 3))
    (line,) = bench.notes.of("aspirate")
    assert (line["stopped"], line["increments"]) == (True, 700.0)


def test_t_lets_a_turning_valve_arrive() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA3000R")
    bench.pump.tick(0.1)
    assert bench.ask("T") == (0x40, "")
    assert bench.settle() == pytest.approx(0.15)
    assert (bench.ask("?6")[1], bench.ask("?")[1]) == ("i", "0")


def test_liquid_moves_while_the_plunger_does() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA3000R")
    bench.settle()
    bench.ask("OA0R")
    bench.pump.tick(0.25 + 3000 / 700 / 4)
    assert volumes(bench) == pytest.approx((39000.0, 250.0, 750.0))


def test_initializing_empties_the_syringe_through_the_output() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA600R")
    bench.settle()
    bench.ask("ZR")
    assert bench.settle() == pytest.approx(0.25 + 600 / 700 + 1.5)
    assert volumes(bench) == pytest.approx((39800.0, 200.0, 0.0))
    assert bench.notes.of("initialize")[-1]["amount_ul"] == pytest.approx(200.0)


def test_a_stopped_initialization_is_none() -> None:
    bench = PumpBench()
    bench.ask("ZR")
    bench.pump.tick(1.0)
    bench.ask("T")
    assert bench.ask("Q") == (0x67, "")
    assert bench.ask("A10R") == (0x67, "")


def test_w_leaves_the_valve_alone_until_power_cycle() -> None:
    bench = PumpBench()
    bench.ask("WR")
    bench.settle()
    assert bench.ask("Q") == (0x60, "")
    bench.ask("OA30R")
    bench.settle()
    assert (bench.ask("?6")[1], bench.ask("?")[1]) == ("i", "30")


def test_a_dry_well_gives_air_and_air_leaves_first() -> None:
    world = copy.deepcopy(BENCH)
    world["labware"]["reservoir"]["contents"] = {"A1": {"red-dye": 60.0}}
    bench = PumpBench(world)
    bench.initialize()
    bench.ask("IA300R")
    bench.settle()
    (line,) = bench.notes.of("aspirate")
    assert (line["amount_ul"], line["air_ul"]) == pytest.approx((60.0, 40.0))
    bench.ask("OD150R")
    bench.settle()
    assert volumes(bench) == pytest.approx((0.0, 10.0, 50.0)), "50 µl: 40 of air, 10 of dye"


def test_dispensing_over_nothing_is_a_spill() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA300R")
    bench.settle()
    bench.world.pick(bench.world.pose_of("nest-1"))
    bench.ask("OA0R")
    bench.settle()
    (line,) = bench.notes.of("dispense")
    assert (line["place"], line["amount_ul"]) == ("spill", pytest.approx(100.0))
    assert bench.world.spilled == pytest.approx({"red-dye": 100.0})


def test_a_plate_taken_away_in_the_middle_gets_its_share() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA700R")
    bench.settle()
    bench.ask("OA0R")
    bench.pump.tick(0.25 + 0.5)
    bench.world.pick(bench.world.pose_of("nest-1"))
    bench.settle()
    places = {line["place"]: line["amount_ul"] for line in bench.notes.of("dispense")}
    assert places == pytest.approx({"plate-1/A1": 350 / 3, "spill": 350 / 3}, abs=0.01)


def test_power_loss_in_motion_keeps_the_liquid_and_loses_the_position() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("IA3000R")
    bench.pump.tick(0.25 + 1.0)
    bench.pump.reboot()
    assert bench.pump.due() is None
    assert bench.ask("Q") == (0x67, "")
    assert bench.ask("?") == (0x60, "0"), "it does not know where its plunger is"
    assert volumes(bench)[2] == pytest.approx(700 / 3)
    assert bench.notes.of("aspirate")[0]["stopped"] is True
    bench.ask("ZR")
    bench.settle()
    assert volumes(bench) == pytest.approx((40000 - 700 / 3, 700 / 3, 0.0))


def test_a_move_to_where_it_is_moves_nothing() -> None:
    bench = PumpBench()
    bench.initialize()
    bench.ask("OA0R")
    assert bench.settle() == 0.0
    assert bench.notes.lines == []


@pytest.mark.parametrize(
    ("command", "port"),
    [("ZR", "6"), ("YR", "1"), ("Z0,1,3R", "3"), ("Z1,0,0R", "6"), ("ZI2R", "2"), ("ZO5R", "5")],
)
def test_distribution_valve(command: str, port: str) -> None:
    bench = PumpBench(valve="6-port-distribution")
    bench.ask(command)
    bench.settle()
    assert bench.ask("Q") == (0x60, "")
    assert bench.ask("?6")[1] == port


def test_four_port_valve_has_an_extra_port() -> None:
    bench = PumpBench(valve="4-port", ports={**PORTS, 3: "plate-1/H12"})
    bench.initialize()
    bench.ask("IA30EA0R")
    bench.settle()
    assert bench.ask("?6")[1] == "e"
    assert bench.world.well_volume_ul("plate-1/H12") == pytest.approx(10.0)


def test_a_slow_tick_and_many_small_ones_agree() -> None:
    def run(step: float) -> tuple[Any, ...]:
        bench = PumpBench()
        bench.initialize()
        bench.ask("gIP200M50OD200G3A0R")
        for _ in range(round(20 / step)):
            bench.pump.tick(step)
        return (*volumes(bench), len(bench.notes.of("aspirate")), bench.ask("?")[1])

    assert run(20.0) == pytest.approx(run(0.01))
