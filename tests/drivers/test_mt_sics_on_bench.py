"""The balance driver on the simulated bench: whatever happens on the line, no wrong weight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from drivers.errors import DriverError, Lost
from drivers.sensors import mt_sics as module
from drivers.sensors.mt_sics import MtSics, MtSicsOptions, Settle, Weigh
from firmware_sim.pytest_plugin import RunningBench
from protocols.links import Links
from tests.drivers.scripted import Try

BENCH = {
    "bench": "balance",
    "seed": 7,
    "speed": 20.0,
    "instruments": {"scale": {"model": "mt-sics", "link": "pty", "weighs": "flask", "serial": "B042"}},
    "labware": {"flask": {"type": "tube-1", "well_capacity_ul": 5000, "contents": {"A1": {"water": 3000}}}},
    "liquids": {"water": {"density_g_ml": 1.0}},
}
on_bench = pytest.mark.bench(BENCH)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_S", 0.3)
    monkeypatch.setattr(module, "SLICE_S", 0.4)


@pytest_asyncio.fixture
async def scale(bench: RunningBench, links: Links) -> AsyncIterator[MtSics]:
    options = msgspec.convert({"driver": "mt-sics", "port": bench.addresses["scale"]}, MtSicsOptions)
    device = MtSics("scale", options, links)
    await device.open()
    yield device


@on_bench
async def test_weigh_tare_and_zero(scale: MtSics) -> None:
    assert (await scale.identify()).serial == "B042"
    assert (await scale.weigh(Weigh(), Try())).mass_g == pytest.approx(3.0, abs=0.01)
    assert (await scale.tare(Settle(), Try())).tare_g == pytest.approx(3.0, abs=0.01)
    assert (await scale.read()).mass_g == pytest.approx(0.0, abs=0.01)
    await scale.zero(Settle(), Try())
    assert (await scale.weigh(Weigh(stable=False), Try())).mass_g == pytest.approx(0.0, abs=0.01)


@on_bench
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop-reply"},
        {"kind": "drop-request"},
        {"kind": "garble"},
        {"kind": "garble", "side": "request"},
        {"kind": "truncate"},
        {"kind": "truncate", "side": "request"},
        {"kind": "delay", "delay_s": 0.4},
        {"kind": "duplicate-reply"},
        {"kind": "noise"},
    ],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
async def test_no_fault_makes_a_wrong_weight(
    bench: RunningBench, scale: MtSics, fault: dict[str, Any]
) -> None:
    await scale.read()
    for _ in range(2):
        bench.fault("scale", **fault)
        assert (await scale.weigh(Weigh(), Try())).mass_g == pytest.approx(3.0, abs=0.01)
        assert (await scale.read()).mass_g == pytest.approx(3.0, abs=0.01)


@on_bench
async def test_a_balance_that_hangs_is_lost_and_comes_back(bench: RunningBench, scale: MtSics) -> None:
    await scale.read()
    bench.fault("scale", "hang")
    with pytest.raises(Lost):
        await scale.weigh(Weigh(timeout_s=0.5), Try())
    bench.fault("scale", "reboot", for_s=0.05)
    for _ in range(5):
        try:
            weighed = await scale.read()
            break
        except DriverError:
            continue
    assert weighed.mass_g == pytest.approx(3.0, abs=0.01)
