"""Processes of the demo: each ends when told, and at the latest when the demo itself is gone, however."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge.errors import LabedgeError

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""
LONGEST_LINE = 1024 * 1024


class Child:
    """One process in a group of its own (Ctrl-C is for the demo alone), with a log for what it says."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, arguments: Sequence[str], folder: Path) -> Child:
        """Run this Python with the arguments, in `folder`; its standard error goes to `<name>.log` there."""
        log = folder / f"{name}.log"
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),
                limit=LONGEST_LINE,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def line(self) -> bytes:
        """Its next line of output; empty once it has ended."""
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        return await self._process.wait()

    def failure(self) -> LabedgeError:
        """What to say when it has ended and should not have."""
        return LabedgeError(f"The {self.name} ended too early; {self.log} says why.{_last_line(self.log)}")

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and end it if it has not after `grace_s`."""
        self._signal(signal.SIGTERM)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
        finally:
            self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not by the process object: its own look whether the child lives would take the exit code away
        # from asyncio, which then complains on the terminal.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _dies_with(parent: int) -> Callable[[], None] | None:
    """What a child does between fork and exec, so that it never outlives this process."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked to be told
            os._exit(1)

    return prepare


@contextlib.contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started inside never get SIGINT; ours is only late."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f" Its last words: {lines[-1]}" if lines else ""
