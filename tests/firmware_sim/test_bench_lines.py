"""Lines on real PTYs and sockets: several instruments, faults as they arrive, plugs pulled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import termios
import tty
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from firmware_sim.bench import Bench, prepared
from firmware_sim.errors import BenchError
from tests.firmware_sim.sims import BENCH, PORTS, oem

DEADLINE_S = 10.0
VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "hamilton_arc_ph.yaml"
PH_BLOCK = next(v["hex"] for v in yaml.safe_load(VECTORS.read_text())["vectors"])


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, **changes: Any) -> AsyncIterator[Bench]:
    content = {
        **BENCH,
        "instruments": {
            "red": {"model": "cavro-xcalibur", "link": "pty:rs485", "address": 1, "ports": PORTS},
            "blue": {"model": "cavro-xcalibur", "link": "pty:rs485", "address": 2, "ports": PORTS},
            "scale": {"model": "mt-sics", "link": "tcp:127.0.0.1:0", "weighs": "plate-1", "noise_g": 0},
        },
        "links": "ports",
        "log": "bench.jsonl",
        **changes,
    }
    file = tmp_path / "bench.yaml"
    file.write_text(yaml.safe_dump(content))
    with prepared(file) as bench:
        await bench.open()
        try:
            yield bench
        finally:
            await bench.close()


class Port:
    """A client's end of a serial line."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._fd)

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    async def read(self, count: int) -> bytes:
        """This many bytes; fewer if the line hangs up."""
        data = b""
        async with asyncio.timeout(DEADLINE_S):
            while len(data) < count:
                try:
                    piece = os.read(self._fd, count - len(data))
                except BlockingIOError:
                    await asyncio.sleep(0.001)
                    continue
                except OSError:
                    return data
                if not piece:
                    return data
                data += piece
        return data

    async def ask(self, request: bytes, count: int = 5) -> bytes:
        self.write(request)
        return await self.read(count)

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def client(bench: Bench, name: str) -> Any:
    port = Port(bench.addresses[name])
    try:
        yield port
    finally:
        port.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # the world is asked; it has no event to wait for
            await asyncio.sleep(0.002)


