"""The demo as processes: broker, bench, daemon, planner; started in order, watched, and all ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.broker import BrokerError, EmbeddedBroker
from edge.demo.processes import Child, deaf_to_ctrl_c
from edge.errors import LabedgeError

READY_S = 30.0
DAEMON_GRACE_S = 10.0
GRACE_S = 3.0

_BENCH_PORTS = ("127.0.0.1:15020", "127.0.0.1:15021", "127.0.0.1:14840")
"""Where the bench file's arm, its dashboard and the photometer listen when it is used by hand."""


@dataclass(frozen=True)
class Where:
    """Where everything is reached."""

    folder: Path
    url: str


class Demo:
    """Broker, bench and daemon of one demo. `running` ends them all, whatever happens inside."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="labedge-demo-"))
        self._broker = EmbeddedBroker()
        self._children: list[Child] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Where]:
        """Everything but the planner, up and connected."""
        try:
            bench = await self._start_bench()
            url = await self._start_broker()
            write_cell(self.folder, url, await _addresses(bench))
            await self._start("daemon", "-m", "edge", "run", "cell.yaml", "--log-level", "INFO")
            yield Where(self.folder, url)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._stop()))

    async def plan(self, where: Where, arguments: list[str]) -> AsyncIterator[bytes]:
        """The planner's output, line by line. Raises LabedgeError when another process ends before it."""
        planner = await self._start("planner", "-m", "edge.demo.planner", "--url", where.url, *arguments)
        others = [child for child in self._children if child is not planner]
        fates = {asyncio.ensure_future(child.ended()): child for child in others}
        try:
            while True:
                line = asyncio.ensure_future(planner.line())
                await asyncio.wait([line, *fates], return_when=asyncio.FIRST_COMPLETED)
                for fate, child in fates.items():
                    if fate.done():
                        raise child.failure()
                if not line.result():
                    return
                yield line.result()
        finally:
            for fate in fates:
                fate.cancel()

    def kill(self) -> None:
        """End every process at once; for a second Ctrl-C."""
        for child in self._children:
            child.kill()

    async def _start(self, name: str, *arguments: str) -> Child:
        child = await Child.start(name, arguments, self.folder)
        self._children.append(child)
        return child

    async def _start_broker(self) -> str:
        try:
            with deaf_to_ctrl_c():
                await self._broker.start()
        except BrokerError as error:
            raise LabedgeError(str(error)) from error
        return f"mqtt://{self._broker.host}:{self._broker.port}"

    async def _start_bench(self) -> Child:
        text = packaged("bench.yaml")
        for port in _BENCH_PORTS:
            text = text.replace(port, "127.0.0.1:0")
        (self.folder / "bench.yaml").write_text(text, encoding="utf-8")
        return await self._start("bench", "-m", "firmware_sim", "run", "bench.yaml", "--json")

    async def _stop(self) -> None:
        """The daemon first, so that it can stop its devices; the broker last, so that it can say so."""
        for child in reversed(self._children):
            await child.stop(DAEMON_GRACE_S if child.name == "daemon" else GRACE_S)
        await self._broker.stop()


async def _addresses(bench: Child) -> dict[str, str]:
    """Where each instrument is reached, as the bench says once all of them answer."""
    try:
        async with asyncio.timeout(READY_S):
            line = await bench.line()
    except TimeoutError:
        raise LabedgeError(f"The bench is not ready after {READY_S:g} s; see {bench.log}.") from None
    if not line:
        raise bench.failure()
    addresses: dict[str, str] = msgspec.json.decode(line)["ready"]
    return addresses


def packaged(name: str) -> str:
    """A file that comes with the demo."""
    return importlib.resources.files("edge.demo").joinpath(name).read_text(encoding="utf-8")


def write_cell(folder: Path, url: str, addresses: dict[str, str]) -> Path:
    """The demo's cell file with the addresses that broker and bench really have."""
    text = packaged("cell.yaml").replace("mqtt://127.0.0.1:1883", url)
    for port, name in zip(_BENCH_PORTS, ("arm", "arm.dashboard", "reader"), strict=True):
        text = text.replace(port, addresses[name].rpartition("/")[2])
    file = folder / "cell.yaml"
    file.write_text(text, encoding="utf-8")
    return file
