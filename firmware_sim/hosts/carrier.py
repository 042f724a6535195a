"""What carries an instrument's line to the outside: a PTY, a TCP port, an OPC UA server."""

from __future__ import annotations

from typing import Protocol


class Carrier(Protocol):
    """One line."""

    @property
    def address(self) -> str:
        """What a driver's `port` is set to; known once the carrier is open."""

    async def open(self) -> None:
        """Begin to answer. Raises `BenchError` if the address cannot be had."""

    async def close(self) -> None:
        """Stop answering and leave nothing behind; closing twice is no error."""

    def disconnect(self, for_s: float) -> None:
        """Pull the plug, and plug it in again after `for_s` seconds."""
