"""What a failed movement leaves behind is not believed to be where it was."""

from __future__ import annotations

import asyncio

from firmware_sim.pytest_plugin import RunningBench
from tests.system.kit import RunningCell, plan_of, wait_for
from tests.system.test_stage_b import ARM_HOME, carry, full_bench, full_cell

__all__ = ["full_bench", "full_cell"]


async def test_a_plate_left_in_the_gripper_stands_nowhere_until_a_person_says_where(
    full_cell: RunningCell, full_bench: RunningBench
) -> None:
    plan = plan_of(full_cell.id, ARM_HOME, carry("reader"))
    await full_cell.submit(plan)
    await asyncio.to_thread(wait_for, lambda: full_bench.world()["labware"]["plate-1"]["at"] is None)
    full_bench.fault("arm", "stuck", for_s=1)
    await full_cell.run_state(plan["plan_id"], "Held")
    assert (await full_cell.command("abort"))["result"] == "done"
    await full_cell.run_state(plan["plan_id"], "Aborted")
    for command in ("clear", "reset"):
        assert full_cell.cli(command).returncode == 0
    await full_cell.until(lambda: full_cell.of("cell/inventory")[-1]["labware"]["plate-1"]["at"] is None)
    again = plan_of(
        full_cell.id,
        {"device": "red", "operation": "initialize", "args": {"expel": True}},
        {"device": "red", "operation": "aspirate", "args": {"source": "red-stock/A1", "volume_ul": 50}},
        {"device": "red", "operation": "dispense", "args": {"target": "plate-1/A1", "volume_ul": 50}},
    )
    verdict = await full_cell.submit(again)
    assert verdict["verdict"] == "rejected"
    assert "does not reach plate-1/A1" in verdict["reasons"][0]["message"]
    assert any(alarm["id"] == "prepare-arm" for alarm in full_cell.of("alarm"))
