"""A stream over a non-blocking file descriptor on the event loop: what serial ports and sockets share.

No thread: `loop.add_reader` brings the bytes, and writing goes straight to the kernel.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from protocols.errors import LinkDown
from protocols.stream import OUTPUT_LIMIT, OnBytes, OnLost

_CHUNK = 65536
_DISCARD_READS = 16
CLOSE_WAIT_S = 0.5


class DescriptorStream:
    """Everything of `Stream` but `open`; see there for the meaning of each method."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._out = bytearray()
        self._urgent = False
        self._on_bytes: OnBytes = _nobody
        self._on_lost: OnLost = _nobody
        self._drained: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    @property
    def queued(self) -> int:
        return len(self._out)

    def listen(self, on_bytes: OnBytes, on_lost: OnLost) -> None:
        self._on_bytes = on_bytes
        self._on_lost = on_lost

    async def close(self) -> None:
        if self._fd < 0:
            return
        try:
            if self._out:
                self._drained = asyncio.get_running_loop().create_future()
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_WAIT_S):
                        await self._drained
            self._detach()
            await self._settle()
        finally:
            self._drained = None
            self._detach()
            self._release()

    def write(self, data: bytes) -> None:
        if self._fd < 0:
            raise LinkDown(f"{self.name} is not open.", sent=False)
        if len(self._out) + len(data) > OUTPUT_LIMIT:
            raise LinkDown(
                f"{self.name}: the peer takes no bytes ({len(self._out)} wait already). "
                "Is the instrument on, and does its flow control agree?",
                sent=False,
            )
        self._urgent = False
        if not self._out:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError as problem:
                reason = self._lose(problem)
                raise LinkDown(reason, sent=False) from problem
        self._queue(data)

    def urgent(self, data: bytes) -> bool:
        fd = self._fd
        if fd < 0:
            return False
        if not self._urgent:
            self._urgent = True
            self._out.clear()
            self._flush_kernel_output()
        taken = 0
        if not self._out:
            try:
                taken = os.write(fd, data)
            except BlockingIOError:
                pass
            except OSError:
                # The reader will find the loss; a stop must not run its consequences first.
                return False
        if taken == len(data):
            return True
        if len(self._out) + len(data) <= OUTPUT_LIMIT:
            self._queue(data[taken:])
        return False

    def poll(self) -> None:
        if self._fd >= 0:
            self._readable()

    def discard_input(self) -> None:
        """Read to the end of what is there and forget it."""
        # An error means that nothing is left, or a loss that the reader will find.
        with suppress(OSError):
            for _ in range(_DISCARD_READS):
                if self._fd < 0 or not os.read(self._fd, _CHUNK):
                    break

    def discard_output(self) -> int:
        dropped = len(self._out)
        self._out.clear()
        self._stop_writer()
        return dropped

    def _attach(self, fd: int) -> None:
        self._fd = fd
        self._out.clear()
        self._urgent = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._readable)

    def _detach(self) -> None:
        # A reader left registered on a hung-up descriptor would spin for ever.
        if self._loop is not None and self._fd >= 0:
            self._loop.remove_reader(self._fd)
        self.discard_output()
        self._fd = -1

    def _queue(self, data: bytes) -> None:
        if not data or self._loop is None:
            return
        if not self._out:
            self._loop.add_writer(self._fd, self._writable)
        self._out += data

    def _stop_writer(self) -> None:
        if self._loop is not None and self._fd >= 0:
            self._loop.remove_writer(self._fd)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as problem:
            self._lose(problem)
            return
        if data:
            self._on_bytes(data)
        else:
            self._lose(None)

    def _writable(self) -> None:
        try:
            del self._out[: os.write(self._fd, self._out)]
        except BlockingIOError:
            return
        except OSError as problem:
            self._lose(problem)
            return
        if not self._out:
            self._stop_writer()

    def _lose(self, problem: OSError | None) -> str:
        detail = f" ({problem.strerror})" if problem is not None and problem.strerror else ""
        reason = (
            f"{self.name}: the other end hung up{detail}: "
            "unplugged, switched off, or the program behind it has ended."
        )
        self._detach()
        self._release()
        self._on_lost(reason)
        return reason

    def _flush_kernel_output(self) -> None:
        """Throw away what the kernel holds and has not sent, where that is possible. Never raises."""

    async def _settle(self) -> None:
        """Let the kernel send what it holds, for a bounded time."""

    def _release(self) -> None:
        """Close the descriptor; `_detach` has been called."""


def _nobody(_: object) -> None:
    """Nobody listens yet."""
