"""The broker comes late, dies, lies and is flooded; what the contract says of topics and commands holds."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.brokers import Mosquitto, MosquittoFactory
from tests.protocols.test_mqtt_tls import Authority
from tests.system.kit import RunningCell, documents, moved, plan_of, wait_for
from tests.system.rig import (
    LOOK,
    PRIME,
    BenchPlace,
    Subscriber,
    bench_in,
    daemon,
    draw,
    drop,
    gapless,
    order_of,
    phases,
    red_cell,
    retained,
    shared,
    to_idle,
)

OLD = "2020-01-01T00:00:00Z"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[BenchPlace]:
    """For the tests that break their daemon or their broker."""
    with bench_in(tmp_path / "bench") as place:
        yield place


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    quick = ("max_queued_messages 20000", "autosave_on_changes false")  # it is never killed
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), *quick)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def everyones(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCell]:
    directory = tmp_path_factory.mktemp("cell")
    with bench_in(directory / "bench") as place:
        cell = RunningCell(directory, red_cell(place.bench, broker), broker.port)
        cell.start()
        yield cell
        cell.stop()


@pytest.fixture
async def cell(everyones: RunningCell) -> AsyncIterator[RunningCell]:
    """One daemon for the tests that break nothing."""
    async with shared(everyones).connected() as cell:
        await cell.until(lambda: cell.of("cell/status")[-1:] and cell.of("cell/status")[-1]["online"])
        await to_idle(cell)
        yield cell
        await to_idle(cell)


def movements(place: BenchPlace) -> int:
    return len(moved(place.bench, "red"))


def six_moves(cell: str) -> dict[str, Any]:
    """Some 0.4 s each on the bench's clock."""
    pairs = [(draw(40, f"draw{n}", speed_ul_s=5), drop(40, f"drop{n}", speed_ul_s=5)) for n in range(3)]
    return plan_of(cell, PRIME, *(step for pair in pairs for step in pair), LOOK)


async def test_without_a_broker_the_cell_starts_says_so_and_connects_when_it_comes(
    place: BenchPlace, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path)
    cell = RunningCell(tmp_path, red_cell(place.bench, broker), broker.port)
    cell.start()
    try:
        wait_for(lambda: cell.log.exists() and "Trying again until it answers" in cell.log.read_text())
        assert f"127.0.0.1:{broker.port}" in cell.log.read_text()
        wait_for(lambda: "Idle" in cell.cli("status").stdout)
        for command in ("stop", "reset"):
            done = cell.cli(command)
            assert done.returncode == 0, done.stderr
        broker.start()
        async with cell.connected():
            status = await cell.state("Idle")
            assert status["online"]
            plan = plan_of(cell.id, PRIME, LOOK)
            assert (await cell.submit(plan))["verdict"] == "accepted"
            await cell.run_state(plan["plan_id"], "Complete")
    finally:
        cell.stop()
        broker.kill()


@pytest.mark.parametrize("memory", ["kept", "lost"])
async def test_a_broker_killed_in_the_middle_of_a_run(place: BenchPlace, tmp_path: Path, memory: str) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    cell = RunningCell(tmp_path, red_cell(place.bench, broker), broker.port)
    cell.start()
    before = movements(place)
    try:
        async with Subscriber(broker.port, cell.base).listening() as planner:
            await planner.until(lambda: planner.of("cell/status")[-1:] and planner.of("cell/inventory"))
            plan = six_moves(cell.id)
            topic = f"run/{plan['plan_id']}/documents"
            async with aiomqtt.Client("127.0.0.1", broker.port) as client:
                await client.publish(f"{cell.base}/plan/submit", json.dumps(plan), qos=1)
            await planner.until(lambda: planner.of(topic))
            broker.kill()
            count = movements(place)
            wait_for(lambda: movements(place) >= count + 2)
            if memory == "lost":
                (tmp_path / "mosquitto.db").unlink(missing_ok=True)
            broker.start()
            await planner.until(lambda: any(d["name"] == "stop" for d in planner.of(topic)))
            found = planner.of(topic)
            if memory == "kept":
                assert gapless(found)
                assert len(phases(found)) == 8
            assert movements(place) == before + 6
            status = f"run/{plan['plan_id']}/status"
            there = await retained(
                broker.port, cell.base, "cell/status", "cell/capabilities", "cell/inventory", status
            )
            assert there["cell/status"]["online"]
            assert there[status]["state"] == "Complete"
            assert "red" in there["cell/capabilities"]["devices"]
    finally:
        cell.stop()
        broker.kill()


