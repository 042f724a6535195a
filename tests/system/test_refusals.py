"""What the interface names and this version does not build is refused, and an abort never is."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.system.kit import RunningCell, plan_of


async def answered(cell: RunningCell, reply_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await cell.until(lambda: cell.of(f"reply/{reply_id}"))
    return found[-1]


async def test_a_plan_check_over_mqtt_is_answered_under_the_plans_id(cell: RunningCell) -> None:
    plan = plan_of(cell.id, {"device": "red", "operation": "initialize"})
    await cell.client.publish(f"{cell.base}/plan/check", json.dumps(plan), qos=1)
    verdict = await answered(cell, plan["plan_id"])
    assert verdict["verdict"] == "rejected"
    assert "not built yet" in verdict["reasons"][0]["message"]


@pytest.mark.parametrize(
    "command",
    ["suspend", "unsuspend", "answer", "acknowledge", "shelve", "mode", "do", "dance"],
)
async def test_a_command_that_is_not_built_is_refused(cell: RunningCell, command: str) -> None:
    reply = await cell.command(command)
    assert reply["result"] == "refused"
    assert reply["reasons"][0]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"command": "abort"},
        {"command": "abort", "id": "with spaces and \n", "cell": "another"},
        {
            "command": "abort",
            "id": "x1",
            "expires_at": "2000-01-01T00:00:00Z",
            "issued_at": "1999-01-01T00:00:00Z",
        },
        {"command": "abort", "id": "x1", "unheard-of": {"of": 1}},
    ],
)
async def test_an_abort_is_understood_whatever_else_is_wrong(cell: RunningCell, body: dict[str, Any]) -> None:
    await cell.client.publish(f"{cell.base}/command", json.dumps(body), qos=1, retain=True)
    await cell.state("Aborted")
    await cell.client.publish(f"{cell.base}/command", b"", qos=1, retain=True)


async def test_garbage_on_the_command_topic_moves_nothing(cell: RunningCell) -> None:
    for payload in (b"", b"\xff", b"[]", b'{"command": 5, "id": "x"}', b"{" * 10_000, uuid.uuid4().bytes):
        await cell.client.publish(f"{cell.base}/command", payload, qos=1)
    assert (await cell.command("hold"))["result"] == "refused"
    assert cell.of("cell/status")[-1]["state"] == "Idle"


async def test_a_flawed_command_is_refused_under_its_own_id(cell: RunningCell) -> None:
    body = {"command": "hold", "id": "readable-1", "urgency": "high"}
    await cell.client.publish(f"{cell.base}/command", json.dumps(body), qos=1)
    reply = await answered(cell, "readable-1")
    assert reply["result"] == "refused"
    assert "urgency" in reply["reasons"][0]["message"]
