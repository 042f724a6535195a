"""The photometer's driver against an address space in memory: odd servers, and results that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from drivers.api import operations_of
from drivers.errors import Fault, Lost, Refused
from drivers.sensors.lads_photometer import LadsPhotometer
from drivers.sensors.lads_photometer.driver import LadsOptions, Measure, Scan
from drivers.sensors.lads_photometer.unit import DI, LADS, STATES
from protocols.errors import BadRequest, LinkDown
from protocols.links import Links
from protocols.opcua_model import OBJECTS, UA, Child, Name, Node, Sample
from tests.drivers.attempts import Try, intent_of


class Space:
    """A LADS server as `protocols.opcua.OpcUa` shows one. Nodes are paths of names."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.nodes: dict[str, tuple[str, Name, tuple[str, int | str] | None]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.is_open = False
        self.opened = 0
        self.on_start: Callable[[str, str], None] = lambda task, run: None
        self.call_error: Exception | None = None
        self.notify: Callable[[Node, Sample], None] = lambda node, sample: None
        self.add("", DI, "DeviceSet")
        self.add_device("reader")

    def __call__(self, url: str, *, on_lost: Callable[[str], None]) -> Space:
        self.on_lost = on_lost
        return self

    def add(
        self, parent: str, uri: str, name: str, value: Any = None, kind: str = "Object", of: Any = None
    ) -> str:
        path = f"{parent}/{name}"
        self.nodes[path] = (kind, (uri, name), of)
        if kind == "Variable":
            self.values[path] = value
        return path

    def add_device(self, name: str, units: Sequence[str] = ("unit",), of: Any = (LADS, 1002)) -> None:
        device = self.add("/DeviceSet", "urn:x", name, of=of)
        self.add(device, DI, "SerialNumber", "77", "Variable")
        unit_set = self.add(device, LADS, "FunctionalUnitSet")
        for unit_name in units:
            unit = self.add(unit_set, "urn:x", unit_name)
            machine = self.add(unit, LADS, "FunctionalUnitState")
            for method in ("StartProgram", "Abort", "Clear"):
                self.add(machine, LADS, method, kind="Method")
            state = self.add(machine, UA, "CurrentState", "Angehalten", "Variable")
            self.add(state, UA, "Id", self.node(LADS, 5085), "Variable")
            self.add(self.add(unit, LADS, "ProgramManager"), LADS, "ResultSet")

    @property
    def unit(self) -> str:
        return "/DeviceSet/reader/FunctionalUnitSet/unit"

    def set_state(self, name: str) -> None:
        number = next(number for number, known in STATES.items() if known == name)
        path = f"{self.unit}/FunctionalUnitState/CurrentState"
        self.values[f"{path}/Id"] = self.node(LADS, number)
        self.notify(Node(path), Sample(name, None, "Good"))

    def add_result(self, task: str, run: str, **variables: Any) -> None:
        result = self.add(f"{self.unit}/ProgramManager/ResultSet", "urn:x", run)
        self.add(result, LADS, "SupervisoryTaskId", task, "Variable")
        variable_set = self.add(result, LADS, "VariableSet")
        for name, value in variables.items():
            self.add(variable_set, "urn:x", name, value, "Variable")

    async def open(self) -> None:
        self.is_open = True
        self.opened += 1

    async def close(self) -> None:
        self.is_open = False

    def node(self, uri: str, identifier: int | str) -> Node:
        return Node(f"{uri};{identifier}")

    async def browse_path(self, start: Node, path: Sequence[Name]) -> Node:
        where = "" if start == OBJECTS else start.id
        for uri, name in path:
            where = f"{where}/{name}"
            if where not in self.nodes or self.nodes[where][1] != (uri, name):
                raise BadRequest(f"no {name}", sent=True)
        return Node(where)

    async def children(self, node: Node) -> list[Child]:
        return [
            Child(Node(path), name, of, kind)
            for path, (kind, name, of) in self.nodes.items()
            if path.rpartition("/")[0] == node.id
        ]

    async def read(self, nodes: Sequence[Node]) -> list[Sample]:
        if not self.is_open:
            raise LinkDown("gone", sent=False)
        return [Sample(self.values[node.id], None, "Good") for node in nodes]

    async def structure(self, uri: str, number: int, **fields: Any) -> dict[str, Any]:
        return fields

    async def subscribe(
        self, nodes: Any, callback: Callable[[Node, Sample], None], interval_ms: float
    ) -> None:
        self.notify = callback

    async def call(self, owner: Node, method: Node, *arguments: Any) -> list[Any]:
        name = method.id.rpartition("/")[2]
        self.calls.append((name, arguments))
        if self.call_error is not None:
            raise self.call_error
        if name == "StartProgram":
            self.on_start(arguments[3], f"run-{len(self.calls)}")
            return [f"run-{len(self.calls)}"]
        self.set_state({"Abort": "Aborted", "Clear": "Stopped"}[name])
        return []


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Space:
    made = Space()
    monkeypatch.setattr("protocols.opcua.OpcUa", made)
    return made


def photometer(links: Links, **options: Any) -> LadsPhotometer:
    given = LadsOptions(driver="lads-photometer", port="opc.tcp://127.0.0.1:4840", **options)
    return LadsPhotometer("reader", given, links)


async def test_state_is_known_in_any_language(space: Space, links: Links) -> None:
    device = photometer(links)
    await device.open()
    assert (await device.read()).state == "Stopped"
    space.set_state("Running")
    assert (await device.read()).running


