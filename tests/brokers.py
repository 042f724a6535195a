"""Real MQTT brokers for tests, on loopback and ports of their own.

`mosquitto` makes started `Mosquitto`s; the test is skipped where the program is missing. `embedded` is the
broker of the demo. Whatever a test leaves running is ended after it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from edge.broker import EmbeddedBroker

START_S = 10.0


def free_port() -> int:
    """A port that was free a moment ago, on loopback."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """One mosquitto with configuration and database in `directory`; it may be killed and started again.

    `lines` follow the `listener` line of mosquitto.conf. Sessions, queues and retained messages are written
    at every change, so that they outlive `kill`.
    """

    def __init__(self, directory: Path, *lines: str) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.log = directory / "mosquitto.log"
        self._configuration = directory / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        anonymous = (
            () if any(line.startswith("allow_anonymous") for line in lines) else ("allow_anonymous true",)
        )
        self._lines = (
            # Started by root it would become a user who cannot write here.
            *(("user root",) if os.geteuid() == 0 else ()),
            "persistence true",
            f"persistence_location {directory}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            f"listener {self.port} {self.host}",
            *anonymous,
            *lines,
        )

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    def start(self) -> None:
        """Start and return once it listens."""
        self._configuration.write_text("\n".join(self._lines) + "\n")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-c", str(self._configuration)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1.0).close()
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"mosquitto does not run: {self.log.read_text()}") from None
                time.sleep(0.005)
            else:
                return

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it writes its database and ends."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        deadline = time.monotonic() + START_S
        while process is not None and time.monotonic() < deadline:
            process.send_signal(number)
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue  # mosquitto listens before it heeds signals: one sent too early is lost
            return


class MosquittoFactory(Protocol):
    """`mosquitto(*configuration_lines)` -> a started broker."""

    def __call__(self, *lines: str) -> Mosquitto: ...


@pytest.fixture
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoFactory]:
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    brokers: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"), *lines)
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.kill()


@pytest.fixture
async def embedded() -> AsyncIterator[EmbeddedBroker]:
    broker = EmbeddedBroker()
    await broker.start()
    yield broker
    await broker.stop()
