"""One line all the way: plan over MQTT → pumps and balance on serial → documents, with abort and journal."""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path
from typing import Any

import event_model
import pytest

from firmware_sim.pytest_plugin import RunningBench
from tests.system.kit import RunningCell, documents, moved, plan_of, wait_for

DROP = (
    {"id": "prime", "device": "red", "operation": "initialize"},
    {
        "id": "draw",
        "device": "red",
        "operation": "aspirate",
        "args": {"source": "reservoir/A1", "volume_ul": {"$": "red_ul"}},
    },
    {
        "id": "drop",
        "device": "red",
        "operation": "dispense",
        "args": {"target": "plate-1/A1", "volume_ul": {"$": "draw.volume_ul"}},
    },
    {"id": "look", "device": "scale", "operation": "weigh", "record": True},
)


def drop_plan(cell: str, **more: Any) -> dict[str, Any]:
    return plan_of(cell, *DROP, parameters={"red_ul": 30}, **more)


async def test_a_plan_moves_matter_and_comes_back_as_documents(
    cell: RunningCell, stage_a: RunningBench
) -> None:
    plan = drop_plan(cell.id, name="one drop", metadata={"campaign": "first"})
    verdict = await cell.submit(plan)
    assert verdict == {"plan_id": plan["plan_id"], "verdict": "accepted", "reasons": []}
    status = await cell.run_state(plan["plan_id"], "Complete")
    assert status["steps"] == {"total": 4, "finished": 4, "failed": 0, "skipped": 0, "in_doubt": 0}

    world = stage_a.world()
    assert world["wells"]["plate-1/A1"]["volume_ul"] == pytest.approx(30, abs=0.4)
    assert [line["what"] for line in moved(stage_a, "red")] == ["aspirate", "dispense"]

    found = await documents(cell, plan["plan_id"])
    assert [d["seq"] for d in found] == list(range(len(found)))
    for each in found:
        event_model.schema_validators[event_model.DocumentNames[each["name"]]].validate(each["doc"])
    start, stop = found[0]["doc"], found[-1]["doc"]
    assert (start["plan_id"], start["metadata"]) == (plan["plan_id"], {"campaign": "first"})
    assert start["uid"] == status["run_uid"]
    assert stop["exit_status"] == "success"
    streams = {d["doc"]["uid"]: d["doc"]["name"] for d in found if d["name"] == "descriptor"}
    assert set(streams.values()) == {"look", "phases"}
    (weighed,) = [
        d["doc"] for d in found if d["name"] == "event" and streams[d["doc"]["descriptor"]] == "look"
    ]
    assert weighed["data"]["scale_mass_g"] == pytest.approx(0.030, abs=0.002)
    assert weighed["data"]["execution"] == "look"
    phases = [
        d["doc"]["data"]
        for d in found
        if d["name"] == "event" and streams[d["doc"]["descriptor"]] == "phases"
    ]
    assert [(p["execution"], p["outcome"]) for p in phases] == [
        (name, "finished") for name in ("prime", "draw", "drop", "look")
    ]


async def test_the_contracts_topics_are_there(cell: RunningCell) -> None:
    await cell.until(lambda: cell.of("telemetry/scale") and cell.of("telemetry/red"))
    capabilities = cell.of("cell/capabilities")[-1]
    assert set(capabilities["devices"]["red"]["operations"]) >= {"initialize", "aspirate", "dispense"}
    assert capabilities["devices"]["red"]["operations"]["aspirate"]["args"]["required"] == [
        "source",
        "volume_ul",
    ]
    status = cell.of("cell/status")[-1]
    assert status["online"] is True
    assert status["devices"]["red"]["state"] in ("ready", "busy")
    assert "1001" in status["devices"]["red"]["identity"]
    pack = cell.of("telemetry/scale")[-1]
    assert pack[0]["bn"] == f"{cell.id}:scale:"
    assert {"n": "mass_g", "u": "g"}.items() <= {
        k: v for r in pack if r["n"] == "mass_g" for k, v in r.items()
    }.items()
    assert cell.of("cell/inventory")[-1]["labware"]["reservoir"]["wells"]["A1"]["volume_ul"] == 40000


