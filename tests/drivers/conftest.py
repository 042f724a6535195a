"""Fixtures for drivers: a scripted device at the other end of a PTY, and the pool of ports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from drivers.liquid.cavro_xcalibur import pump as module
from drivers.liquid.cavro_xcalibur.pump import CavroXCalibur
from protocols.links import Links
from tests.drivers.cavro_rig import make
from tests.drivers.scripted import ScriptedPeer


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[ScriptedPeer]:
    with ScriptedPeer() as scripted:
        yield scripted


@pytest_asyncio.fixture
async def links() -> AsyncIterator[Links]:
    pool = Links()
    yield pool
    await pool.close()


@pytest.fixture
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)


@pytest_asyncio.fixture
async def pump(_look_often: None, peer: ScriptedPeer, links: Links) -> AsyncIterator[CavroXCalibur]:
    device = make(peer, links)
    await device.open()
    yield device
    await device.close()