async def test_what_was_published_while_the_daemon_was_down_is_taken_when_it_returns(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with daemon(tmp_path, red_cell(place.bench, broker), broker.port) as cell:
        cell.signal(signal.SIGTERM)
        assert cell.wait() == 0
        plan = plan_of(cell.id, PRIME, LOOK)
        replay = order_of("replay", cell.id, args={"plan_id": "unknown"})
        await cell.client.publish(f"{cell.base}/plan/submit", json.dumps(plan), qos=1)
        await cell.client.publish(f"{cell.base}/command", json.dumps(replay), qos=1)
        cell.start()
        await cell.run_state(plan["plan_id"], "Complete")
        verdict = await cell.until(lambda: cell.of(f"reply/{plan['plan_id']}"))
        assert [v["verdict"] for v in verdict] == ["accepted"]
        (answer,) = await cell.until(lambda: cell.of(f"reply/{replay['id']}"))
        assert answer["result"] == "refused"
        assert "unknown" in answer["reasons"][0]["message"]


async def test_everything_essential_goes_over_mqtt_3(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    file = red_cell(place.bench, broker)
    file["mqtt"]["protocol"] = "3.1.1"
    before = movements(place)
    async with daemon(tmp_path, file, broker.port) as cell:
        plan = plan_of(cell.id, PRIME, draw(20), drop(20), LOOK)
        assert (await cell.submit(plan))["verdict"] == "accepted"
        await cell.run_state(plan["plan_id"], "Complete")
        assert gapless(await documents(cell, plan["plan_id"]))
        assert movements(place) == before + 2
        assert (await cell.command("abort"))["result"] == "done"
        cell.signal(signal.SIGKILL)
        cell.wait()
        await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})


async def test_over_tls_with_a_certificate_authority_of_the_lab(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "lab-ca")
    certificate, key = authority.issue("broker", "127.0.0.1")
    broker = mosquitto(f"cafile {authority.file}", f"certfile {certificate}", f"keyfile {key}")
    url = broker.url.replace("mqtt://", "mqtts://")
    file = red_cell(place.bench, broker) | {"mqtt": {"url": url, "ca_file": "./lab-ca.pem"}}
    cell = RunningCell(tmp_path, file, broker.port)
    cell.start()
    try:
        plan = plan_of(cell.id, PRIME, LOOK)
        paper = tmp_path / "plan.json"
        paper.write_text(json.dumps(plan))
        access = ("--url", url, "--cell", cell.id, "--ca-file", str(authority.file))
        wait_for(lambda: "Idle" in cell.cli("status", *access).stdout)
        done = cell.cli("plan", "submit", str(paper), *access, "--watch")
        assert done.returncode == 0, done.stderr
        assert "Complete" in done.stdout
    finally:
        cell.stop()


async def test_a_killed_daemon_leaves_its_last_will_behind(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    async with daemon(tmp_path, red_cell(place.bench, broker), broker.port) as cell:
        assert (await retained(broker.port, cell.base, "cell/status"))["cell/status"]["online"]
        cell.signal(signal.SIGKILL)
        cell.wait()
        await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})
        there = await retained(broker.port, cell.base, "cell/status")
        assert there == {"cell/status": {"online": False}}


def asking(topic: str, correlation: bytes) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho left this one out
    properties.ResponseTopic = topic
    properties.CorrelationData = correlation
    return properties


async def test_answers_go_to_the_response_topic_with_its_correlation_data(cell: RunningCell) -> None:
    async with Subscriber(cell._port, "inbox").listening() as inbox:
        plan = plan_of(cell.id, PRIME)
        command = order_of("stop", cell.id)
        await cell.client.publish(
            f"{cell.base}/plan/submit", json.dumps(plan), qos=1, properties=asking("inbox/plan", b"p-1")
        )
        await inbox.until(lambda: inbox.of("plan"))
        await cell.run_state(plan["plan_id"], "Complete")
        await cell.state("Idle")
        await cell.client.publish(
            f"{cell.base}/command", json.dumps(command), qos=1, properties=asking("inbox/order", b"c-1")
        )
        await inbox.until(lambda: len(inbox.of("order")) == 2)
        assert [(h.topic, h.correlation) for h in inbox.heard] == [
            ("plan", b"p-1"),
            ("order", b"c-1"),
            ("order", b"c-1"),
        ]
        assert inbox.of("plan")[0] == {"plan_id": plan["plan_id"], "verdict": "accepted", "reasons": []}
        assert [r["result"] for r in inbox.of("order")] == ["accepted", "done"]


