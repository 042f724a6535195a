"""A serial line as a pseudo terminal with a stable name."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from firmware_sim.clock import Clock
from firmware_sim.errors import BenchError
from firmware_sim.faults import Outgoing
from firmware_sim.hosts.line import Drop, LineTalk
from firmware_sim.hosts.timers import Timers

_READ = 65536


class PtyLine:
    """One PTY for all instruments of a line; each name in `links` is a symbolic link to it.

    The slave end stays open here, so that a client may come and go without the line hanging up. What a client
    does not read is lost once the terminal's buffer is full, as on a serial line.
    """

    def __init__(self, links: Sequence[Path], drops: Sequence[Drop], clock: Clock) -> None:
        self._links = list(links)
        self._drops = drops
        self._clock = clock
        self._master: int | None = None
        self._slave: int | None = None
        self._talk: LineTalk | None = None
        self._later = Timers()

    @property
    def address(self) -> str:
        return str(self._links[0])

    async def open(self) -> None:
        self._plug_in()
        self._clock.after_tick.append(self._flush)

    async def close(self) -> None:
        if self._flush in self._clock.after_tick:
            self._clock.after_tick.remove(self._flush)
        self._later.cancel()
        self._unplug()

    def disconnect(self, for_s: float) -> None:
        """Pull the plug: the line hangs up and its name vanishes, until it is plugged in again."""
        self._unplug()
        self._later.after(for_s, self._plug_in)

    def send(self, outgoing: Sequence[Outgoing]) -> None:
        for wait_s, data in outgoing:
            if wait_s > 0:
                self._later.after(wait_s, partial(self._write, data))
            else:
                self._write(data)

    def _plug_in(self) -> None:
        if self._master is not None:
            return
        for link in self._links:
            _must_be_ours(link)
        self._master, self._slave = os.openpty()
        for end in (self._master, self._slave):
            tty.setraw(end)
        os.set_blocking(self._master, False)
        self._talk = LineTalk(self._drops, self._clock)
        asyncio.get_running_loop().add_reader(self._master, self._readable)
        for link in self._links:
            _point(link, os.ttyname(self._slave))

    def _unplug(self) -> None:
        if self._master is None or self._slave is None:
            return
        for link in self._links:
            link.unlink(missing_ok=True)
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = self._talk = None

    def _readable(self) -> None:
        if self._master is None or self._talk is None:
            return
        try:
            data = os.read(self._master, _READ)
        except BlockingIOError:
            return
        self.send(self._talk.hear(data))

    def _flush(self) -> None:
        now = self._clock.now()
        for drop in self._drops:
            self.send(drop.unasked(now))

    def _write(self, data: bytes) -> None:
        if self._master is None:
            return
        try:
            os.write(self._master, data)
        except BlockingIOError:
            return


def _must_be_ours(link: Path) -> None:
    """`BenchError` if a file of that name is there: only symbolic links are replaced and removed."""
    if link.exists() and not link.is_symlink():
        raise BenchError(f"{link} exists and is no link of a bench; move it away or choose another `links`.")


def _point(link: Path, target: str) -> None:
    """Make or replace a symbolic link in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