async def test_a_bad_plan_is_rejected_whole_with_every_reason(
    cell: RunningCell, stage_a: RunningBench
) -> None:
    plan = plan_of(
        "another-cell",
        {"id": "a", "device": "rde", "operation": "initialize"},
        {"id": "b", "device": "red", "operation": "aspirat"},
        {
            "id": "b",
            "device": "red",
            "operation": "aspirate",
            "args": {"source": "reservoir/A1", "volume_ul": -1},
        },
        {
            "id": "c",
            "device": "red",
            "operation": "aspirate",
            "args": {"source": "reservoir/B7", "volume_ul": 5},
        },
        {"id": "d", "device": "red", "operation": "dispense", "args": {"target": "plate-1/A1", "volume": 5}},
        {
            "id": "e",
            "device": "red",
            "operation": "dispense",
            "args": {"target": "plate-1/A1", "volume_ul": {"$": "f.x"}},
        },
        {"id": "f", "repeat": {"count": 3}, "steps": []},
        expires_at="2020-01-01T00:00:00Z",
    )
    verdict = await cell.submit(plan)
    assert verdict["verdict"] == "rejected"
    paths = {reason["path"] for reason in verdict["reasons"]}
    assert paths >= {
        "cell",
        "expires_at",
        "steps[0].device",
        "steps[1].operation",
        "steps[2].id",
        "steps[2].args.volume_ul",
        "steps[3].args.source",
        "steps[4].args.volume",
        "steps[4].args.volume_ul",
        "steps[5].args.volume_ul",
        "steps[6].repeat",
    }
    assert moved(stage_a, "red") == []


async def test_wells_are_never_overdrawn_nor_overflown(cell: RunningCell) -> None:
    draw = {"device": "red", "operation": "aspirate", "args": {"source": "reservoir/A1", "volume_ul": 400}}
    drop = {"device": "red", "operation": "dispense", "args": {"target": "plate-1/A1", "volume_ul": 400}}
    over = await cell.submit(plan_of(cell.id, draw, drop))
    assert [r["path"] for r in over["reasons"]] == ["steps[1].args.volume_ul"]
    assert "overflow" in over["reasons"][0]["message"]
    beside = {"device": "red", "operation": "dispense", "args": {"target": "plate-1/A2", "volume_ul": 100}}
    unreachable = await cell.submit(plan_of(cell.id, draw, beside))
    assert "does not reach plate-1/A2" in unreachable["reasons"][0]["message"]
    too_much = await cell.submit(plan_of(cell.id, draw, draw, draw))
    assert "it takes 1000 µl" in too_much["reasons"][0]["message"]


async def test_payloads_that_are_no_plan_are_answered(cell: RunningCell) -> None:
    for payload in (
        b"not json",
        b"[" * 5_000_000,
        b'{"schema":"labedge.plan/1"}',
        b"eyJhbGciOiJFZERTQSJ9.e30.AA",
    ):
        verdict = await cell.submit(payload)
        assert verdict["verdict"] == "rejected"
        assert verdict["reasons"][0]["message"]
    assert (await cell.state("Idle"))["state"] == "Idle"


async def test_the_same_plan_again_is_a_duplicate_and_runs_once(
    cell: RunningCell, stage_a: RunningBench
) -> None:
    plan = drop_plan(cell.id)
    await cell.submit(plan)
    assert (await cell.submit(plan))["verdict"] == "duplicate"
    await cell.run_state(plan["plan_id"], "Complete")
    assert (await cell.submit(plan))["verdict"] == "duplicate"
    other = await cell.submit(plan | {"name": "changed"})
    assert other["verdict"] == "rejected"
    assert len(moved(stage_a, "red")) == 2


async def test_abort_stops_the_plunger_and_clear_and_reset_bring_it_back(
    cell: RunningCell, stage_a: RunningBench
) -> None:
    slow = {
        "device": "red",
        "operation": "aspirate",
        "args": {"source": "reservoir/A1", "volume_ul": 900, "speed_ul_s": 5},
    }
    plan = plan_of(cell.id, {"device": "red", "operation": "initialize"}, slow)
    await cell.submit(plan)
    await cell.until(
        lambda: "s1" in (cell.of(f"run/{plan['plan_id']}/status") or [{"current": []}])[-1]["current"]
    )
    wait_for(lambda: stage_a.world()["wells"]["reservoir/A1"]["volume_ul"] < 39_990)
    assert (await cell.command("abort"))["result"] == "done"
    await cell.state("Aborted")
    await cell.run_state(plan["plan_id"], "Aborted")
    drawn = stage_a.world()["wells"]["reservoir/A1"]["volume_ul"]
    assert 39_100 < drawn < 40_000
    refused = await cell.command("clear")
    assert refused["result"] == "refused"
    assert "bench" in refused["reasons"][0]["message"]
    for command in ("clear", "reset"):
        done = cell.cli(command)
        assert done.returncode == 0, done.stderr
    await cell.state("Idle")
    assert stage_a.world()["wells"]["reservoir/A1"]["volume_ul"] == drawn
    again = plan_of(cell.id, {"device": "red", "operation": "initialize", "args": {"expel": True}})
    assert (await cell.submit(again))["verdict"] == "accepted"
    await cell.run_state(again["plan_id"], "Complete")


