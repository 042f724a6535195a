"""One actor a device: keeps it connected, reads it, and lets one thing at a time talk to it.

Everything that talks to a device runs in the actor's own task, so that operations, readings and
reconnecting never meet on the wire. Only `Device.halt` goes past it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec

from drivers.api import Device, Identity
from drivers.errors import DriverError, Fault, Lost

log = logging.getLogger(__name__)

T = TypeVar("T")
ActorState = Literal["disconnected", "connecting", "ready", "busy", "refused"]

CONNECT_S = 15.0
READ_S = 10.0
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


class NotConnected(Lost):
    """The device is not there, so nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class WrongDevice(NotConnected):
    """Another device than the cell file wants."""


class Interrupted(Lost):
    """It was stopped in the middle."""


@dataclass
class _Job:
    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


@dataclass
class Sample:
    """A device's readings and when they were taken (monotonic and wall, seconds)."""

    values: dict[str, Any] = field(default_factory=dict)
    monotonic: float = 0.0
    wall: float = 0.0


class Actor:
    """Owns one device."""

    def __init__(
        self,
        device: Device,
        period_s: float,
        on_state: Callable[[Actor], None],
        on_sample: Callable[[Actor], None],
    ) -> None:
        self.device = device
        self.name = device.name
        self.period_s = period_s
        self.state: ActorState = "disconnected"
        self.reason = "not connected yet"
        self.identity: Identity | None = None
        self.sample = Sample()
        self._on_state = on_state
        self._on_sample = on_sample
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._current: asyncio.Task[Any] | None = None
        self._job: _Job | None = None
        self._ready = asyncio.Event()
        self._was_up = True
        self._trouble = ""
        """What the device says is wrong with it, while it is there."""
        self.held_to: Identity | None = None
        """Who it has to be while a run is under way: a twin in its place knows nothing of what was done."""
        self.quiet = False
        """Set while an attempt is in doubt: no frame but the settling one may reach the device."""

    async def run(self) -> None:
        """Connect, serve, reconnect; for ever."""
        tries = 0
        while True:
            try:
                await self._connect()
                tries = 0
                await self._serve()
            except WrongDevice as error:
                self._down("refused", str(error))
            except DriverError as error:
                self._down("disconnected", str(error))
            except TimeoutError:
                self._down("disconnected", "it did not answer in time")
            except Exception as error:
                log.exception("the driver of %s failed", self.name)
                self._down("disconnected", f"its driver failed: {error}")
            await self.device.close()
            self._refuse_jobs()
            await asyncio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)])
            tries += 1

    async def perform(self, work: Callable[[], Awaitable[T]], wait_s: float) -> T:
        """Run `work` alone on the device, waiting at most `wait_s` for it to be connected.

        A device that is not the wanted one is not waited for.

        Raises NotConnected if it is not there by then, else whatever `work` raises. Cancelling the caller
        cancels the work.
        """
        deadline = time.monotonic() + wait_s
        while True:
            await self._connected_by(deadline)
            job = _Job(work, asyncio.get_running_loop().create_future())
            self._jobs.put_nowait(job)
            try:
                return await job.done  # type: ignore[no-any-return]  # the future carries what `work` returned
            except NotConnected:
                if time.monotonic() >= deadline:
                    raise
            except asyncio.CancelledError:
                job.done.cancel()
                if self._job is job and self._current is not None:
                    self._current.cancel()
                raise

    async def _connected_by(self, deadline: float) -> None:
        try:
            wait_s = 0.0 if self.state == "refused" else deadline - time.monotonic()
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._ready.wait()
        except TimeoutError:
            raise NotConnected(f"{self.name} is not connected: {self.reason}") from None

    def interrupt(self) -> None:
        """End whatever runs on the device; its caller gets Lost. Used after `halt`."""
        if self._current is not None:
            self._current.cancel()

    async def _connect(self) -> None:
        if self.state != "refused":
            self._set("connecting", self.reason)
        async with asyncio.timeout(CONNECT_S):
            await self.device.open()
            self.identity = await self.device.identify()
        wanted = self.device.options.identity
        if wanted is not None and not matches(wanted, self.identity):
            raise WrongDevice(f"{self.name} is {self.identity}, but the cell file wants {wanted}")
        if self.held_to is not None and self.identity.serial != self.held_to.serial:
            raise WrongDevice(
                f"{self.name} is {self.identity}, but the run that is under way began with {self.held_to}; "
                "put that one back, or stop the run"
            )
        if not self.quiet:
            await self._read()
        if not self._was_up:
            log.info("%s is back: %s", self.name, self.identity)
        self._was_up = True
        self._set("ready", self._trouble)
        self._ready.set()

    async def _serve(self) -> None:
        due = time.monotonic() + self.period_s
        while True:
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    job = await self._jobs.get()
            except TimeoutError:
                due = time.monotonic() + self.period_s
                if not self.quiet:
                    await self._read()
                continue
            await self._do(job)

    async def _do(self, job: _Job) -> None:
        if job.done.done():
            return
        self._set("busy", "")
        self._job = job
        self._current = asyncio.ensure_future(_run(job.work))
        try:
            await asyncio.wait([self._current])
        except asyncio.CancelledError:
            self._current.cancel()
            await asyncio.wait([self._current])
            job.done.cancel()
            raise
        current, self._current, self._job = self._current, None, None
        error = None if current.cancelled() else current.exception()
        self._set("ready", self._trouble)
        if job.done.done():
            return
        if current.cancelled():
            job.done.set_exception(Interrupted(f"{self.name} was stopped in the middle"))
        elif error is not None:
            job.done.set_exception(error)
            if isinstance(error, Lost) and error.sent and not self.quiet:
                await self._read()
        else:
            job.done.set_result(current.result())

    async def _read(self) -> None:
        """Ask for the readings; one answer may be damaged or lost before the device counts as gone.

        One that answers with a fault of its own is there, and says what is wrong with it.
        """
        async with asyncio.timeout(READ_S):
            try:
                try:
                    readings = await self.device.read()
                except Lost:
                    readings = await self.device.read()
            except Fault as error:
                self._say(str(error))
                return
        self._say("")
        self.sample = Sample(msgspec.structs.asdict(readings), time.monotonic(), time.time())
        self._on_sample(self)

    def _say(self, trouble: str) -> None:
        self._trouble = trouble
        if self.state == "ready":
            self._set("ready", trouble)

    def _down(self, state: ActorState, reason: str) -> None:
        self._ready.clear()
        if self._was_up:
            log.warning("%s is gone: %s", self.name, reason)
        self._was_up = False
        self._set(state, reason)

    def _refuse_jobs(self) -> None:
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if not job.done.done():
                job.done.set_exception(NotConnected(f"{self.name} is not connected: {self.reason}"))

    def _set(self, state: ActorState, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._on_state(self)


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def matches(wanted: str, identity: Identity) -> bool:
    """Whether a cell file's `identity` (`SN 1234`, `1234`, or a part of the text) names this device."""
    words = wanted.removeprefix("SN ").strip()
    return words == identity.serial or (identity.serial is None and words in str(identity))
