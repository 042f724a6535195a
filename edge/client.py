"""What a planner imports: submit plans to a cell over MQTT, follow them, read their data, give commands.

    async with CellClient("mqtt://localhost:1883", "bench-1") as cell:
        job = plan("bench-1", [step("weigh", "scale", "weigh", record=True)])
        verdict = await cell.submit(job)
        async for document in cell.documents(job["plan_id"]):
            ...

Everything sent may be sent again without harm: the cell recognises a plan by its id and payload, and a
command by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypedDict, Unpack

import msgspec

from edge.errors import LabedgeError
from edge.link.messages import Capabilities, CellStatus, Document, Offline, Reply, RunStatus, Verdict, utc_now
from edge.link.topics import Topics
from edge.plan.model import SCHEMA
from protocols.errors import BadRequest, WireError
from protocols.mqtt import Message, MqttSession, MqttSettings, parse_url

CONNECT_S = 15.0
VERDICT_S = 30.0
RETRY_S = 0.2
SILENCE_S = 5.0
"""After this long without a document of a run that has ended, the missing ones are asked for."""
SESSION_S = 300
"""How long the broker keeps what comes while the connection is away."""
KEPT = 50_000
"""Documents kept of a run that nobody reads yet; older ones are asked for again."""
FINAL = frozenset({"Complete", "Stopped", "Aborted"})

_encode = msgspec.json.Encoder().encode


class ClientError(LabedgeError):
    """The cell or the broker does not answer, or not as asked."""


class Access(TypedDict, total=False):
    """How a broker wants to be spoken to; all of it may be left out."""

    username: str | None
    password: str | None
    ca_file: str | None
    cert_file: str | None
    key_file: str | None


@dataclass
class _Run:
    """What has been heard of a run."""

    status: RunStatus | None = None
    documents: deque[Document] = field(default_factory=lambda: deque(maxlen=KEPT))
    watched: bool = False
    """Documents are kept from now on."""
    complete: bool = False
    """Watched since before its first document."""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class CellClient:
    """One cell, as a planner sees it. An asynchronous context manager; raises ClientError with sentences.

    Entering it fails at once when the broker cannot be reached; a connection lost later is made again.
    """

    def __init__(self, url: str, cell: str, *, by: str = "planner", **access: Unpack[Access]) -> None:
        """`url` is mqtt://HOST:PORT or mqtts://HOST:PORT; raises BadRequest for any other."""
        host, port, tls = parse_url(url)
        self.cell = cell
        self.by = by
        self.topics = Topics(cell)
        settings = MqttSettings(
            client_id=f"labedge-client-{uuid.uuid4().hex[:16]}",
            host=host,
            port=port,
            tls=tls,
            session_expiry_s=SESSION_S,
            **access,
        )
        heard = (
            self.topics.reply("+"),
            self.topics.run_status("+"),
            self.topics.documents("+"),
            self.topics.cell_status,
            self.topics.capabilities,
        )
        self._first_word = asyncio.Event()
        """Connected, or failed for the first time."""
        self._session = MqttSession(
            settings,
            subscriptions=[(topic, 1) for topic in heard],
            on_message=self._on_message,
            on_up=self._first_word.set,
            on_down=self._on_down,
        )
        self._down = ""
        self._replies: dict[str, asyncio.Queue[bytes]] = {}
        self._runs: dict[str, _Run] = {}
        self._retained: dict[str, bytes] = {}
        self._retained_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CellClient:
        self._task = asyncio.create_task(self._session.run(), name="mqtt client")
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._first_word.wait()
            if not self._session.connected:
                raise ClientError(f"There is no connection: {self._down}.")
        except TimeoutError:
            await self.__aexit__()
            raise ClientError("The broker does not answer.") from None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # ---- asking ---------------------------------------------------------------------------------

    async def submit(self, plan: dict[str, Any] | bytes, within_s: float = VERDICT_S) -> Verdict:
        """Send a plan and wait for the verdict; from then on its documents are kept for `documents`."""
        payload = plan if isinstance(plan, bytes) else _encode(plan)
        plan_id = _plan_id(payload)
        ids = [f"sha256-{hashlib.sha256(payload).hexdigest()}", *([plan_id] if plan_id else [])]
        if plan_id:
            self._watch(plan_id)
        answer = await self._exchange(self.topics.submit, payload, ids, within_s)
        verdict = msgspec.json.decode(answer, type=Verdict)
        if plan_id:
            self._runs[plan_id].complete = verdict.verdict == "accepted"
            if verdict.verdict == "rejected":
                del self._runs[plan_id]
        return verdict

    async def command(self, name: str, /, within_s: float = 60.0, **args: Any) -> Reply:
        """Give a command (`hold`, `cancel`, plan_id=…) and wait until it is done, failed or refused.

        The cell refuses it when it comes later than `within_s`.
        """
        now = utc_now()
        command = {
            "command": name,
            "id": new_id(),
            "cell": self.cell,
            "issued_at": now,
            "expires_at": now + timedelta(seconds=within_s),
            "by": self.by,
            "args": args,
        }
        reply_id = str(command["id"])
        async with self._answers([reply_id], within_s) as answers:
            await self._publish(self.topics.command, _encode(command))
            while True:
                reply = msgspec.json.decode(await answers.get(), type=Reply)
                if reply.result != "accepted":
                    return reply

    async def status(self, within_s: float = 5.0) -> CellStatus | Offline:
        """What the cell last said of itself."""
        return _cell_status(await self._retained_payload(self.topics.cell_status, within_s))

    async def until_online(self, within_s: float = 30.0) -> CellStatus:
        """Wait for the cell to be on the broker: before it has ever been there, nothing would reach it."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    self._retained_news.clear()
                    said = self._retained.get(self.topics.cell_status)
                    if said is not None and isinstance(status := _cell_status(said), CellStatus):
                        return status
                    await self._retained_news.wait()
        except TimeoutError:
            raise ClientError(f"{self._silence()} It was waited for {within_s:g} s.") from None

    async def capabilities(self, within_s: float = 5.0) -> Capabilities:
        """Devices, operations with JSON Schemas, positions, limits."""
        payload = await self._retained_payload(self.topics.capabilities, within_s)
        return msgspec.json.decode(payload, type=Capabilities)

    # ---- following ------------------------------------------------------------------------------

    async def follow(self, plan_id: str, first_within_s: float = 30.0) -> AsyncIterator[RunStatus]:
        """A run's status at every change, the newest at once, until it is Complete, Stopped or Aborted.

        Statuses that come faster than they are read are left out, never the last.
        """
        run = self._runs.setdefault(plan_id, _Run())
        told: RunStatus | None = None
        while True:
            run.news.clear()
            if run.status is not None and run.status is not told:
                told = run.status
                yield told
                if told.state in FINAL:
                    return
                continue
            try:
                async with asyncio.timeout(first_within_s if told is None else None):
                    await run.news.wait()
            except TimeoutError:
                raise ClientError(f"Cell {self.cell} says nothing of a run {plan_id}.") from None

    async def documents(self, plan_id: str, from_seq: int = 0) -> AsyncIterator[Document]:
        """A run's documents from `from_seq` on, in order, each once, until its stop document.

        What is missing is asked for with `replay`. Raises ClientError when the cell knows no such run.
        """
        run = self._watch(plan_id)
        clock = asyncio.get_running_loop().time
        early: dict[int, Document] = {}
        expected, asked_at = from_seq, -SILENCE_S
        missing = not run.complete
        while True:
            run.news.clear()
            while run.documents:
                document = run.documents.popleft()
                early[document.seq] = document
            while expected in early:
                document = early.pop(expected)
                expected += 1
                yield document
                if document.name == "stop":
                    run.watched = False
                    return
            early = {seq: document for seq, document in early.items() if seq > expected}
            if (missing or early) and clock() - asked_at >= SILENCE_S:
                await self._replay(plan_id, expected)
                asked_at, missing = clock(), False
            elif not await _within(SILENCE_S, run.news):
                missing = run.status is not None and run.status.state in FINAL

    async def _replay(self, plan_id: str, from_seq: int) -> None:
        reply = await self.command("replay", plan_id=plan_id, from_seq=from_seq)
        if reply.result != "done":
            raise ClientError(f"Cell {self.cell} does not replay {plan_id}: {sentences(reply.reasons)}")

    # ---- wire -----------------------------------------------------------------------------------

    def _watch(self, plan_id: str) -> _Run:
        run = self._runs.setdefault(plan_id, _Run())
        run.watched = True
        return run

    async def _exchange(self, topic: str, payload: bytes, ids: Sequence[str], within_s: float) -> bytes:
        async with self._answers(ids, within_s) as answers:
            await self._publish(topic, payload)
            return await answers.get()

    @contextlib.asynccontextmanager
    async def _answers(self, ids: Sequence[str], within_s: float) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Answers to these ids, listened for before anything is sent."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._replies.update(dict.fromkeys(ids, queue))
        try:
            async with asyncio.timeout(within_s):
                yield queue
        except TimeoutError:
            raise ClientError(f"{self._silence()} Nothing was answered within {within_s:g} s.") from None
        finally:
            for one in ids:
                self._replies.pop(one, None)

    def _silence(self) -> str:
        if not self._session.connected:
            return f"There is no connection to the broker ({self._down or 'not yet'})."
        said = self._retained.get(self.topics.cell_status)
        if said is None:
            return f"No cell `{self.cell}` has ever been on this broker."
        if isinstance(_cell_status(said), Offline):
            return f"Cell {self.cell} is offline."
        return f"Cell {self.cell} is online."

    async def _publish(self, topic: str, payload: bytes) -> None:
        """Until the broker has it. It may arrive twice, and the cell knows that."""
        while True:
            try:
                await self._session.publish(topic, payload, qos=1)
            except BadRequest as error:
                raise ClientError(f"The broker refuses the message: {error}") from error
            except WireError:
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _retained_payload(self, topic: str, within_s: float) -> bytes:
        try:
            async with asyncio.timeout(within_s):
                while topic not in self._retained:
                    self._retained_news.clear()
                    await self._retained_news.wait()
        except TimeoutError:
            raise ClientError(f"{self._silence()} Check the cell's id and the broker.") from None
        return self._retained[topic]

    def _on_down(self, reason: str) -> None:
        self._down = reason
        self._first_word.set()

    def _on_message(self, message: Message) -> None:
        message.ack()
        kind, _, rest = message.topic.removeprefix(f"{self.topics.base}/").partition("/")
        if kind == "reply":
            if (queue := self._replies.get(rest)) is not None:
                queue.put_nowait(message.payload)
        elif kind == "run":
            plan_id, _, what = rest.partition("/")
            self._on_run(plan_id, what, message.payload)
        else:
            self._retained[message.topic] = message.payload
            self._retained_news.set()

    def _on_run(self, plan_id: str, what: str, payload: bytes) -> None:
        run = self._runs.get(plan_id) or _Run()
        if what == "status" and payload:
            run.status = msgspec.json.decode(payload, type=RunStatus)
            self._runs[plan_id] = run
        elif what == "documents" and run.watched:
            run.documents.append(msgspec.json.decode(payload, type=Document))
        elif what == "status" and not run.watched:
            self._runs.pop(plan_id, None)
        run.news.set()


def plan(cell: str, steps: Sequence[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A plan with an id of its own, issued now; `fields` are its further keys (name, metadata, …)."""
    head = {"schema": SCHEMA, "plan_id": new_id(), "cell": cell, "issued_at": utc_now().isoformat()}
    return head | fields | {"steps": list(steps)}


def step(step_id: str, device: str, operation: str, *, record: bool = False, **args: Any) -> dict[str, Any]:
    """A step of a plan; `args` are the operation's."""
    made: dict[str, Any] = {"id": step_id, "device": device, "operation": operation, "args": args}
    return made | ({"record": True} if record else {})


def new_id() -> str:
    """A UUID of version 7 (RFC 9562, 5.7): ids sort by the time they were made."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def sentences(reasons: Sequence[Any]) -> str:
    """Reasons in one line."""
    return "; ".join(f"{r.path}: {r.message}" if r.path else r.message for r in reasons)


def _cell_status(payload: bytes) -> CellStatus | Offline:
    try:
        if msgspec.json.decode(payload, type=_Online).online:
            return msgspec.json.decode(payload, type=CellStatus)
    except msgspec.DecodeError as error:
        raise ClientError(f"What is retained as the cell's status is none: {error}.") from error
    return Offline()


class _Online(msgspec.Struct, frozen=True):
    online: bool


def _plan_id(payload: bytes) -> str | None:
    try:
        found = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    given = found.get("plan_id") if isinstance(found, dict) else None
    return given if isinstance(given, str) else None
