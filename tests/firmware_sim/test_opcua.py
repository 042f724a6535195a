"""The photometer over OPC UA, with asyncua's client: nodes by namespace and browse name, methods, results."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncua
import pytest
import pytest_asyncio

from firmware_sim.api import BenchError
from firmware_sim.clock import Clock
from firmware_sim.hosts.lads import LadsCarrier
from firmware_sim.instruments.hamilton_arc_ph import HamiltonArcPh
from firmware_sim.instruments.lads_photometer import LadsPhotometer
from firmware_sim.log import nowhere
from firmware_sim.world import World

# Taken as untyped: what asyncua publishes of its types contradicts what it does.
ua: Any = asyncua.ua
Client: Any = cast(Any, asyncua).Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

DI = "http://opcfoundation.org/UA/DI/"
LADS = "http://opcfoundation.org/UA/LADS/"
OWN = "urn:labedge:firmware-sim"
BENCH = {
    "positions": {"reader": None},
    "labware": {"plate-1": {"type": "sbs-96", "at": "reader", "contents": {"A1": {"red": 100.0}}}},
    "liquids": {"red": {"absorbance": {450: 2.0, 520: 1.0}}},
}


class StillClock(Clock):
    """Time passes when the test says so; counts how often the host asked for the present."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked: list[str] = []

    def catch_up(self) -> None:
        self.asked.append("catch_up")

    def rearm(self) -> None:
        self.asked.append("rearm")


class Served:
    """A photometer behind its server, and a client's view of it."""

    def __init__(self, photometer: LadsPhotometer, carrier: LadsCarrier, clock: StillClock) -> None:
        self.photometer = photometer
        self.carrier = carrier
        self.clock = clock
        self.client = Client(carrier.address)
        self._namespaces: dict[str, int] = {}

    async def connect(self) -> None:
        await self.client.connect()
        await self.client.load_data_type_definitions()
        for uri in (DI, LADS, OWN):
            self._namespaces[uri] = await self.client.get_namespace_index(uri)

    async def find(self, path: str, start: Any = None) -> Any:
        """A node by names such as `lads:FunctionalUnitSet/own:PhotometricUnit`, from the device on."""
        short = {"di": DI, "lads": LADS, "own": OWN}
        node = start or self.client.nodes.objects
        if start is None:
            path = f"di:DeviceSet/own:reader/{path}"
        for step in path.split("/"):
            prefix, _, name = step.partition(":")
            index = self._namespaces[short[prefix]] if prefix in short else 0
            node = await node.get_child(ua.QualifiedName(name, index))
        return node

    async def unit(self, path: str) -> Any:
        return await self.find(f"lads:FunctionalUnitSet/own:PhotometricUnit/{path}")

    async def state(self) -> tuple[str, int]:
        current = await self.unit("lads:FunctionalUnitState/ua:CurrentState")
        identity = await (await self.find("ua:Id", current)).read_value()
        assert identity.NamespaceIndex == self._namespaces[LADS]
        return (await current.read_value()).Text, identity.Identifier

    async def call(self, method: str, *arguments: Any) -> Any:
        machine = await self.unit("lads:FunctionalUnitState")
        return await machine.call_method(ua.QualifiedName(method, self._namespaces[LADS]), *arguments)

    async def start(self, *wells: str, task: str = "task-1", **properties: str) -> str:
        pairs = [ua.KeyValueType(Key=key, Value=value) for key, value in properties.items()]
        samples = [
            ua.SampleInfoType(ContainerId="plate-1", SampleId=f"s-{well}", Position=well) for well in wells
        ]
        structures = [ua.Variant(listed, ua.VariantType.ExtensionObject) for listed in (pairs, samples)]
        return str(await self.call("StartProgram", "Absorbance", structures[0], "job-1", task, structures[1]))

    async def results(self) -> dict[str, Any]:
        results = await self.unit("lads:ProgramManager/lads:ResultSet")
        return {(await node.read_browse_name()).Name: node for node in await results.get_children(refs=47)}

    async def pass_time(self, seconds: float) -> None:
        """Tick, and let the server follow."""
        self.photometer.tick(seconds)
        space: Any = self.carrier._space
        await space._publish()


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    photometer = LadsPhotometer("reader", {"noise": 0, "serial": "4711"}, World(BENCH), nowhere)
    clock = StillClock()
    carrier = LadsCarrier(photometer, "127.0.0.1:0", clock)
    await carrier.open()
    served = Served(photometer, carrier, clock)
    await served.connect()
    try:
        yield served
    finally:
        await served.client.disconnect()
        await carrier.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_server() -> AsyncIterator[Served]:
    """A server takes a second to start, so that the tests share one."""
    async with serving() as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def served(one_server: Served) -> Served:
    """The shared server as if it had just been switched on."""
    photometer = one_server.photometer
    photometer.on_reboot, cut = lambda: None, photometer.on_reboot
    photometer.reboot()
    photometer.on_reboot = cut
    photometer.world.labware["plate-1"].position = "reader"
    await one_server.pass_time(0.0)
    one_server.clock.asked.clear()
    return one_server


