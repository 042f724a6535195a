"""The embedded MQTT broker (`mqtt: {url: embedded}`, `labedge demo`): rumqttd from the `iotcore` wheel.

It runs as a process of its own, `python -m edge.broker --port N`, so that it shares neither event loop nor
GIL with the daemon, and ends when the daemon does, however that ends: its standard input closes then. It
listens on one port for MQTT 5 and on another for 3.1.1, keeps everything in memory and never sets DUP: for
demos, tests and single machines; a cell that must not lose anything uses mosquitto or its like.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

READY_S = 15.0
"""Deadline for the broker's process to start and listen."""

STOP_S = 3.0
"""How long the process may take to end by itself."""

_INSTALL = "The embedded broker needs the demo extra: pip install 'labedge[demo]'."

# Without a configuration of ours rumqttd listens on every interface, takes 3.1.1 only and payloads of 20 KB.
# A segment log keeps what offline sessions have not seen, per subscription: 4 x 16 MiB.
_CONFIGURATION = """\
id = 0

[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 16777216
max_segment_count = 4

[v5.1]
name = "mqtt-5"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = 16777216
max_inflight_count = 100
dynamic_filters = true

[v4.1]
name = "mqtt-3.1.1"
listen = "{host}:{port_311}"
next_connection_delay_ms = 1

[v4.1.connections]
connection_timeout_ms = 10000
max_payload_size = 16777216
max_inflight_count = 100
dynamic_filters = true
"""


class BrokerError(Exception):
    """The embedded broker cannot run; the text says why and what to do."""


class EmbeddedBroker:
    """A broker beside this process, on `port` for MQTT 5 and `port_311` for 3.1.1; 0 takes a free port.

    Both numbers are known once `start` has returned. Without a user or a password: bind it to loopback.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, port_311: int = 0) -> None:
        self.host = host
        self.port = port
        self.port_311 = port_311
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process; return once it listens. Raises BrokerError, and then nothing is left running."""
        if self.running:
            return
        if importlib.util.find_spec("iotcore") is None:
            raise BrokerError(_INSTALL)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge.broker", "--host", self.host),
            *("--port", str(self.port), "--port-311", str(self.port_311)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],  # where `edge` is found, installed or not
        )
        try:
            async with asyncio.timeout(READY_S):
                word, _, rest = (await self._line()).partition(" ")
        except TimeoutError:
            await self.stop()
            raise BrokerError(f"The embedded broker did not start within {READY_S:g} s.") from None
        except BaseException:
            await self.stop()
            raise
        if word != "ready":
            await self.stop()
            raise BrokerError(rest or "The embedded broker ended at once; see its message above.")
        self.port, self.port_311 = (int(number) for number in rest.split())

    async def stop(self) -> None:
        """End the process; harmless when there is none."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


def main(arguments: list[str] | None = None) -> int:
    """The broker's process: say `ready PORT PORT_311` or `error SENTENCE`, then serve until stdin closes."""
    parser = argparse.ArgumentParser(prog="python -m edge.broker", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="for MQTT 5; 0 takes a free one")
    parser.add_argument("--port-311", type=int, default=0, help="for MQTT 3.1.1; 0 takes a free one")
    given = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole group; the daemon still has things to say
    logging.disable(logging.CRITICAL)  # rumqttd logs every packet as an error
    try:
        ports = _serve(given.host, given.port, given.port_311)
    except BrokerError as error:
        _say(f"error {error}")
        return 1
    _say(f"ready {ports[0]} {ports[1]}")
    sys.stdin.buffer.read()
    os._exit(0)  # rumqttd's threads know no end


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _serve(host: str, port: int, port_311: int) -> tuple[int, int]:
    """Start rumqttd's threads and return the two ports once both answer."""
    try:
        from iotcore import IotCoreBroker
    except ImportError:
        raise BrokerError(_INSTALL) from None
    ports = _reserve(host, port, port_311)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(_CONFIGURATION.format(host=host, port=ports[0], port_311=ports[1]))
        file.flush()
        IotCoreBroker(config_path=file.name).start()
        for number in ports:
            _await_listener(host, number)
    return ports


def _reserve(host: str, *wanted: int) -> tuple[int, int]:
    """The wanted ports, free ones for 0; both are held at once so that they differ."""
    with contextlib.ExitStack() as stack:
        numbers = []
        for port in wanted:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
                sock.listen()
            except OSError as error:
                raise BrokerError(
                    f"The embedded broker cannot listen on {host}:{port} ({error.strerror}); "
                    "is another broker running there?"
                ) from None
            numbers.append(int(sock.getsockname()[1]))
    return numbers[0], numbers[1]


def _await_listener(host: str, port: int) -> None:
    deadline = time.monotonic() + READY_S / 2
    while True:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise BrokerError(f"The embedded broker does not answer on {host}:{port}.") from None
            time.sleep(0.005)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
