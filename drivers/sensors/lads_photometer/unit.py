"""A functional unit of an OPC UA LADS device: find it, start a program, wait for its end, fetch the result.

Source: OPC 30500-1 LADS 1.0.0 (browse names and type numbers of Opc.Ua.LADS.NodeSet2.xml, 2023-11-30), OPC
10000-100 Devices. Namespaces are resolved by URI. Only what any LADS device has is used:

    Objects / DeviceSet / <device> / FunctionalUnitSet / <unit>
        / FunctionalUnitState                   CurrentState, StartProgram, Stop, Abort, Clear
        / ProgramManager / ResultSet / <result> SupervisoryTaskId, VariableSet
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drivers.api import Identity, nothing_sent, wire_errors
from drivers.errors import Lost, Refused
from protocols.errors import BadRequest
from protocols.opcua_model import OBJECTS, UA, Child, Name, Node

if TYPE_CHECKING:
    from protocols.opcua import OpcUa

LADS = "http://opcfoundation.org/UA/LADS/"
DI = "http://opcfoundation.org/UA/DI/"
DEVICE_TYPE = (LADS, 1002)
SAMPLE_INFO_TYPE = 3002
KEY_VALUE_TYPE = 3003

STATES = {
    5160: "Aborted",
    5159: "Aborting",
    5143: "Clearing",
    5085: "Stopped",
    5099: "Running",
    5100: "Stopping",
}
"""Nodes of FunctionalStateMachineType: the state's text may be in the instrument's own language."""
MOVING = ("Running", "Stopping", "Aborting", "Clearing")

NOTICE_MS = 100.0
LOOK_S = 2.0
"""The state is looked at that often even if no change has been notified."""
RESULT_S = 2.0
"""So long the result of a program may take to appear."""


class Unit:
    """One functional unit in one session. Raises `Refused` or `Lost`; every wait ends by a deadline."""

    def __init__(self, name: str, link: OpcUa) -> None:
        self.name = name
        self._link = link
        self._changed = asyncio.Event()
        self._device: Node
        self._machine: Node
        self._results: Node
        self._state: tuple[Node, Node | None]

    async def find(self, device: str | None, unit: str | None) -> None:
        """Find the unit by the browse names given, or the only one there is; hear of its changes of state."""
        with wire_errors():
            device_set = await self._link.browse_path(OBJECTS, [(DI, "DeviceSet")])
            devices = [child for child in await self._link.children(device_set) if await self._is_lads(child)]
        found = self._only(devices, device, "LADS device", "device")
        with wire_errors():
            units = await self._link.children(
                await self._link.browse_path(found.node, [(LADS, "FunctionalUnitSet")])
            )
        objects = [child for child in units if child.node_class == "Object"]
        chosen = self._only(objects, unit, f"functional unit of {found.browse_name[1]}", "unit")
        self._device = found.node
        with wire_errors():
            self._machine = await self._link.browse_path(chosen.node, [(LADS, "FunctionalUnitState")])
            self._results = await self._link.browse_path(
                chosen.node, [(LADS, "ProgramManager"), (LADS, "ResultSet")]
            )
            state = await self._link.browse_path(self._machine, [(UA, "CurrentState")])
            self._state = state, await self._below(state, (UA, "Id"))
            await self._link.subscribe([state], lambda _node, _sample: self._changed.set(), NOTICE_MS)

    def wake(self) -> None:
        """Let whoever waits for a change look again."""
        self._changed.set()

    async def identity(self) -> Identity:
        """Manufacturer and model, serial number, software revision as the device publishes them (DI)."""
        names = ("Manufacturer", "Model", "SerialNumber", "SoftwareRevision")
        facts: dict[str, str] = {}
        with wire_errors():
            for name in names:
                node = await self._below(self._device, (DI, name))
                if node is not None:
                    (sample,) = await self._link.read([node])
                    facts[name] = str(sample.value or "").strip()
        model = " ".join(part for part in (facts.get("Manufacturer"), facts.get("Model")) if part)
        return Identity(
            model or "LADS device", facts.get("SerialNumber") or None, facts.get("SoftwareRevision") or None
        )

    async def state(self) -> str:
        """Aborted, Aborting, Clearing, Stopped, Running or Stopping."""
        text, number = self._state
        nodes = [text] if number is None else [text, number]
        with wire_errors():
            samples = await self._link.read(nodes)
            known = {self._link.node(LADS, identifier): name for identifier, name in STATES.items()}
        return known.get(samples[-1].value, str(samples[0].value))

    async def start(
        self,
        program: str,
        properties: Mapping[str, str],
        ids: tuple[str, str],
        samples: Sequence[Mapping[str, str]],
    ) -> str:
        """Start a program; returns the device's run id. `ids`: supervisory job and task id."""
        with nothing_sent(), wire_errors():
            pairs = [
                await self._link.structure(LADS, KEY_VALUE_TYPE, Key=key, Value=value)
                for key, value in properties.items()
            ]
            places = [await self._link.structure(LADS, SAMPLE_INFO_TYPE, **sample) for sample in samples]
            method = await self._link.browse_path(self._machine, [(LADS, "StartProgram")])
        self._changed.clear()
        with wire_errors():
            (run_id, *_) = await self._link.call(self._machine, method, program, pairs, *ids, places)
        return str(run_id)

    async def rest(self, patience_s: float) -> str:
        """Wait until nothing goes on in the unit; returns the state it has come to."""
        until = _now() + patience_s
        while True:
            state = await self.state()
            if state not in MOVING:
                return state
            if _now() > until:
                raise Lost(f"{self.name} is still {state} after {patience_s:.0f} s: look at the instrument.")
            await self._change(LOOK_S)

    async def result(self, task_id: str, run_id: str | None) -> dict[str, Any] | None:
        """Variables of the result of a task, by browse name; None if there is no result of it."""
        with wire_errors():
            results = [
                child for child in await self._link.children(self._results) if child.node_class == "Object"
            ]
            # The newest stands last; the run's own name, where the device uses it, first.
            ordered = sorted(reversed(results), key=lambda child: child.browse_name[1] != run_id)
            for child in ordered:
                task = await self._below(child.node, (LADS, "SupervisoryTaskId"))
                if task is not None and (await self._link.read([task]))[0].value == task_id:
                    return await self._variables(child.node)
        return None

    async def outcome(
        self, task_id: str, run_id: str, patience_s: float
    ) -> tuple[str, dict[str, Any] | None]:
        """Wait for the end of a program just started: the state it left, and the variables of its result."""
        until: float | None = None
        while True:
            state = await self.rest(patience_s)
            found = await self.result(task_id, run_id)
            until = until or _now() + RESULT_S
            if found is not None or state == "Aborted" or _now() > until:
                return state, found
            # It may have ended before its result is filed, or not have begun yet.
            await self._change(NOTICE_MS / 1000)

    async def command(self, name: str) -> None:
        """Call a method of the state machine that takes no arguments: Stop, Abort, Clear."""
        with wire_errors():
            method = await self._link.browse_path(self._machine, [(LADS, name)])
            await self._link.call(self._machine, method)

    async def _change(self, within_s: float) -> None:
        """Wait for a notified change of state, or for the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        self._changed.clear()

    async def _variables(self, result: Node) -> dict[str, Any]:
        variable_set = await self._link.browse_path(result, [(LADS, "VariableSet")])
        children = await self._link.children(variable_set)
        variables = [child for child in children if child.node_class == "Variable"]
        samples = await self._link.read([child.node for child in variables])
        return {
            child.browse_name[1]: sample.value
            for child, sample in zip(variables, samples, strict=True)
            if sample.good
        }

    async def _is_lads(self, child: Child) -> bool:
        if child.node_class != "Object":
            return False
        # A maker's own subtype of LADSDeviceType is known by what every LADS device must have.
        return (
            child.type_definition == DEVICE_TYPE
            or await self._below(child.node, (LADS, "FunctionalUnitSet")) is not None
        )

    async def _below(self, node: Node, name: Name) -> Node | None:
        try:
            return await self._link.browse_path(node, [name])
        except BadRequest:
            return None

    def _only(self, found: Sequence[Child], wanted: str | None, what: str, option: str) -> Child:
        names = ", ".join(child.browse_name[1] for child in found) or "none"
        chosen = [child for child in found if wanted in (None, child.browse_name[1])]
        if len(chosen) == 1:
            return chosen[0]
        if wanted is not None:
            raise Refused(
                f"{self.name}: the server has no {what} named {wanted!r}; it has {names}: mend `{option}`."
            )
        raise Refused(f"{self.name}: the server has {names} as {what}: name one as `{option}`.")


def _now() -> float:
    return asyncio.get_running_loop().time()
