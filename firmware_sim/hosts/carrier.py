"""What carries an instrument's line to the outside: a PTY, a TCP port, an OPC UA server."""

from __future__ import annotations

from typing import Protocol


class Carrier(Protocol):
    """One line.

    A host that handles requests itself (OPC UA) calls `clock.catch_up()` before it looks at a simulator and
    `clock.rearm()` after it has changed one, and hangs what follows the simulator's time into
    `clock.after_tick` (see `firmware_sim.clock.Clock`).
    """

    @property
    def address(self) -> str:
        """What a driver's `port` is set to; known once the carrier is open."""

    async def open(self) -> None:
        """Begin to answer. Raises `BenchError` if the address cannot be had."""

    async def close(self) -> None:
        """Stop answering and leave nothing behind; closing twice is no error."""