async def test_identity(served: Served) -> None:
    found = {}
    for name in ("Manufacturer", "Model", "SerialNumber", "SoftwareRevision", "DeviceClass"):
        value = await (await served.find(f"di:{name}")).read_value()
        found[name] = getattr(value, "Text", value)
    assert found["SerialNumber"] == "4711"
    assert found["DeviceClass"] == "Photometer"
    assert all(found.values())


async def test_types_have_the_numbers_of_the_nodeset(served: Served) -> None:
    lads, di = served._namespaces[LADS], served._namespaces[DI]
    device = await served.find("lads:FunctionalUnitSet/own:PhotometricUnit")
    for path, number in (
        ("lads:FunctionalUnitSet", 1023),
        ("lads:FunctionalUnitSet/own:PhotometricUnit", 1003),
        ("lads:FunctionalUnitSet/own:PhotometricUnit/lads:FunctionalUnitState", 1043),
        ("lads:FunctionalUnitSet/own:PhotometricUnit/lads:ProgramManager", 1006),
        ("lads:FunctionalUnitSet/own:PhotometricUnit/lads:ProgramManager/lads:ActiveProgram", 1040),
        ("lads:FunctionalUnitSet/own:PhotometricUnit/lads:FunctionSet", 1026),
        ("lads:FunctionalUnitSet/own:PhotometricUnit/lads:FunctionSet/own:AbsorbanceSensor", 1016),
    ):
        node = await served.find(path)
        assert await node.read_type_definition() == ua.NodeId(number, lads), path
    owner = await (await device.get_parent()).get_parent()
    assert await owner.read_type_definition() == ua.NodeId(1002, lads)
    assert (await owner.get_parent()).nodeid == ua.NodeId(5001, di)


async def test_a_program_from_start_to_result(served: Served) -> None:
    assert await served.state() == ("Stopped", 5085)
    run_id = await served.start("A1", wavelengths_nm="450,520")
    assert await served.state() == ("Running", 5099)
    sub = await served.unit("lads:FunctionalUnitState/lads:RunningStateMachine/ua:CurrentState")
    assert (await sub.read_value()).Text == "Starting"
    active = await served.unit("lads:ProgramManager/lads:ActiveProgram")
    assert await (await served.find("lads:DeviceProgramRunId", active)).read_value() == run_id
    assert await (await served.find("own:SupervisoryTaskId", active)).read_value() == "task-1"
    assert await (await served.find("lads:EstimatedRuntime", active)).read_value() == pytest.approx(1400.0)
    assert await served.results() == {}
    await served.pass_time(5.0)
    assert await served.state() == ("Stopped", 5085)
    result = (await served.results())[run_id]
    values = {}
    for name in ("Absorbance", "WavelengthNm", "Positions"):
        values[name] = await (await served.find(f"lads:VariableSet/own:{name}", result)).read_value()
    assert values["Absorbance"] == pytest.approx([0.625, 0.3125])
    assert (values["WavelengthNm"], values["Positions"]) == ([450.0, 520.0], ["A1", "A1"])
    for name, expected in (("SupervisoryJobId", "job-1"), ("SupervisoryTaskId", "task-1")):
        assert await (await served.find(f"lads:{name}", result)).read_value() == expected
    (sample,) = await (await served.find("lads:Samples", result)).read_value()
    assert (sample.ContainerId, sample.SampleId, sample.Position) == ("plate-1", "s-A1", "A1")
    (pair,) = await (await served.find("lads:Properties", result)).read_value()
    assert (pair.Key, pair.Value) == ("wavelengths_nm", "450,520")
    sensor = await served.unit("lads:FunctionSet/own:AbsorbanceSensor/lads:SensorValue")
    assert await sensor.read_value() == pytest.approx(0.3125)


