"""What carries bytes to and from one port, whatever the port is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

OUTPUT_LIMIT = 16 * 1024
"""Bytes that may wait in user space for a peer that takes none."""

OnBytes = Callable[[bytes], None]
OnLost = Callable[[str], None]


class Stream(Protocol):
    """A port that can be opened again after it was lost. All methods belong to the event loop's thread."""

    @property
    def name(self) -> str:
        """What a technician calls the port: its path or URL."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether bytes can be written now."""
        ...

    @property
    def queued(self) -> int:
        """Bytes that wait in user space because the peer takes none (0 … `OUTPUT_LIMIT`)."""
        ...

    def listen(self, on_bytes: OnBytes, on_lost: OnLost) -> None:
        """Say who gets the bytes, and who hears (once, with a sentence) that the port was lost."""
        ...

    async def open(self) -> None:
        """Open the port; nothing happens if it is open. Ends within 5 s.

        Raises `LinkDown` (sent=False) with a sentence that tells what to do.
        """
        ...

    async def close(self) -> None:
        """Close the port; bytes still queued get at most 0.5 s to leave. `on_lost` isn't called."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes, or queue what the peer doesn't take yet. Never blocks.

        Raises `LinkDown` (sent=False): not open, or more than `OUTPUT_LIMIT` bytes would wait.
        """
        ...

    def urgent(self, data: bytes) -> bool:
        """Send the bytes of a stop before everything that still waits. Never raises, never blocks.

        The first urgent since the last `write` throws away what is queued, in user space and, on a serial
        port, in the kernel; the ones after it line up behind it, so that every device on a line is told.
        What has been thrown away may have been cut mid-frame: the bytes of a stop must be understood
        after a truncated frame. True: the kernel has taken every byte. False: the port isn't open, or
        the peer takes nothing (the bytes then leave first as soon as it does).
        """
        ...

    def poll(self) -> None:
        """Hand over at once what has already arrived."""
        ...

    def discard_input(self) -> None:
        """Throw away what has arrived and was not handed over yet."""
        ...

    def discard_output(self) -> int:
        """Throw away what waits in user space; tells how many bytes."""
        ...
