"""A cable is pulled while matter moves: nothing is drawn twice, whoever is asked."""

from __future__ import annotations

import pytest

from firmware_sim.pytest_plugin import RunningBench
from tests.system.kit import RunningCell, moved, plan_of, wait_for

DRAW = {
    "id": "draw",
    "device": "red",
    "operation": "aspirate",
    "args": {"source": "reservoir/A1", "volume_ul": 400, "speed_ul_s": 5},
    "on_error": {"retry": 3, "then": "hold"},
}
"""80 s of motion: two seconds on this bench."""


@pytest.mark.parametrize("away_s", [0.5, 4.0])
async def test_a_cable_pulled_in_mid_stroke_draws_once(
    cell: RunningCell, stage_a: RunningBench, away_s: float
) -> None:
    plan = plan_of(cell.id, {"device": "red", "operation": "initialize"}, DRAW)
    await cell.submit(plan)
    wait_for(lambda: stage_a.world()["wells"]["reservoir/A1"]["volume_ul"] < 39_990)
    stage_a.fault("red", "disconnect", for_s=away_s)
    status = await cell.run_state(plan["plan_id"], "Complete", "Held", timeout_s=40)
    if status["state"] == "Held":
        assert status["waiting_for"][0]["kind"] == "in_doubt"
        await cell.until(lambda: cell.of("cell/status")[-1]["devices"]["red"]["state"] == "ready")
        assert (await cell.command("unhold"))["result"] == "done"
        await cell.run_state(plan["plan_id"], "Complete")
    assert [line["what"] for line in moved(stage_a, "red")] == ["aspirate"]
    assert stage_a.world()["wells"]["reservoir/A1"]["volume_ul"] == pytest.approx(39_600, abs=1)
    books = await cell.until(lambda: cell.of("cell/inventory")[-1])
    assert books["vessels"]["red"]["volume_ul"] == pytest.approx(400, abs=1)
