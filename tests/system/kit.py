"""A whole cell for a test: real broker, bench process, daemon process, and an MQTT client not of ours."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import yaml

from firmware_sim.pytest_plugin import RunningBench

DEADLINE_S = 60.0

BENCH: dict[str, Any] = {
    "bench": "stage-a",
    "speed": 40.0,
    "seed": 7,
    "instruments": {
        "red": {
            "model": "cavro-xcalibur",
            "link": "pty:rs485",
            "address": 1,
            "syringe_ul": 1000,
            "ports": {1: "reservoir/A1", 2: {"over": "nozzle-1"}},
            "serial": "1001",
        },
        "blue": {
            "model": "cavro-xcalibur",
            "link": "pty:rs485",
            "address": 2,
            "syringe_ul": 1000,
            "ports": {1: "reservoir-2/A1", 2: {"over": "nozzle-1"}},
        },
        "scale": {"model": "mt-sics", "link": "pty", "weighs": "plate-1"},
    },
    "positions": {
        "nest-1": {"frame": [[300.0, 100.0, 50.0], [399.0, 100.0, 50.0], [300.0, 163.0, 50.0]]},
        "nozzle-1": {"at": "nest-1"},
        "shelf": {},
        "shelf-2": {},
    },
    "labware": {
        "plate-1": {"type": "sbs-96", "at": "nest-1", "well_capacity_ul": 360},
        "reservoir": {
            "type": "trough-1",
            "at": "shelf",
            "well_capacity_ul": 50000,
            "contents": {"A1": {"red-dye": 40000}},
        },
        "reservoir-2": {
            "type": "trough-1",
            "at": "shelf-2",
            "well_capacity_ul": 50000,
            "contents": {"A1": {"blue-dye": 40000}},
        },
    },
    "liquids": {"red-dye": {"density_g_ml": 1.0}, "blue-dye": {"density_g_ml": 1.0}},
}

_PUMP = ("address", "syringe_ul", "ports")


def cell_of(bench: dict[str, Any], addresses: dict[str, str], broker: str, **more: Any) -> dict[str, Any]:
    """The cell file that belongs to a bench of pumps and balances; the test may change it."""
    bench = copy.deepcopy(bench)
    devices: dict[str, Any] = {}
    for name, keys in bench["instruments"].items():
        devices[name] = {"driver": keys["model"], "port": addresses[name]}
        devices[name] |= {key: keys[key] for key in _PUMP if key in keys}
    return {
        "cell": f"test-{uuid.uuid4().hex[:8]}",
        "state_dir": "./state",
        "mqtt": {"url": broker},
        "devices": devices,
        "positions": bench["positions"],
        "labware": bench["labware"],
        "telemetry": {"rate_hz": 5},
    } | more


class RunningCell:
    """A daemon process and a client on its topics."""

    def __init__(self, directory: Path, cell: dict[str, Any], port: int) -> None:
        self.directory = directory
        self.cell = cell
        self.id: str = cell["cell"]
        self.base = f"labedge/v1/{self.id}"
        self.file = directory / "cell.yaml"
        self.log = directory / "daemon.log"
        self.messages: list[tuple[str, Any, bool]] = []
        self._port = port
        self._news = asyncio.Condition()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.file.write_text(yaml.safe_dump(self.cell))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge", "run", str(self.file)], stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[RunningCell]:
        async with aiomqtt.Client("127.0.0.1", self._port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            self.client = client
            await client.subscribe("labedge/#", qos=1)
            reader = asyncio.ensure_future(self._read())
            try:
                yield self
            finally:
                reader.cancel()

    async def _read(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            ours = str(message.topic) in (f"{self.base}/plan/submit", f"{self.base}/command")
            payload = json.loads(message.payload) if message.payload and not ours else None
            async with self._news:
                self.messages.append((str(message.topic), payload, bool(message.retain)))
                self._news.notify_all()

    def of(self, topic: str) -> list[Any]:
        """Payloads seen on one of the cell's topics, oldest first."""
        return [payload for name, payload, _ in self.messages if name == f"{self.base}/{topic}"]

    async def until(self, what: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
        """The first true value of `what`, looked at whenever a message arrives."""
        try:
            async with asyncio.timeout(timeout_s), self._news:
                while not (found := what()):
                    await self._news.wait()
                return found
        except TimeoutError:
            last = {topic: payload for topic, payload, _ in self.messages if topic.endswith("/status")}
            said = self.log.read_text()
            raise AssertionError(
                f"did not happen in {timeout_s} s; last statuses: {last}; daemon said:\n{said}"
            ) from None

    async def state(self, *wanted: str, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until the cell's latest status is one of the wanted states."""

        def latest() -> Any:
            seen = self.of("cell/status")
            return seen and seen[-1].get("state") in wanted and seen[-1]

        found: dict[str, Any] = await self.until(latest, timeout_s)
        return found

    async def run_state(self, plan_id: str, *wanted: str, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until the run's latest status is one of the wanted states."""

        def latest() -> Any:
            seen = self.of(f"run/{plan_id}/status")
            return seen and seen[-1]["state"] in wanted and seen[-1]

        found: dict[str, Any] = await self.until(latest, timeout_s)
        return found

    async def submit(self, plan: dict[str, Any] | bytes) -> dict[str, Any]:
        """Publish a plan and return the first verdict that comes after it."""
        payload = plan if isinstance(plan, bytes) else json.dumps(plan).encode()
        before = len(self.messages)
        await self.client.publish(f"{self.base}/plan/submit", payload, qos=1)
        found: dict[str, Any] = await self.until(lambda: self._reply_after(before, "verdict"))
        return found

    def _reply_after(self, before: int, key: str) -> Any:
        for topic, payload, _ in self.messages[before:]:
            if topic.startswith(f"{self.base}/reply/") and key in payload:
                return payload
        return None

    async def command(self, command: str, timeout_s: float = DEADLINE_S, **args: Any) -> dict[str, Any]:
        """Send a command and return its final reply."""
        command_id = uuid.uuid4().hex
        body = {"command": command, "id": command_id, "cell": self.id, "by": "test", "args": args}
        await self.client.publish(f"{self.base}/command", json.dumps(body).encode(), qos=1)
        found: dict[str, Any] = await self.until(
            lambda: next((r for r in self.of(f"reply/{command_id}") if r["result"] != "accepted"), None),
            timeout_s,
        )
        return found

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `labedge` beside the daemon."""
        return subprocess.run(
            [sys.executable, "-m", "edge", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"LABEDGE_CELL": str(self.file)},
            check=False,
        )


def plan_of(cell: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A plan with ids filled in."""
    named = [{"id": f"s{number}", **step} for number, step in enumerate(steps)]
    head = {"schema": "labedge.plan/1", "plan_id": uuid.uuid4().hex, "cell": cell, "steps": named}
    return head | more


async def documents(cell: RunningCell, plan_id: str) -> list[dict[str, Any]]:
    topic = f"run/{plan_id}/documents"
    await cell.until(lambda: any(d["name"] == "stop" for d in cell.of(topic)))
    return cell.of(topic)


def moved(bench: RunningBench, instrument: str) -> list[dict[str, Any]]:
    """What really happened to matter at an instrument."""
    return [line for line in bench.lines("action", instrument) if line["what"] in ("aspirate", "dispense")]


def wait_for(what: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """For outside facts that announce themselves by no message."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return found