async def test_the_present_is_asked_for_around_each_call(served: Served) -> None:
    await served.start("A1")
    assert served.clock.asked == ["catch_up", "rearm"]


async def test_every_state_is_told_in_its_turn(served: Served) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    class Handler:
        def datachange_notification(self, _node: Any, value: Any, _data: Any) -> None:
            heard.put_nowait(value.Text)

    current = await served.unit("lads:FunctionalUnitState/ua:CurrentState")
    subscription = await served.client.create_subscription(10, Handler())
    await subscription.subscribe_data_change(current, queuesize=20)
    await served.start("A1")
    served.photometer.tick(30.0)
    told: list[str] = []
    async with asyncio.timeout(20):
        while told.count("Stopped") < 2:
            told.append(await heard.get())
    collapsed = [state for i, state in enumerate(told) if i == 0 or told[i - 1] != state]
    assert collapsed == ["Stopped", "Running", "Stopping", "Stopped"]
    await subscription.delete()


async def test_methods_out_of_their_state(served: Served) -> None:
    for method in ("Stop", "Abort", "Clear"):
        with pytest.raises(ua.uaerrors.BadInvalidState):
            await served.call(method)
    await served.start("A1")
    with pytest.raises(ua.uaerrors.BadInvalidState):
        await served.start("A1")


async def test_stop_abort_and_clear(served: Served) -> None:
    await served.start("A1")
    await served.call("Stop")
    assert await served.state() == ("Stopping", 5100)
    await served.pass_time(1.0)
    await served.start("A1")
    await served.call("Abort")
    assert await served.state() == ("Aborting", 5159)
    await served.pass_time(1.0)
    assert await served.state() == ("Aborted", 5160)
    await served.call("Clear")
    assert await served.state() == ("Clearing", 5143)
    await served.pass_time(1.0)
    assert await served.state() == ("Stopped", 5085)
    assert await served.results() == {}


async def test_start_runs_the_unit_without_a_job(served: Served) -> None:
    pair = ua.KeyValuePair(Key=ua.QualifiedName("wavelength_nm"), Value=ua.Variant("520"))
    await served.call("Start", ua.Variant([pair], ua.VariantType.ExtensionObject))
    assert await served.state() == ("Running", 5099)
    await served.pass_time(60.0)
    (result,) = (await served.results()).values()
    absorbance = await (await served.find("lads:VariableSet/own:Absorbance", result)).read_value()
    assert absorbance[0] == pytest.approx(0.3125)
    assert len(absorbance) == 96


async def test_the_methods_of_the_types_act_too(served: Served) -> None:
    machine = await served.unit("lads:FunctionalUnitState")
    await served.start("A1")
    await machine.call_method(ua.NodeId(7112, served._namespaces[LADS]))
    assert await served.state() == ("Stopping", 5100)