async def test_hold_and_unhold_between_steps(cell: RunningCell, stage_a: RunningBench) -> None:
    draw = {
        "device": "red",
        "operation": "aspirate",
        "args": {"source": "reservoir/A1", "volume_ul": 100, "speed_ul_s": 5},
    }
    plan = plan_of(cell.id, {"device": "red", "operation": "initialize"}, draw, draw, draw)
    await cell.submit(plan)
    await cell.run_state(plan["plan_id"], "Execute")
    assert (await cell.command("hold"))["result"] == "done"
    count = len(moved(stage_a, "red"))
    held = await cell.run_state(plan["plan_id"], "Held")
    assert held["steps"]["finished"] < 4
    assert (await cell.command("hold"))["result"] == "done"
    assert len(moved(stage_a, "red")) == count
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert len(moved(stage_a, "red")) == 3


async def test_stop_ends_the_run_after_the_running_step(cell: RunningCell) -> None:
    draw = {
        "device": "red",
        "operation": "aspirate",
        "args": {"source": "reservoir/A1", "volume_ul": 100, "speed_ul_s": 5},
    }
    plan = plan_of(cell.id, {"device": "red", "operation": "initialize"}, draw, draw, draw)
    await cell.submit(plan)
    await cell.run_state(plan["plan_id"], "Execute")
    assert (await cell.command("stop"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Stopped")
    found = await documents(cell, plan["plan_id"])
    assert found[-1]["doc"]["exit_status"] == "fail"
    assert (await cell.command("reset"))["result"] == "done"
    await cell.state("Idle")


async def test_a_command_id_is_answered_again_and_obeyed_once(cell: RunningCell) -> None:
    command_id = uuid.uuid4().hex
    body = json.dumps({"command": "stop", "id": command_id, "cell": cell.id})
    for _ in range(2):
        await cell.client.publish(f"{cell.base}/command", body, qos=1)
    await cell.until(lambda: [r["result"] for r in cell.of(f"reply/{command_id}")][-1:] == ["done"])
    await cell.state("Stopped")
    assert (await cell.command("reset"))["result"] == "done"
    await cell.state("Idle")
    await cell.client.publish(f"{cell.base}/command", body, qos=1)
    await cell.until(lambda: [r["result"] for r in cell.of(f"reply/{command_id}")].count("done") == 2)
    assert cell.of("cell/status")[-1]["state"] == "Idle"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_daemon_held_and_the_run_goes_on_after_a_restart(
    cell: RunningCell, stage_a: RunningBench, number: int
) -> None:
    draw = {
        "device": "red",
        "operation": "aspirate",
        "args": {"source": "reservoir/A1", "volume_ul": 100, "speed_ul_s": 5},
    }
    plan = plan_of(cell.id, {"device": "red", "operation": "initialize"}, draw, draw, draw)
    await cell.submit(plan)
    await cell.run_state(plan["plan_id"], "Execute")
    cell.signal(number)
    assert cell.wait() == 0
    await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})
    cell.start()
    await cell.state("Held")
    held = await cell.run_state(plan["plan_id"], "Held")
    assert not held["waiting_for"]
    assert (await cell.command("unhold"))["result"] == "done"
    await cell.run_state(plan["plan_id"], "Complete")
    assert [line["what"] for line in moved(stage_a, "red")] == ["aspirate"] * 3
    found = await documents(cell, plan["plan_id"])
    assert [d["seq"] for d in found] == list(range(len(found)))


async def test_a_replay_sends_every_document_again(cell: RunningCell) -> None:
    plan = drop_plan(cell.id)
    await cell.submit(plan)
    first = list(await documents(cell, plan["plan_id"]))
    assert (await cell.command("replay", plan_id=plan["plan_id"], from_seq=0))["result"] == "done"
    topic = f"run/{plan['plan_id']}/documents"
    await cell.until(lambda: len(cell.of(topic)) >= 2 * len(first))
    assert cell.of(topic) == first + first


async def test_a_person_corrects_the_books(cell: RunningCell, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(
        '{"labware": {"plate-1": {"wells": {"A1": {"water": 355}}}, "reservoir": {"wells": {"A1": {}}}}}'
    )
    done = cell.cli("set-inventory", str(truth))
    assert done.returncode == 0, done.stderr
    await cell.until(lambda: cell.of("cell/inventory")[-1]["labware"]["plate-1"]["wells"].get("A1"))
    verdict = await cell.submit(drop_plan(cell.id))
    assert "reservoir/A1 would be overdrawn" in verdict["reasons"][0]["message"]
    mistakes: tuple[dict[str, Any], ...] = (
        {"labware": {"plate-9": {}}},
        {"labware": {"plate-1": {"at": "shelf"}}},
        {"labware": {"plate-1": {"wells": {"A1": {"water": 400}}}}},
        {"labware": {"plate-1": {"wells": {"A1": {"water": -1}}}}},
        {"vessels": {"scale": {}}},
        {"labwares": {}},
    )
    for wrong in mistakes:
        reply = await cell.command("set_inventory", **wrong)
        assert reply["result"] == "refused", wrong
        assert reply["reasons"][0]["message"]
