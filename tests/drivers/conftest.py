"""Fixtures for drivers: a scripted device at the other end of a PTY, and the pool of ports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from protocols.links import Links
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
