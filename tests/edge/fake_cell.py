"""A cell that plays its part on a real broker as a script tells it; it shares no code with the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from protocols.mqtt import Message, MqttSession, MqttSettings

Answer = Callable[["FakeCell", dict[str, Any]], Any]


def status(plan_id: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "plan_id": plan_id,
        "run_uid": "u1",
        "state": state,
        "steps": {"total": 2, "finished": 0, "failed": 0, "skipped": 0, "in_doubt": 0},
        "current": [],
        "waiting_for": [],
        "eta_s": None,
        "reason": "",
        "updated_at": "2026-01-01T00:00:00Z",
    } | more


def document(seq: int, name: str = "event") -> dict[str, Any]:
    return {"seq": seq, "name": name, "doc": {"n": seq}}


CELL_STATUS = {
    "online": True,
    "state": "Idle",
    "mode": "Produce",
    "session": "s1",
    "run": None,
    "queue": [],
    "alarms": 0,
    "devices": {"red": {"state": "ready", "driver": "cavro-xcalibur", "identity": "SN 1", "reason": ""}},
    "reason": "",
}


class FakeCell:
    """`bench-1` on a broker. `plans` and `commands` keep what came; the two hooks answer."""

    base = "labedge/v1/bench-1"

    def __init__(self, url: str) -> None:
        self.plans: list[bytes] = []
        self.commands: list[dict[str, Any]] = []
        self.on_plan: Answer = lambda cell, plan: cell.verdict(plan["plan_id"], "accepted")
        self.on_command: Answer = lambda cell, command: cell.reply(command["id"], "done")
        self._up = asyncio.Event()
        host, _, port = url.removeprefix("mqtt://").partition(":")
        self._session = MqttSession(
            MqttSettings(client_id="fake-cell", host=host, port=int(port)),
            subscriptions=[(f"{self.base}/plan/submit", 1), (f"{self.base}/command", 1)],
            on_message=self._on_message,
            on_up=self._up.set,
            on_down=lambda reason: None,
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeCell]:
        task = asyncio.create_task(self._session.run())
        try:
            async with asyncio.timeout(10):
                await self._up.wait()
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _on_message(self, message: Message) -> None:
        message.ack()
        if message.topic.endswith("/plan/submit"):
            self.plans.append(message.payload)
            self._spawn(self.on_plan(self, json.loads(message.payload)))
        else:
            self.commands.append(json.loads(message.payload))
            self._spawn(self.on_command(self, self.commands[-1]))

    def _spawn(self, answer: Any) -> None:
        if answer is not None:
            task = asyncio.ensure_future(answer)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def say(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        raw = b"" if payload is None else json.dumps(payload).encode()
        await self._session.publish(f"{self.base}/{topic}", raw, qos=1, retain=retain)

    async def verdict(self, plan_id: str, verdict: str, *reasons: dict[str, str]) -> None:
        await self.say(f"reply/{plan_id}", {"plan_id": plan_id, "verdict": verdict, "reasons": list(reasons)})

    async def reply(self, reply_id: str, result: str, *reasons: dict[str, str]) -> None:
        await self.say(f"reply/{reply_id}", {"id": reply_id, "result": result, "reasons": list(reasons)})

    async def run_status(self, plan_id: str, state: str, **more: Any) -> None:
        await self.say(f"run/{plan_id}/status", status(plan_id, state, **more), retain=True)

    async def document(self, plan_id: str, seq: int, name: str = "event") -> None:
        await self.say(f"run/{plan_id}/documents", document(seq, name))
