"""A cell that may be broken on purpose: bench, broker and daemon, each killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt
import yaml
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import edge.demo
from firmware_sim.pytest_plugin import RunningBench, SimulatedBench
from tests.brokers import Mosquitto
from tests.system import kit
from tests.system.kit import RunningCell, cell_of

DEMO = Path(edge.demo.__file__).parent

BENCH: dict[str, Any] = copy.deepcopy(kit.BENCH)
"""The bench of stage (a), with a waste into which a pump can be emptied at any time."""
BENCH["instruments"]["red"]["ports"] = {1: "reservoir/A1", 2: {"over": "nozzle-1"}, 3: "waste/A1"}
BENCH["positions"]["sink"] = {}
BENCH["labware"]["waste"] = {"type": "trough-1", "at": "sink", "well_capacity_ul": 50000}

PRIME: dict[str, Any] = {
    "id": "prime",
    "device": "red",
    "operation": "initialize",
    "args": {"expel": True},
}
LOOK: dict[str, Any] = {"id": "look", "device": "scale", "operation": "weigh", "record": True}


def draw(volume_ul: Any = 30, step: str = "draw", **more: Any) -> dict[str, Any]:
    """Out of the reservoir; `speed_ul_s` among `more` makes it slow."""
    return _move(step, "aspirate", {"source": "reservoir/A1"}, volume_ul, more)


def drop(volume_ul: Any = 30, step: str = "drop", **more: Any) -> dict[str, Any]:
    """Into the well under the nozzle."""
    return _move(step, "dispense", {"target": "plate-1/A1"}, volume_ul, more)


def _move(
    step: str, operation: str, where: dict[str, Any], volume_ul: Any, more: dict[str, Any]
) -> dict[str, Any]:
    args = where | {"volume_ul": volume_ul}
    if "speed_ul_s" in more:
        args["speed_ul_s"] = more.pop("speed_ul_s")
    return {"id": step, "device": "red", "operation": operation, "args": args} | more


class KillableBench(SimulatedBench):
    """A bench that may lose its power."""

    def kill(self) -> None:
        """SIGKILL: nothing is closed, no link is removed."""
        self._process.kill()
        self._process.wait()


class BenchPlace:
    """One place for a bench: always the same links and the same log, whichever bench runs there."""

    def __init__(self, directory: Path, description: dict[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "bench.yaml"
        self.log = directory / "bench.jsonl"
        content = {**description, "links": str(directory / "ports"), "log": str(self.log)}
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))
        self.bench = KillableBench(self.file, self.log)

    def restart(self) -> None:
        """A fresh world on the same addresses, as after a power cut."""
        self.bench.kill()
        for link in self.file.parent.joinpath("ports").iterdir():
            link.unlink()  # the kernel gives the numbers of dead PTYs to other lines
        self.bench = KillableBench(self.file, self.log)


@contextlib.contextmanager
def bench_in(directory: Path, description: dict[str, Any] | None = None) -> Iterator[BenchPlace]:
    place = BenchPlace(directory, description or BENCH)
    try:
        yield place
    finally:
        place.bench.stop()


def full_bench() -> dict[str, Any]:
    """The demo's bench on free ports."""
    description: dict[str, Any] = yaml.safe_load((DEMO / "bench.yaml").read_text())
    description["speed"] = 20.0
    description["instruments"]["arm"] |= {"link": "tcp:127.0.0.1:0", "dashboard": "127.0.0.1:0"}
    description["instruments"]["reader"]["link"] = "opc.tcp://127.0.0.1:0"
    return description


def full_cell(addresses: dict[str, str], broker: str, **more: Any) -> dict[str, Any]:
    """The demo's cell on that bench."""
    cell: dict[str, Any] = yaml.safe_load((DEMO / "cell.yaml").read_text())
    for name, keys in cell["devices"].items():
        keys["port"] = addresses[name]
    cell["devices"]["arm"]["dashboard"] = addresses["arm.dashboard"].removeprefix("tcp://")
    return cell | {"cell": "full", "mqtt": {"url": broker}, "telemetry": {"rate_hz": 5}} | more


def red_cell(bench: RunningBench, broker: Mosquitto, **more: Any) -> dict[str, Any]:
    """A cell file of two pumps and a balance."""
    return copy.deepcopy(cell_of(BENCH, bench.addresses, broker.url, **more))


@contextlib.asynccontextmanager
async def daemon(
    directory: Path, cell: dict[str, Any], port: int, *wanted: str
) -> AsyncIterator[RunningCell]:
    """A daemon that is online and in one of the wanted states (Idle), ended afterwards whatever happens."""
    running = RunningCell(directory, cell, port)
    running.start()
    try:
        async with running.connected():
            await running.state(*(wanted or ("Idle",)))
            await all_ready(running)
            yield running
    finally:
        running.stop()


