"""A device that follows a script, on a real PTY: what it must hear, and what it then says."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self


class Turn(NamedTuple):
    """Hear exactly `hears`, then say `says` (nothing: silence) after `after_s` seconds."""

    hears: bytes
    says: bytes = b""
    after_s: float = 0.0


class ScriptedPeer:
    """Use `with`; `path` is the port. Leaving fails the test unless the script was followed to its end."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.received = bytearray()
        self.wrong = ""
        self._heard = 0
        self._news = asyncio.Event()

    def __enter__(self) -> Self:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        asyncio.get_running_loop().add_reader(self._master, self._readable)
        return self

    def __exit__(self, *problem: object) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._slave)
        os.close(self._master)
        if problem[0] is None:
            assert not self.wrong, self.wrong
            assert not self.turns, f"never heard {self.turns[0].hears!r} and what follows"
            assert self._heard == len(self.received), (
                f"heard too much: {bytes(self.received[self._heard :])!r}"
            )

    def expect(self, turns: Iterable[Turn]) -> None:
        self.turns += turns

    def say(self, data: bytes) -> None:
        os.write(self._master, data)

    async def followed(self) -> None:
        """Wait until the script has been heard to its end."""
        async with asyncio.timeout(5):
            while self.turns and not self.wrong:
                self._news.clear()
                await self._news.wait()

    def _readable(self) -> None:
        self.received += os.read(self._master, 65536)
        while self.turns and not self.wrong:
            hears, says, after_s = self.turns[0]
            there = bytes(self.received[self._heard : self._heard + len(hears)])
            if there != hears[: len(there)]:
                self.wrong = f"should have heard {hears!r}, but heard {there!r}"
            if len(there) < len(hears):
                break
            self._heard += len(hears)
            self.turns.pop(0)
            if says:
                asyncio.get_running_loop().call_later(after_s, self.say, says)
        self._news.set()


@dataclass
class Try:
    """An attempt that remembers its intent and what was on the wire at that moment."""

    peer: ScriptedPeer | None = None
    execution: str = "step"
    job_id: int = 1
    frames: list[bytes] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)
    on_wire: bytes = b""

    async def intend(self, frame: bytes, **memo: Any) -> None:
        self.frames.append(frame)
        self.memo = memo
        if self.peer is not None:
            self.on_wire = bytes(self.peer.received)
