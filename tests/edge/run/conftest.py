"""No test of the cell's inside waits for the pauses that real devices need."""

from __future__ import annotations

import pytest

from edge.run import actor, attempt, devices, runner, stopping


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "BACKOFF_S", (0.0, 0.001))
    monkeypatch.setattr(stopping, "ASK_EVERY_S", 0.001)
    monkeypatch.setattr(attempt, "ASK_AGAIN_S", 0.001)
    monkeypatch.setattr(devices, "CONNECT_WAIT_S", 0.02)
    monkeypatch.setattr(devices, "CONFIRM_WAIT_S", 0.02)
    monkeypatch.setattr(runner, "DEVICE_WAIT_S", 0.02)
    monkeypatch.setattr(runner, "MEASURE_WAIT_S", 0.02)