async def all_ready(cell: RunningCell) -> None:
    """Wait until every device of the latest status is there."""

    def ready() -> bool:
        status = cell.of("cell/status")[-1]
        return status["online"] and all(d["state"] in ("ready", "busy") for d in status["devices"].values())

    await cell.until(ready)


async def kill(cell: RunningCell) -> None:
    """SIGKILL the daemon; the broker tells its last will."""
    cell.signal(signal.SIGKILL)
    cell.wait()
    await cell.until(lambda: cell.of("cell/status")[-1] == {"online": False})


async def revive(cell: RunningCell, *wanted: str) -> dict[str, Any]:
    """Start the daemon again."""
    cell.start()
    return await cell.state(*(wanted or ("Held",)))


def phases(documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(execution, outcome) of every phase, in order; a document that came twice counts once."""
    first = {d["seq"]: d for d in documents}
    documents = [first[seq] for seq in sorted(first)]
    streams = {d["doc"]["uid"]: d["doc"]["name"] for d in documents if d["name"] == "descriptor"}
    events = [d["doc"] for d in documents if d["name"] == "event"]
    return [
        (e["data"]["execution"], e["data"]["outcome"]) for e in events if streams[e["descriptor"]] == "phases"
    ]


def gapless(documents: list[dict[str, Any]]) -> bool:
    """Each seq from 0 on, in order; some may be there twice."""
    highest = -1
    for document in documents:
        if document["seq"] > highest + 1:
            return False
        highest = max(highest, document["seq"])
    return highest >= 0


class Heard(NamedTuple):
    """One message as a subscriber saw it."""

    topic: str
    payload: Any
    retain: bool
    correlation: bytes | None


class Subscriber:
    """A planner with a persistent session, which connects again whenever the broker is there."""

    def __init__(self, port: int, base: str) -> None:
        self.heard: list[Heard] = []
        self.connections = 0
        self._port = port
        self._base = base
        self._news = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Subscriber]:
        task = asyncio.ensure_future(self._listen(f"planner-{uuid.uuid4().hex[:12]}"))
        try:
            await self.until(lambda: self.connections)
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _listen(self, client_id: str) -> None:
        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho left this one out
        lasting.SessionExpiryInterval = 3600
        while True:
            try:
                async with aiomqtt.Client(
                    "127.0.0.1",
                    self._port,
                    identifier=client_id,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                    properties=lasting,
                ) as client:
                    await client.subscribe(f"{self._base}/#", qos=1)
                    self.connections += 1
                    await self._tell()
                    async for message in client.messages:
                        await self._take(message)
            except aiomqtt.MqttError:
                await asyncio.sleep(0.05)

    async def _take(self, message: aiomqtt.Message) -> None:
        assert isinstance(message.payload, bytes)
        topic = str(message.topic).removeprefix(f"{self._base}/")
        if topic in ("plan/submit", "command"):
            return
        payload = json.loads(message.payload) if message.payload else None
        correlation = getattr(message.properties, "CorrelationData", None)
        self.heard.append(Heard(topic, payload, bool(message.retain), correlation))
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    def of(self, topic: str) -> list[Any]:
        return [heard.payload for heard in self.heard if heard.topic == topic]

    async def until(self, what: Callable[[], Any], timeout_s: float = kit.DEADLINE_S) -> Any:
        async with asyncio.timeout(timeout_s), self._news:
            while not (found := what()):
                await self._news.wait()
            return found


async def retained(port: int, base: str, *topics: str) -> dict[str, Any]:
    """What a newcomer finds on the broker under these topics."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(10), aiomqtt.Client("127.0.0.1", port) as client:
        for topic in topics:
            await client.subscribe(f"{base}/{topic}", qos=1)
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if message.retain:
                found[str(message.topic).removeprefix(f"{base}/")] = json.loads(message.payload)
            if len(found) == len(topics):
                break
    return found


def order_of(command: str, cell: str, command_id: str | None = None, **more: Any) -> dict[str, Any]:
    """A command's payload."""
    return {"command": command, "id": command_id or uuid.uuid4().hex, "cell": cell, "by": "test"} | more


def shared(cell: RunningCell) -> RunningCell:
    """The same daemon, seen from another test's event loop."""
    view = RunningCell(cell.directory, cell.cell, cell._port)
    view._process = cell._process
    return view


async def to_idle(cell: RunningCell) -> None:
    """Whatever a test has left behind, the next one begins with a cell that is Idle."""
    state = cell.of("cell/status")[-1]["state"]
    if state == "Idle":
        return
    for words in (("abort",), ("clear",), ("reset",)):
        assert await asyncio.to_thread(cell.cli, *words)
    await cell.state("Idle")
