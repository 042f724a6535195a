"""The photometer driver against an independent LADS server: node-opcua with the published nodesets.

The server is installed with npm into a cache directory of the user, once; without node or npm the tests skip.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from drivers.errors import Lost, Refused
from drivers.sensors.lads_photometer import LadsPhotometer
from drivers.sensors.lads_photometer.driver import LadsOptions, Measure, Scan
from protocols.links import Links
from tests.drivers.attempts import Try, intent_of

SOURCE = Path(__file__).parents[1] / "peers" / "lads"
INSTALL_S = 240
START_S = 60


def installed() -> Path:
    """A directory with the server and its packages, or a skip with the reason."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    wanted = b"".join((SOURCE / name).read_bytes() for name in ("package.json", "server.js"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "labedge" / f"lads-peer-{hashlib.sha256(wanted).hexdigest()[:12]}"
    if not (home / "complete").exists():
        home.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "server.js"):
            shutil.copy(SOURCE / name, home)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        try:
            subprocess.run(command, cwd=home, check=True, capture_output=True, timeout=INSTALL_S)
        except (subprocess.SubprocessError, OSError) as problem:
            pytest.skip(f"npm cannot install node-opcua here: {problem}")
        (home / "complete").touch()
    return home


class Peer:
    """The server as a process; `url` stays the same over `kill` and `start`."""

    def __init__(self, home: Path, state: Path) -> None:
        self._home = home
        self._state = state
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"opc.tcp://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(self._home / "server.js"), str(self._port), str(self._state)],
            cwd=self._home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        output = self._process.stdout
        assert output is not None
        while select.select([output], [], [], START_S)[0]:
            line = output.readline()
            if line.startswith(b"ready"):
                return
            if not line:
                break
        self.kill()
        pytest.fail("the node-opcua server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    running = Peer(installed(), tmp_path_factory.mktemp("lads"))
    yield running
    running.kill()


@asynccontextmanager
async def photometer(peer: Peer, **options: Any) -> AsyncIterator[LadsPhotometer]:
    links = Links()
    given = LadsOptions(driver="lads-photometer", port=peer.url, **options)
    device = LadsPhotometer("reader", given, links)
    await device.open()
    try:
        yield device
    finally:
        await device.close()
        await links.close()


async def until_running(device: LadsPhotometer) -> None:
    async with asyncio.timeout(5):
        while not (await device.read()).running:
            continue


async def test_connects_and_identifies(peer: Peer) -> None:
    async with photometer(peer) as device:
        assert str(await device.identify()) == "Peer Instruments P-1, SN 4711, firmware 1.2.3"
        assert (await device.read()).state == "Stopped"


async def test_runs_a_program_and_fetches_its_result(peer: Peer) -> None:
    async with photometer(peer, device="Photometer", unit="Reader") as device:
        attempt = Try(101)
        measured = await device.measure(Measure("plate-1/B2", 520.0), attempt)
        assert measured.absorbance == pytest.approx(0.52)
        spectrum = await device.scan(Scan([450.0, 600.5], "plate-1/B2"), Try(102))
        assert spectrum.absorbance == pytest.approx([0.45, 0.6005])
        outcome = await device.settle(intent_of(attempt, "measure", Measure("plate-1/B2", 520.0)))
        assert outcome.kind == "finished"
        assert outcome.result["absorbance"] == pytest.approx(0.52)


async def test_stops_a_program_and_clears_the_unit(peer: Peer) -> None:
    async with photometer(peer) as device:
        attempt = Try(201)
        measuring = asyncio.ensure_future(device.measure(Measure("plate-1/A1"), attempt))
        await until_running(device)
        assert not await device.halted()
        device.halt()
        with pytest.raises(Exception, match="Aborted without a result"):
            await measuring
        assert await device.halted()
        with pytest.raises(Refused, match="is Aborted"):
            await device.measure(Measure("plate-1/A1"), Try(202))
        outcome = await device.settle(intent_of(attempt, "measure", Measure("plate-1/A1")))
        assert outcome.kind == "failed"
        await device.prepare()
        assert (await device.measure(Measure("plate-1/A1"), Try(203))).absorbance == pytest.approx(0.45)


async def test_unknown_program_is_refused_by_the_server(peer: Peer) -> None:
    async with photometer(peer, program="Fluorescence") as device:
        with pytest.raises(Refused, match="BadNotFound"):
            await device.measure(Measure("plate-1/A1"), Try(301))


async def test_unknown_unit_is_named_with_those_there_are(peer: Peer) -> None:
    with pytest.raises(Refused, match="'Shaker'; it has Reader"):
        async with photometer(peer, unit="Shaker"):
            pass


async def test_server_killed_in_mid_measurement_is_lost_then_found_again(peer: Peer) -> None:
    async with photometer(peer) as device:
        attempt = Try(401)
        measuring = asyncio.ensure_future(device.measure(Measure("plate-1/A1"), attempt))
        await until_running(device)
        peer.kill()
        with pytest.raises(Lost) as caught:
            await measuring
        assert caught.value.sent
        peer.start()
        outcome = await device.settle(intent_of(attempt, "measure", Measure("plate-1/A1")))
        assert outcome.kind == "not_executed"
        assert (await device.measure(Measure("plate-1/A1"), Try(402))).absorbance == pytest.approx(0.45)
