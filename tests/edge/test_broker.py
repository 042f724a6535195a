"""The embedded broker as a process: starting, stopping, and dying with its parent."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from edge import broker as broker_module
from edge.broker import BrokerError, EmbeddedBroker
from tests.brokers import free_port

ROOT = Path(__file__).parents[2]


async def _accepts(port: int, level: int) -> bool:
    """Whether a CONNECT of that protocol level gets a good CONNACK."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    properties = b"\x00" if level == 5 else b""
    client = b"level-%d" % level  # its own: the broker may not have noticed yet that the last one has left
    body = b"\x00\x04MQTT" + bytes([level, 2, 0, 20]) + properties + b"\x00\x07" + client
    writer.write(bytes([0x10, len(body)]) + body)
    answer = await reader.readexactly(4)
    writer.close()
    return answer[:1] == b"\x20" and answer[3:4] == b"\x00"


async def test_it_serves_both_protocols_and_stops() -> None:
    broker = EmbeddedBroker(port=free_port())
    await broker.start()
    assert broker.running
    assert await _accepts(broker.port, 5)
    assert await _accepts(broker.port_311, 4)
    await broker.start()  # harmless
    await broker.stop()
    assert not broker.running
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", broker.port)
    await broker.stop()  # harmless
    await broker.start()
    assert await _accepts(broker.port, 5)
    await broker.stop()


async def test_a_port_in_use_is_told() -> None:
    first = EmbeddedBroker()
    await first.start()
    second = EmbeddedBroker(port=first.port)
    with pytest.raises(BrokerError, match=rf"cannot listen on 127\.0\.0\.1:{first.port}"):
        await second.start()
    assert not second.running
    await first.stop()


async def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BrokerError, match=r"pip install 'labedge\[demo\]'"):
        await EmbeddedBroker().start()


async def test_a_broker_that_does_not_come_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "READY_S", 0.0)
    broker = EmbeddedBroker()
    with pytest.raises(BrokerError, match="did not start within"):
        await broker.start()
    assert not broker.running


_PARENT = """
import asyncio
from edge.broker import EmbeddedBroker
async def main():
    broker = EmbeddedBroker()
    await broker.start()
    print(broker._process.pid, broker.port, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_it_dies_with_a_killed_parent() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PARENT, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child, port = (int(word) for word in (await parent.stdout.readline()).split())
    assert await _accepts(port, 5)
    watch = os.pidfd_open(child)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(watch, ended.set)
    try:
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)


async def test_the_keyboard_does_not_stop_it() -> None:
    broker = EmbeddedBroker()
    await broker.start()
    assert broker._process is not None
    broker._process.send_signal(signal.SIGINT)
    assert await _accepts(broker.port, 5)
    assert broker.running
    await broker.stop()


def test_the_process_reports_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        handler = signal.getsignal(signal.SIGINT)
        try:
            assert broker_module.main(["--port", str(taken.getsockname()[1])]) == 1
        finally:
            signal.signal(signal.SIGINT, handler)
            logging.disable(logging.NOTSET)
    assert capsys.readouterr().out.startswith("error The embedded broker cannot listen on 127.0.0.1:")


async def test_a_cancelled_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()

    async def never(_: EmbeddedBroker) -> str:
        waiting.set()
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(EmbeddedBroker, "_line", never)
    broker = EmbeddedBroker()
    task = asyncio.create_task(broker.start())
    await waiting.wait()
    process = broker._process
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process is not None
    assert process.returncode is not None
    assert not broker.running


def test_a_listener_that_never_comes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "READY_S", 0.0)
    with pytest.raises(BrokerError, match="does not answer on 127"):
        broker_module._await_listener("127.0.0.1", free_port())