async def connected(bench: Bench, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = bench.addresses[name].removeprefix("tcp://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


def faults(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "bench.jsonl").read_text().splitlines()
    return [line for line in lines if '"kind": "fault"' in line]


async def test_two_pumps_share_a_line(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        assert bench.addresses["red"].endswith("/ports/red")
        targets = {os.readlink(tmp_path / "ports" / name) for name in ("red", "blue", "rs485")}
        assert len(targets) == 1
        with client(bench, "blue") as port:
            assert await port.ask(oem("Q", address=0x31)) == b"\x020g\x03V"
            assert await port.ask(oem("ZR", address=0x32)) == b"\x020@\x03q"
            assert await port.ask(oem("Q", address=0x31)) == b"\x020g\x03V", "red has not moved"
            port.write(oem("Q", address=0x33))
            assert await port.ask(oem("Q", address=0x32)) == b"\x020@\x03q", "nobody at 3, nothing in between"


async def test_both_ends_are_raw_and_clients_come_and_go(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for _ in range(3):
            fd = os.open(bench.addresses["red"], os.O_RDWR | os.O_NOCTTY)
            iflag, oflag, _, lflag, *_ = termios.tcgetattr(fd)
            os.close(fd)
            assert not oflag & termios.OPOST
            assert not lflag & (termios.ECHO | termios.ICANON | termios.ISIG)
            assert not iflag & (termios.ICRNL | termios.IXON)
            with client(bench, "red") as port:
                assert await port.ask(oem("?6")) == b"\x020`i\x03"


async def test_pumping_shows_on_the_balance(tmp_path: Path) -> None:
    async with opened(tmp_path, speed=50.0) as bench:
        reader, writer = await connected(bench, "scale")
        with client(bench, "red") as port:
            await port.ask(oem("ZIA300OA0R"))
            await until(lambda: bench.snapshot()["labware"]["plate-1"]["wells"])
            writer.write(b"S\r\n")
            async with asyncio.timeout(DEADLINE_S):
                assert await reader.readline() == b"S S      0.100 g\r\n", "asked while it still flowed"
        writer.close()


async def test_links_vanish_and_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        with client(bench, "red") as port:
            bench.inject({"instrument": "red", "kind": "disconnect", "for_s": 0.05})
            assert not (tmp_path / "ports" / "red").is_symlink()
            assert await port.read(1) == b"", "the line hung up"
        bench.inject({"instrument": "red", "kind": "disconnect", "for_s": 0.0})
        await until((tmp_path / "ports" / "rs485").is_symlink)
        await asyncio.sleep(0.1)
        with client(bench, "blue") as port:
            assert await port.ask(oem("Q", address=0x32)) == b"\x020g\x03V"
    assert list((tmp_path / "ports").iterdir()) == []


async def test_tcp_connections_break_and_come_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        reader, writer = await connected(bench, "scale")
        bench.inject({"instrument": "scale", "kind": "disconnect", "for_s": 0.05})
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        with pytest.raises(ConnectionError):
            await connected(bench, "scale")
        writer.close()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(ConnectionError):
                    reader, writer = await connected(bench, "scale")
                    break
                await asyncio.sleep(0.01)
            writer.write(b"QQ\r\n")
            assert await reader.readline() == b"ES\r\n"
        writer.close()


async def test_faults_reach_the_wire_and_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path, faults=[{"instrument": "red", "kind": "drop-reply", "after": 1}]) as bench:
        with client(bench, "red") as port:
            assert await port.ask(oem("Q")) == b"\x020g\x03V"
            port.write(oem("?6"))
            await until(lambda: faults(tmp_path))
            assert await port.ask(oem("Q")) == b"\x020g\x03V", "the answer to ?6 was lost"
            bench.inject({"instrument": "red", "kind": "delay", "delay_s": 0.1})
            port.write(oem("?6"))
            port.write(oem("Q", address=0x32))
            late = await port.read(11)
            assert late == b"\x020g\x03V" + b"\x020`i\x03" + late[-1:], "blue's answer overtook red's"
            bench.inject({"instrument": "red", "kind": "noise", "length": 4})
            assert len(await port.read(4)) == 4
            bench.inject({"instrument": "red", "kind": "duplicate-reply"})
            assert await port.ask(oem("Q"), 10) == b"\x020g\x03V" * 2
        assert len(faults(tmp_path)) == 4


async def test_a_reboot_takes_a_moment_and_a_balance_says_hello(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        reader, writer = await connected(bench, "scale")
        writer.write(b"I4\r\n")
        async with asyncio.timeout(DEADLINE_S):
            serial = await reader.readline()
            bench.inject({"instrument": "scale", "kind": "reboot", "for_s": 0.05})
            assert await reader.readline() == serial, "unasked, when it has booted"
        writer.close()


async def test_stuck_and_drift_end_with_their_time(tmp_path: Path) -> None:
    async with opened(tmp_path, speed=20.0) as bench:
        bench.inject({"instrument": "red", "kind": "stuck", "for_s": 0.05})
        with client(bench, "red") as port:
            await port.ask(oem("ZR"))
            assert await port.ask(oem("Q")) != b"\x020@\x03q"
            await asyncio.sleep(0.1)
            assert await port.ask(oem("ZR")) == b"\x020@\x03q"
            await until(lambda: bench.snapshot()["instruments"]["red"]["initialized"])
        bench.inject({"instrument": "scale", "kind": "drift", "per_s": 1.0, "for_s": 0.05})
        await asyncio.sleep(0.1)
        drifted = bench.snapshot()["instruments"]["scale"]["shown_g"]
        assert drifted > 0.5
        assert bench.snapshot()["instruments"]["scale"]["shown_g"] == pytest.approx(drifted)


async def test_a_client_that_does_not_read_cannot_stop_the_bench(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        with client(bench, "red") as port:
            for _ in range(40):
                with contextlib.suppress(BlockingIOError):
                    port.write(oem("?76") * 20)
                await asyncio.sleep(0.001)
            assert bench.snapshot()["bench"] == "bench"


async def test_modbus_over_tcp_and_the_dashboard(tmp_path: Path) -> None:
    arm = {"model": "universal-robots", "link": "tcp:127.0.0.1:0", "dashboard": "127.0.0.1:0"}
    ph = {"model": "hamilton-arc-ph", "link": "pty", "address": 1}
    async with opened(tmp_path, instruments={"arm": arm, "ph": ph}) as bench:
        reader, writer = await connected(bench, "arm")
        writer.write(bytes.fromhex("00 07 00 00 00 06 01 03 01 02 00 01"))
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readexactly(11) == bytes.fromhex("00 07 00 00 00 05 01 03 02 00 07")
            writer.write(bytes.fromhex("00 07 00 01 00 06 01 03 01 02 00 01"))
            assert await reader.read() == b"", "a header that cannot be: it hangs up"
            reader, writer = await connected(bench, "arm.dashboard")
            assert (await reader.readline()).startswith(b"Connected")
            writer.write(b"robotmode\n")
            assert await reader.readline() == b"Robotmode: RUNNING\n"
            bench.inject({"instrument": "arm", "kind": "hang", "for_s": 0.05})
            writer.write(b"robotmode\n")
            await asyncio.sleep(0.1)
            writer.write(b"running\n")
            assert await reader.readline() == b"Program running: true\n", (
                "what was asked while it hung is lost"
            )
        writer.close()
        with client(bench, "ph") as port:
            assert len(await port.ask(bytes.fromhex(PH_BLOCK), 25)) == 25


async def test_a_bench_will_not_share_its_links(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        assert stat.S_IMODE(bench.socket.stat().st_mode) == 0o600
        with pytest.raises(BenchError, match="Another bench is running"):
            async with opened(tmp_path):
                pass
        assert bench.socket.exists(), "the refused bench has not taken away what is not its own"
        assert (tmp_path / "ports" / "red").is_symlink()


async def test_a_port_or_a_name_that_is_taken_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        link = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        instruments = {
            "red": {"model": "cavro-xcalibur", "link": "pty"},
            "scale": {"model": "mt-sics", "link": link},
        }
        with pytest.raises(BenchError, match="cannot be listened at: Address already in use"):
            async with opened(tmp_path, instruments=instruments):
                pass
    assert list((tmp_path / "ports").iterdir()) == []
    (tmp_path / "ports" / "red").write_text("mine")
    with pytest.raises(BenchError, match="is no link of a bench"):
        async with opened(tmp_path):
            pass
    assert (tmp_path / "ports" / "red").read_text() == "mine"


async def test_wrong_injections_are_sentences(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for entry, sentence in (
            ({"instrument": "green", "kind": "hang"}, "no instrument 'green'"),
            ({"instrument": "red", "kind": "drift"}, "cannot suffer drift"),
            ({"instrument": "red", "kind": "error", "code": 99}, "error codes 1 to 15"),
            ({"instrument": "red", "kind": "nap"}, "is not a fault"),
        ):
            with pytest.raises(BenchError, match=sentence):
                bench.inject(entry)