async def test_state_of_a_server_that_gives_only_text(space: Space, links: Links) -> None:
    path = f"{space.unit}/FunctionalUnitState/CurrentState"
    del space.nodes[f"{path}/Id"]
    space.values[path] = "Running"
    device = photometer(links)
    await device.open()
    assert (await device.read()).running


async def test_several_devices_or_units_want_a_name(space: Space, links: Links) -> None:
    space.add_device("second", units=("left", "right"), of=("urn:maker", 7))
    space.add("/DeviceSet", DI, "DeviceFeatures")
    with pytest.raises(Refused, match="has reader, second as LADS device: name one as `device`"):
        await photometer(links).open()
    with pytest.raises(Refused, match="left, right as functional unit of second: name one as `unit`"):
        await photometer(links, device="second").open()
    chosen = photometer(links, device="second", unit="right")
    await chosen.open()
    assert (await chosen.identify()).serial == "77"


async def test_server_without_lads_is_refused(space: Space, links: Links) -> None:
    space.nodes.clear()
    with pytest.raises(Refused):
        await photometer(links).open()


async def test_call_carries_program_properties_number_and_sample(space: Space, links: Links) -> None:
    space.on_start = lambda task, run: space.add_result(task, run, Absorbance=0.5)
    device, attempt = photometer(links, program="OD"), Try(9)
    measured = await device.measure(Measure("plate-1/B3", 520.5), attempt)
    assert (measured.absorbance, measured.wavelength_nm) == (0.5, 520.5)
    ((name, arguments),) = space.calls
    assert name == "StartProgram"
    sample = {"ContainerId": "plate-1", "SampleId": "plate-1/B3", "Position": "B3", "CustomData": ""}
    assert arguments == ("OD", [{"Key": "wavelength_nm", "Value": "520.5"}], "labedge", "9", [sample])
    assert b'"wavelength_nm":"520.5"' in attempt.intents[0][0]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"Absorbance": [0.1]}, "1 absorbances for 2 wavelengths"),
        ({"Transmission": [0.1, 0.2]}, r"variables: Transmission.*`Absorbance` the right program"),
        ({"Absorbance": [0.1, 0.2], "WavelengthNm": [450.0, 520.0]}, "measured at"),
        ({"Absorbance": [0.1, float("inf")]}, "no number"),
        ({"Absorbance": "0.1"}, "0 absorbances"),
    ],
)
async def test_wrong_result_is_never_data(
    space: Space, links: Links, variables: dict[str, Any], sentence: str
) -> None:
    space.on_start = lambda task, run: space.add_result(task, run, **variables)
    device, attempt = photometer(links), Try(3)
    wanted = Scan([450.0, 600.0], "plate-1/A1")
    with pytest.raises(Fault, match=sentence):
        await device.scan(wanted, attempt)
    outcome = await device.settle(intent_of(attempt, "scan", wanted))
    assert outcome.kind == "failed"


async def test_result_of_another_task_is_not_taken(space: Space, links: Links) -> None:
    space.add_result("1", "run-1", Absorbance=9.9)
    space.on_start = lambda task, run: space.add_result(task, "named-otherwise", Absorbance=[0.25])
    measured = await photometer(links).measure(Measure("plate-1/A1"), Try(2))
    assert measured.absorbance == 0.25


async def test_lost_reply_to_the_start_is_in_doubt_and_settled(space: Space, links: Links) -> None:
    device, attempt = photometer(links), Try(4)
    space.call_error = LinkDown("cut", sent=True)
    with pytest.raises(Lost) as caught:
        await device.measure(Measure("plate-1/A1"), attempt)
    assert caught.value.sent
    space.is_open = False
    space.set_state("Running")
    settling = asyncio.ensure_future(device.settle(intent_of(attempt, "measure", Measure("plate-1/A1"))))
    await asyncio.sleep(0.05)
    assert not settling.done()
    space.add_result("4", "late", Absorbance=0.75)
    space.set_state("Stopped")
    outcome = await settling
    assert (outcome.kind, outcome.result) == ("finished", {"absorbance": 0.75, "wavelength_nm": 450.0})
    assert space.opened == 2


async def test_status_of_the_server_is_a_refusal(space: Space, links: Links) -> None:
    space.call_error = BadRequest("BadInvalidState", sent=True)
    with pytest.raises(Refused, match="BadInvalidState"):
        await photometer(links).measure(Measure("plate-1/A1"), Try(5))


async def test_running_unit_refuses_before_anything_is_called(space: Space, links: Links) -> None:
    space.set_state("Running")
    device = photometer(links)
    with pytest.raises(Refused, match="is Running"):
        await device.measure(Measure("plate-1/A1"), Try(6))
    with pytest.raises(Refused, match="wait for its program"):
        await device.prepare()
    assert space.calls == []


async def test_halt_without_a_loop_or_a_session_is_silent(space: Space, links: Links) -> None:
    device = photometer(links)
    device.halt()
    await device.open()
    space.set_state("Running")
    await asyncio.to_thread(device.halt)
    assert space.calls == []
    device.halt()
    await device.close()
    assert [name for name, _ in space.calls] == ["Abort"]


def test_declaration() -> None:
    operations = operations_of(LadsPhotometer)
    options = LadsOptions(driver="lads-photometer", port="opc.tcp://h:1", at="reader")
    assert LadsPhotometer.sees(options) == "reader"
    assert LadsPhotometer.line(options).framing == "opcua"
    many = operations["scan"].estimate_s(options, Scan([450.0] * 10))
    assert many > operations["measure"].estimate_s(options, Measure())
    assert operations["scan"].schema()["properties"]["wavelengths_nm"]["maxItems"] == 16
