"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.pytest_plugin import RunningBench
from tests.brokers import Mosquitto
from tests.system.kit import BENCH, RunningCell, cell_of


@pytest.fixture
def stage_a(start_bench: Callable[[Any], RunningBench]) -> RunningBench:
    """Two pumps on one line and a balance."""
    return start_bench(BENCH)


@pytest.fixture
async def cell(
    stage_a: RunningBench, mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> AsyncIterator[RunningCell]:
    """A daemon on the bench of stage (a), connected and Idle."""
    broker = mosquitto()
    running = RunningCell(tmp_path, cell_of(BENCH, stage_a.addresses, broker.url), broker.port)
    running.start()
    try:
        async with running.connected():
            await running.state("Idle")
            yield running
    finally:
        running.stop()