async def test_why_a_run_failed_stands_in_the_effective_display_name(served: Served) -> None:
    served.photometer.world.labware["plate-1"].position = None
    await served.start("A1")
    await served.pass_time(5.0)
    assert await served.state() == ("Aborted", 5160)
    name = await served.unit("lads:FunctionalUnitState/ua:CurrentState/ua:EffectiveDisplayName")
    assert (await name.read_value()).Text == "Aborted: there is no plate in the photometer"


@pytest.mark.parametrize("wells", [["nowhere"], [""]])
async def test_arguments_it_cannot_serve(served: Served, wells: list[str]) -> None:
    with pytest.raises(ua.uaerrors.BadInvalidArgument):
        await served.start(*wells)


async def test_arguments_of_another_kind(served: Served) -> None:
    with pytest.raises(ua.uaerrors.BadArgumentsMissing):
        await served.call("StartProgram", "Absorbance")
    wrong = ua.Variant([ua.Range(Low=0, High=1)], ua.VariantType.ExtensionObject)
    with pytest.raises(ua.uaerrors.BadInvalidArgument):
        await served.call("StartProgram", "Absorbance", wrong, "", "", None)
    broken = ua.ExtensionObject(TypeId=ua.NodeId(5099, served._namespaces[LADS]), Body=b"\xff\xff")
    with pytest.raises(ua.uaerrors.BadInvalidArgument):
        await served.call("StartProgram", "Absorbance", ua.Variant([broken]), "", "", None)
    assert await served.state() == ("Stopped", 5085)


async def test_structures_of_a_client_that_knows_no_types(served: Served) -> None:
    pair = ua.ExtensionObject(
        TypeId=ua.NodeId(4999, served._namespaces[LADS]),
        Body=b"\x0d\x00\x00\x00wavelength_nm\x03\x00\x00\x00520",
    )
    await served.call("StartProgram", "Absorbance", ua.Variant([pair]), "", "", None)
    await served.pass_time(60.0)
    (result,) = served.photometer.results
    assert result.wavelength_nm[0] == 520.0


async def test_clients_cannot_write(served: Served) -> None:
    serial = await served.find("di:SerialNumber")
    with pytest.raises(ua.uaerrors.BadUserAccessDenied):
        await serial.write_value("1")


async def test_results_are_forgotten_with_the_photometer(served: Served) -> None:
    for i in range(3):
        await served.start("A1", task=f"task-{i}")
        await served.pass_time(5.0)
    assert len(await served.results()) == 3
    while len(served.photometer.results) > 1:
        served.photometer.results.popleft()
    await served.start("A1", task="task-3")
    await served.pass_time(5.0)
    tasks = [
        await (await served.find("lads:SupervisoryTaskId", node)).read_value()
        for node in (await served.results()).values()
    ]
    assert tasks == ["task-2", "task-3"]


async def test_a_reboot_cuts_the_connection_and_lets_clients_come_back() -> None:
    async with serving() as served:
        await reboot(served)


async def reboot(served: Served) -> None:
    await served.start("A1")
    lost = asyncio.Event()

    async def on_loss(_error: Exception) -> None:
        lost.set()

    served.client.connection_lost_callback = on_loss
    served.photometer.reboot()
    async with asyncio.timeout(20):
        await lost.wait()
        again = Served(served.photometer, served.carrier, served.clock)
        while True:
            try:
                await again.connect()
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert await again.state() == ("Stopped", 5085)
    await again.client.disconnect()


async def test_a_taken_port_is_said() -> None:
    photometer = LadsPhotometer("reader", {}, World(BENCH), nowhere)
    with socket.create_server(("127.0.0.1", 0)) as other:
        carrier = LadsCarrier(photometer, f"127.0.0.1:{other.getsockname()[1]}", StillClock())
        with pytest.raises(BenchError, match="cannot be listened at"):
            await carrier.open()
        await carrier.close()


async def test_only_a_photometer_can_be_shown() -> None:
    with pytest.raises(BenchError, match="cannot be shown"):
        LadsCarrier(HamiltonArcPh("ph", {}, World({}), nowhere), "127.0.0.1:0", StillClock())
