"""All five kinds of instruments in one plan: serial, Modbus RTU and TCP, OPC UA, and the arm between them."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import edge.demo
from firmware_sim.pytest_plugin import RunningBench
from tests.brokers import MosquittoFactory
from tests.system.kit import RunningCell, documents, moved, plan_of, wait_for

DEMO = Path(edge.demo.__file__).parent
ARM_HOME = {"id": "power", "device": "arm", "operation": "initialize"}


@pytest.fixture
def full_bench(start_bench: Callable[[Any], RunningBench]) -> RunningBench:
    """The demo's bench on free ports."""
    description = yaml.safe_load((DEMO / "bench.yaml").read_text())
    description["speed"] = 20.0
    description["instruments"]["arm"] |= {"link": "tcp:127.0.0.1:0", "dashboard": "127.0.0.1:0"}
    description["instruments"]["reader"]["link"] = "opc.tcp://127.0.0.1:0"
    return start_bench(description)


@pytest.fixture
async def full_cell(
    full_bench: RunningBench, mosquitto: MosquittoFactory, tmp_path: Path
) -> AsyncIterator[RunningCell]:
    """The demo's cell on that bench."""
    broker = mosquitto()
    cell = yaml.safe_load((DEMO / "cell.yaml").read_text())
    for name, keys in cell["devices"].items():
        keys["port"] = full_bench.addresses[name]
    cell["devices"]["arm"]["dashboard"] = full_bench.addresses["arm.dashboard"].removeprefix("tcp://")
    cell |= {"cell": "full", "mqtt": {"url": broker.url}, "telemetry": {"rate_hz": 5}}
    running = RunningCell(tmp_path, copy.deepcopy(cell), broker.port)
    running.start()
    try:
        async with running.connected():
            await running.state("Idle")
            await running.until(
                lambda: all(
                    d["state"] in ("ready", "busy") for d in running.of("cell/status")[-1]["devices"].values()
                )
            )
            yield running
    finally:
        running.stop()


def carry(to: str, well: str | None = None) -> dict[str, Any]:
    args = {"labware": "plate-1", "to": to} | ({"well": well} if well else {})
    return {"device": "arm", "operation": "move_labware", "args": args}


def pump(device: str, well: str, volume_ul: float) -> list[dict[str, Any]]:
    return [
        {
            "device": device,
            "operation": "aspirate",
            "args": {"source": f"{device}-stock/A1", "volume_ul": volume_ul},
        },
        {"device": device, "operation": "dispense", "args": {"target": well, "volume_ul": volume_ul}},
    ]


async def test_every_device_tells_who_it_is(full_cell: RunningCell) -> None:
    devices = full_cell.of("cell/status")[-1]["devices"]
    assert set(devices) == {"red", "yellow", "blue", "water", "scale", "ph", "arm", "reader"}
    assert all(device["identity"] for device in devices.values())


async def test_the_arm_brings_the_well_and_the_photometer_sees_its_colour(
    full_cell: RunningCell, full_bench: RunningBench
) -> None:
    plan = plan_of(
        full_cell.id,
        ARM_HOME,
        {"device": "red", "operation": "initialize"},
        {"device": "water", "operation": "initialize"},
        carry("nozzle-1", "B3"),
        *pump("red", "plate-1/B3", 60),
        *pump("water", "plate-1/B3", 140),
        carry("reader"),
        {
            "id": "read",
            "device": "reader",
            "operation": "measure",
            "args": {"well": "plate-1/B3", "wavelength_nm": 520},
            "record": True,
        },
        {
            "id": "blank",
            "device": "reader",
            "operation": "measure",
            "args": {"well": "plate-1/C3", "wavelength_nm": 520},
            "record": True,
        },
        {"id": "acid", "device": "ph", "operation": "measure", "record": True},
        {"id": "mass", "device": "scale", "operation": "weigh", "record": True},
    )
    assert (await full_cell.submit(plan))["verdict"] == "accepted"
    await full_cell.run_state(plan["plan_id"], "Complete")
    wells = full_bench.world()["wells"]
    assert wells["plate-1/B3"]["composition"] == pytest.approx({"red-dye": 60, "water": 140}, abs=1)
    assert full_bench.world()["labware"]["plate-1"]["at"] == "reader"
    found = await documents(full_cell, plan["plan_id"])
    streams = {d["doc"]["uid"]: d["doc"]["name"] for d in found if d["name"] == "descriptor"}
    values = {streams[d["doc"]["descriptor"]]: d["doc"]["data"] for d in found if d["name"] == "event"}
    assert values["read"]["reader_absorbance"] > 0.3
    assert abs(values["blank"]["reader_absorbance"]) < 0.02
    assert values["acid"]["ph_ph"] == pytest.approx(7, abs=0.1)
    assert values["mass"]["scale_mass_g"] == pytest.approx(55.0 + (40_000 - 140) * 0.998e-3, abs=0.02)


async def test_a_dispense_beside_the_well_is_rejected_beforehand(full_cell: RunningCell) -> None:
    plan = plan_of(full_cell.id, ARM_HOME, carry("nozzle-1", "B3"), *pump("red", "plate-1/B4", 10))
    verdict = await full_cell.submit(plan)
    assert verdict["verdict"] == "rejected"
    assert [r["path"] for r in verdict["reasons"]] == ["steps[3].args.target"]
    assert "plate-1/B3" in verdict["reasons"][0]["message"]
    read = {"device": "reader", "operation": "measure", "args": {"well": "plate-1/A1"}}
    nothing_there = await full_cell.submit(plan_of(full_cell.id, read))
    assert "no labware at reader" in nothing_there["reasons"][0]["message"]


async def test_abort_in_mid_carry_stops_the_arm_and_keeps_the_grip(
    full_cell: RunningCell, full_bench: RunningBench
) -> None:
    plan = plan_of(full_cell.id, ARM_HOME, carry("reader"))
    await full_cell.submit(plan)
    wait_for(lambda: full_bench.world()["labware"]["plate-1"]["at"] is None)
    assert (await full_cell.command("abort"))["result"] == "done"
    where = full_bench.world()["instruments"]["arm"]
    await full_cell.run_state(plan["plan_id"], "Aborted")
    after = full_bench.world()
    assert after["instruments"]["arm"] == where
    assert after["labware"]["plate-1"]["at"] is None


@pytest.mark.parametrize(
    ("instrument", "kind"),
    [
        ("red", "drop-reply"),
        ("red", "garble"),
        ("arm", "drop-reply"),
        ("arm", "delay"),
        ("ph", "garble"),
        ("scale", "truncate"),
    ],
)
async def test_a_fault_on_the_wire_moves_nothing_twice(
    full_cell: RunningCell, full_bench: RunningBench, instrument: str, kind: str
) -> None:
    full_bench.fault(instrument, kind, count=2, **({"for_s": 0.3} if kind == "delay" else {}))
    plan = plan_of(
        full_cell.id,
        ARM_HOME,
        {"device": "red", "operation": "initialize"},
        *pump("red", "plate-1/A1", 60),
        carry("reader"),
        {"device": "ph", "operation": "measure", "record": True},
        {"device": "scale", "operation": "weigh", "record": True},
    )
    await full_cell.submit(plan)
    await full_cell.run_state(plan["plan_id"], "Complete", timeout_s=60)
    assert [line["what"] for line in moved(full_bench, "red")] == ["aspirate", "dispense"]
    assert full_bench.world()["wells"]["plate-1/A1"]["volume_ul"] == pytest.approx(60, abs=0.5)
    assert [line["what"] for line in full_bench.lines("action", "arm")].count("place") == 1