async def test_a_response_topic_that_the_broker_refuses_holds_nothing_up(
    place: BenchPlace, mosquitto: MosquittoFactory, tmp_path: Path
) -> None:
    rights = tmp_path / "acl"
    rights.write_text("topic readwrite labedge/#\n")
    broker = mosquitto(f"acl_file {rights}")
    async with daemon(tmp_path, red_cell(place.bench, broker), broker.port) as cell:
        plan = plan_of(cell.id, PRIME, LOOK)
        await cell.client.publish(
            f"{cell.base}/plan/submit", json.dumps(plan), qos=1, properties=asking("secret/place", b"1")
        )
        await cell.run_state(plan["plan_id"], "Complete")
        assert gapless(await documents(cell, plan["plan_id"]))
        assert "secret/place" in cell.log.read_text()


def memory_mb(cell: RunningCell) -> float:
    assert cell._process is not None
    for line in Path(f"/proc/{cell._process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the daemon is gone")


def rubbish(chance: random.Random) -> bytes:
    """Of many kinds, some nearly right."""
    kinds = (
        lambda: chance.randbytes(chance.randrange(1, 4000)),
        lambda: b"[" * chance.randrange(1, 30_000),
        lambda: json.dumps({"schema": "labedge.plan/1", "plan_id": "x" * 900, "steps": [{}] * 40}).encode(),
        lambda: json.dumps({"command": "dance", "id": uuid.uuid4().hex}).encode(),
        lambda: json.dumps({"command": "hold", "id": uuid.uuid4().hex, "args": {"a": "b" * 20_000}}).encode(),
        lambda: json.dumps({"command": 7, "id": None}).encode(),
        lambda: b"",
    )
    return chance.choice(kinds)()


async def test_two_thousand_pieces_of_rubbish_delay_no_abort(cell: RunningCell) -> None:
    cell.client.pending_calls_threshold = 10_000  # so many at once are meant
    before = memory_mb(cell)
    chance = random.Random(3)
    async with asyncio.TaskGroup() as group:
        for topic in ("plan/submit", "command") * 1000:
            group.create_task(cell.client.publish(f"{cell.base}/{topic}", rubbish(chance), qos=1))
        abort = order_of("abort", cell.id)
        group.create_task(cell.client.publish(f"{cell.base}/command", json.dumps(abort), qos=1))
    await cell.until(
        lambda: [r["result"] for r in cell.of(f"reply/{abort['id']}")] == ["accepted", "done"], 8
    )
    await cell.state("Aborted")
    assert memory_mb(cell) - before < 60


@pytest.mark.parametrize(
    ("more", "retain", "because"),
    [
        ({}, True, "retain"),
        ({"expires_at": OLD}, False, "expired"),
        ({"issued_at": OLD}, False, "stale"),
        ({"issued_at": "2026-01-01T00:00:00"}, False, "time zone"),
        ({"cell": "another"}, False, "another"),
        ({"colour": "red"}, False, "colour"),
    ],
)
async def test_commands_that_are_refused(
    cell: RunningCell, more: dict[str, Any], retain: bool, because: str
) -> None:
    command = order_of("stop", cell.id) | more
    topic = f"{cell.base}/command"
    await cell.client.publish(topic, json.dumps(command), qos=1, retain=retain)

    def answers() -> list[Any]:
        return [
            p for t, p, _ in cell.messages if t.startswith(f"{cell.base}/reply/") and p["result"] == "refused"
        ]

    answer = (await cell.until(answers))[-1]
    assert because in answer["reasons"][0]["message"]
    assert cell.of("cell/status")[-1]["state"] == "Idle"
    if retain:
        await cell.client.publish(topic, b"", qos=1, retain=True)


@pytest.mark.parametrize(
    "more",
    [
        {"expires_at": OLD},
        {"issued_at": "2099-01-01T00:00:00Z"},
        {"issued_at": "yesterday, about noon"},
        {"cell": ""},
        {"id": "an id with spaces"},
        {"id": None},
        {"colour": "red"},
    ],
)
async def test_an_abort_is_never_refused(cell: RunningCell, more: dict[str, Any]) -> None:
    abort = order_of("abort", cell.id) | more
    await cell.client.publish(f"{cell.base}/command", json.dumps(abort), qos=1)
    await cell.state("Aborted")


async def test_an_abort_that_is_repeated_aborts_again(cell: RunningCell) -> None:
    abort = json.dumps(order_of("abort", cell.id))
    for _ in range(2):
        await cell.client.publish(f"{cell.base}/command", abort, qos=1)
        await cell.state("Aborted")
        for command in ("clear", "reset"):
            assert (await asyncio.to_thread(cell.cli, command)).returncode == 0
        await cell.state("Idle")
