"""A LADS functional unit served over OPC UA: its methods act on the photometer, its nodes follow it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from firmware_sim.api import Simulator
from firmware_sim.clock import Clock
from firmware_sim.errors import BenchError
from firmware_sim.faults import BOOT_S
from firmware_sim.hosts.lads_nodes import STATES, STRING, SUBSTATES, LadsNodes, localized
from firmware_sim.hosts.opcua import NOTHING, NodeId, OpcUaCarrier, Server, Space, Variant, ua
from firmware_sim.instruments.lads_photometer import (
    TEMPLATE,
    InvalidArgument,
    InvalidState,
    LadsPhotometer,
    Sample,
    Unit,
)


class LadsSpace:
    """Shows one photometer, and calls its methods."""

    def __init__(
        self, photometer: LadsPhotometer, catch_up: Callable[[], None], rearm: Callable[[], None]
    ) -> None:
        self._photometer = photometer
        self._catch_up = catch_up
        self._rearm = rearm
        self._space: Space
        self._nodes = LadsNodes(
            photometer,
            {
                "Start": self._start,
                "StartProgram": self._start_program,
                "Stop": self._stop,
                "Abort": self._abort,
                "Clear": self._clear,
            },
        )
        self._results: dict[str, NodeId] = {}
        self._seen: deque[Unit] = deque([photometer.unit()])
        self._changed = asyncio.Event()
        self._publishing = asyncio.Lock()
        photometer.on_change = self._note

    async def build(self, server: Server) -> None:
        self._space = await self._nodes.build(server)
        await self._publish()

    # Keeping the nodes true.

    def _note(self) -> None:
        """Every state is shown in its turn, however fast they follow each other."""
        self._seen.append(self._photometer.unit())
        self._changed.set()

    async def follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._publish()

    async def _publish(self) -> None:
        async with self._publishing:
            while self._seen:
                unit = self._seen.popleft()
                await self._publish_results()
                await self._publish_unit(unit)

    async def _publish_results(self) -> None:
        kept = {run.run_id: run for run in self._photometer.results}
        gone = [run_id for run_id in self._results if run_id not in kept]
        new = [run for run_id, run in kept.items() if run_id not in self._results]
        for run_id in gone:
            await self._space.delete(self._results.pop(run_id))
        for run in new:
            self._results[run.run_id] = await self._nodes.result(run)
        if gone or new:
            version = ua.Variant(f"{self._photometer.results[-1].run_id if kept else ''}", STRING)
            await self._space.write(self._nodes.changing["ResultSet/NodeVersion"], version)

    async def _publish_unit(self, unit: Unit) -> None:
        write, nodes = self._space.write, self._nodes.changing
        active = {
            "DeviceProgramRunId": ua.Variant(unit.run_id, STRING),
            "SupervisoryJobId": ua.Variant(unit.job, STRING),
            "SupervisoryTaskId": ua.Variant(unit.task, STRING),
            "CurrentRuntime": ua.Variant(unit.spent_s * 1000.0, ua.VariantType.Double),
            "EstimatedRuntime": ua.Variant(unit.estimated_s * 1000.0, ua.VariantType.Double),
            "CurrentStepName": localized(unit.running),
        }
        for name, value in active.items():
            await write(nodes[name], value)
        for name in ("SensorValue", "RawValue"):
            await write(nodes[name], ua.Variant(unit.absorbance, ua.VariantType.Double))
        health = ua.Variant(0 if unit.healthy else 1, ua.VariantType.Int32)
        await write(nodes["DeviceHealth"], health)
        await self._publish_states(unit)

    async def _publish_states(self, unit: Unit) -> None:
        """The identity before the name, so that whoever is told of the name finds the identity beside it."""
        write, nodes = self._space.write, self._nodes.changing
        if unit.running:
            number, _ = SUBSTATES[unit.running]
            await write(nodes["Substate/Id"], ua.Variant(self._nodes.id(number)))
            await write(nodes["Substate"], localized(unit.running))
        else:
            for name, empty in (("Substate/Id", ua.Variant(NOTHING)), ("Substate", localized(""))):
                await write(nodes[name], empty, ua.StatusCodes.BadStateNotActive)
        number, order = STATES[unit.state]
        told = f"{unit.state}: {unit.reason}" if unit.reason else unit.running or unit.state
        await write(nodes["State/EffectiveDisplayName"], localized(told))
        await write(nodes["State/Number"], ua.Variant(order, ua.VariantType.UInt32))
        await write(nodes["State/Id"], ua.Variant(self._nodes.id(number)))
        await write(nodes["State"], localized(unit.state))

    # The methods.

    async def _call(self, act: Callable[[], Any]) -> Any:
        """Act on the photometer of this very moment; outputs, or the status code that says why not."""
        self._catch_up()
        try:
            outcome = act()
        except InvalidState:
            return ua.StatusCode(ua.StatusCodes.BadInvalidState)
        except InvalidArgument:
            return ua.StatusCode(ua.StatusCodes.BadInvalidArgument)
        finally:
            self._rearm()
        await self._publish()
        return [] if outcome is None else [ua.Variant(outcome, STRING)]

    async def _start_program(self, _: NodeId, *arguments: Variant) -> Any:
        if len(arguments) != 5:
            return ua.StatusCode(ua.StatusCodes.BadArgumentsMissing)
        template, properties, job, task, samples = (argument.Value for argument in arguments)
        try:
            pairs = dict(_strings(entry, ("Key", "Value")) for entry in properties or [])
            listed = [
                Sample(*_strings(entry, ("ContainerId", "SampleId", "Position", "CustomData")))
                for entry in samples or []
            ]
        except ValueError:
            return ua.StatusCode(ua.StatusCodes.BadInvalidArgument)
        start = self._photometer.start_program
        return await self._call(lambda: start(template or "", pairs, job or "", task or "", listed))

    async def _start(self, _: NodeId, *arguments: Variant) -> Any:
        """The unit's own program, without a job; properties as KeyValuePair."""
        given = arguments[0].Value if arguments else None
        pairs = {pair.Key.Name: str(pair.Value.Value) for pair in given or []}
        return await self._call(lambda: self._begin(pairs))

    def _begin(self, pairs: Mapping[str, str]) -> None:
        self._photometer.start_program(TEMPLATE, pairs, "", "", [])

    async def _stop(self, _: NodeId) -> Any:
        return await self._call(self._photometer.stop)

    async def _abort(self, _: NodeId) -> Any:
        return await self._call(self._photometer.abort)

    async def _clear(self, _: NodeId) -> Any:
        return await self._call(self._photometer.clear)


class LadsCarrier(OpcUaCarrier):
    """The OPC UA server of one photometer."""

    def __init__(self, simulator: Simulator, address: str, clock: Clock) -> None:
        if not isinstance(simulator, LadsPhotometer):
            raise BenchError(f"{simulator.name} is a {simulator.model} and cannot be shown as a LADS device.")
        super().__init__(simulator.name, LadsSpace(simulator, clock.catch_up, clock.rearm), address)
        simulator.on_reboot = lambda: self.disconnect(BOOT_S)


def _strings(structure: Any, fields: Sequence[str]) -> list[str]:
    """The texts of a structure, decoded by asyncua or still as it came; `ValueError` if it is something
    else."""
    if not isinstance(structure, ua.ExtensionObject):
        if not all(hasattr(structure, field) for field in fields):
            raise ValueError(f"no {', '.join(fields)} in {structure!r}")
        return [getattr(structure, field) or "" for field in fields]
    texts, rest = [], structure.Body or b""
    for _ in fields:
        if len(rest) < 4:
            raise ValueError("a structure that ends too soon")
        length = max(0, int.from_bytes(rest[:4], "little", signed=True))
        texts.append(rest[4 : 4 + length].decode())
        rest = rest[4 + length :]
    return texts
