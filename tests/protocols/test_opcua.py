"""The OPC UA client against a server in a process of its own, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from protocols.errors import BadRequest, LinkDown, LinkTimeout
from protocols.opcua import OBJECTS, UA, Node, OpcUa, Sample
from tests.brokers import free_port
from tests.protocols.opcua_server import NUMBERED, URI

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0


class ServerProcess:
    def __init__(self) -> None:
        self.port = free_port()
        self.pair_type = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/"

    def start(self, *options: str) -> None:
        command = (sys.executable, "-m", "tests.protocols.opcua_server", str(self.port), *options)
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        word, _, number = self._process.stdout.readline().partition(b" ")
        assert word == b"ready"
        self.pair_type = int(number)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess()
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[OpcUa]:
    opened = OpcUa(server.url, timeout_s=10.0)
    await opened.open()
    values = {"Real": 1.5, "Small": 7, "Label": "hello", "Series": [1.0, 2.0]}
    await opened.write({await _at(opened, "Device", name): value for name, value in values.items()})
    await opened.write({await _at(opened, "Device", "Pointer"): opened.node(URI, NUMBERED)})
    yield opened
    await opened.close()


async def _at(client: OpcUa, *names: str) -> Node:
    return await client.browse_path(OBJECTS, [(URI, name) for name in names])


async def test_names_lead_to_nodes(client: OpcUa) -> None:
    assert client.is_open
    fixed = await _at(client, "Device", "Fixed")
    assert fixed == client.node(URI, NUMBERED)
    assert await client.browse_path(fixed, []) == fixed
    assert client.namespace(UA) == 0
    with pytest.raises(BadRequest, match="does not have the namespace urn:none"):
        client.namespace("urn:none")
    with pytest.raises(BadRequest, match=r"has no 'Gone' on the way i=85/Device/Gone/Deeper") as refused:
        await _at(client, "Device", "Gone", "Deeper")
    assert refused.value.sent
    with pytest.raises(BadRequest, match="not an OPC UA node id"):
        await client.read([Node("rubbish")])


async def test_children_tell_name_type_and_class(client: OpcUa) -> None:
    device = await _at(client, "Device")
    children = {child.browse_name: child for child in await client.children(device)}
    fixed = children[(URI, "Fixed")]
    assert fixed.node == client.node(URI, NUMBERED)
    assert (fixed.type_definition, fixed.node_class) == ((UA, 63), "Variable")  # BaseDataVariableType
    add = children[(URI, "Add")]
    assert (add.type_definition, add.node_class) == (None, "Method")
    assert len(await client.children(await _at(client, "Many"))) == 50
    with pytest.raises(BadRequest, match=r"does not show ns=2;i=999999: BadNodeId"):
        await client.children(Node("ns=2;i=999999"))


async def test_one_request_reads_many_values(client: OpcUa) -> None:
    names = ["Real", "Small", "Label", "Series", "Range", "Pointer"]
    nodes = [await _at(client, "Device", name) for name in names]
    samples = await client.read([*nodes, Node("ns=2;i=999999")])
    assert [sample.value for sample in samples] == [
        *(1.5, 7, "hello", [1.0, 2.0], {"Low": 0.0, "High": 4.0}),
        *(client.node(URI, NUMBERED), None),
    ]
    assert [sample.good for sample in samples] == [True] * 6 + [False]
    assert samples[-1].status == "BadNodeIdUnknown"
    assert await client.read([]) == []


async def test_times_are_utc(client: OpcUa) -> None:
    real = await _at(client, "Device", "Real")
    await client.write({real: 2.5})
    (sample,) = await client.read([real])
    assert isinstance(sample.source_time, datetime | None)
    if sample.source_time is not None:
        assert sample.source_time.utcoffset() == timedelta(0)


async def test_values_are_written_as_the_type_of_their_variable(client: OpcUa) -> None:
    names = ["Real", "Small", "Label", "Series", "Pointer"]
    nodes = [await _at(client, "Device", name) for name in names]
    values = [3, -4, "bye", [5, 6.5], OBJECTS]
    await client.write(dict(zip(nodes, values, strict=True)))
    assert [sample.value for sample in await client.read(nodes)] == [3.0, -4, "bye", [5.0, 6.5], OBJECTS]
    with pytest.raises(BadRequest, match="cannot be sent as Int16: 'many'") as misfit:
        await client.write({nodes[1]: "many"})
    assert not misfit.value.sent
    with pytest.raises(BadRequest, match="cannot be sent as Int16: 40000"):
        await client.write({nodes[1]: 40000})
    fixed = client.node(URI, NUMBERED)
    with pytest.raises(BadRequest, match=rf"did not write {fixed.id}: Bad") as refused:
        await client.write({fixed: 1})
    assert refused.value.sent
    with pytest.raises(BadRequest, match="BadNodeIdUnknown"):
        await client.write({Node("ns=2;i=999999"): 1})


async def test_methods_take_the_declared_types(client: OpcUa) -> None:
    device, add = await _at(client, "Device"), await _at(client, "Device", "Add")
    assert await client.call(device, add, 2, 3) == [5.0]
    assert await client.call(device, add, 2, 0.5) == [2.5]
    with pytest.raises(BadRequest, match=r"takes 2 arguments \(Left, Right\), not 1") as few:
        await client.call(device, add, 2)
    with pytest.raises(BadRequest, match="argument 'Left' cannot be sent as UInt16: -1") as misfit:
        await client.call(device, add, -1, 2.0)
    with pytest.raises(BadRequest, match="refuses the method") as none:
        await client.call(device, add)
    assert none.value.sent
    assert not few.value.sent
    assert not misfit.value.sent


async def test_a_refused_call_names_its_status(client: OpcUa) -> None:
    device = await _at(client, "Device")
    with pytest.raises(BadRequest, match="BadInvalidState") as refused:
        await client.call(device, await _at(client, "Device", "Refuse"))
    assert refused.value.sent
    with pytest.raises(BadRequest, match="BadNodeIdInvalid"):
        await client.call(device, client.node(URI, 424242))


async def test_structures_are_built_from_the_servers_definition(client: OpcUa, server: ServerProcess) -> None:
    device, join = await _at(client, "Device"), await _at(client, "Device", "Join")
    pairs = [
        await client.structure(URI, server.pair_type, Key="wavelength", Value="450"),
        await client.structure(URI, server.pair_type, Key="empty"),
    ]
    assert await client.call(device, join, pairs) == ["wavelength=450;empty=None"]
    assert await client.call(device, join, []) == [""]
    with pytest.raises(BadRequest, match=r"has no field 'Colour'; it has Key, Value\."):
        await client.structure(URI, server.pair_type, Colour="red")
    with pytest.raises(BadRequest, match=r"field 'Key' of data type .* cannot be sent as String: 5"):
        await client.structure(URI, server.pair_type, Key=5)
    with pytest.raises(BadRequest, match="publishes no structure"):
        await client.structure(UA, 12)  # String


async def test_structures_hold_numbers_and_lists(client: OpcUa, server: ServerProcess) -> None:
    structures = await client.children(Node("i=22"))  # Structure, with its subtypes
    mixed = next(child.node for child in structures if child.browse_name == (URI, "Mixed"))
    identifier = int(mixed.id.rpartition("=")[2])
    made = await client.structure(URI, identifier, Count=258, Levels=[1.0])
    assert made.body == b"\x02\x01" + b"\x01\x00\x00\x00" + bytes.fromhex("000000000000f03f")
    assert (await client.structure(URI, identifier)).body == b"\x00\x00" + b"\xff\xff\xff\xff"


async def test_a_late_answer_is_a_timeout_and_never_the_next_one(server: ServerProcess) -> None:
    client = OpcUa(server.url, timeout_s=0.5)
    await client.open()
    device, sleep = await _at(client, "Device"), await _at(client, "Device", "Sleep")
    add = await _at(client, "Device", "Add")
    with pytest.raises(LinkTimeout) as late:
        await client.call(device, sleep, 0.7)
    assert late.value.sent
    assert await client.call(device, add, 20, 22) == [42.0]
    await client.close()


async def test_cancellation_is_not_swallowed(client: OpcUa) -> None:
    device, sleep = await _at(client, "Device"), await _at(client, "Device", "Sleep")
    add = await _at(client, "Device", "Add")
    task = asyncio.create_task(client.call(device, sleep, 0.2))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await client.call(device, add, 1, 1) == [2.0]


class Changes:
    def __init__(self) -> None:
        self.seen: list[tuple[Node, Sample]] = []
        self._changed = asyncio.Event()

    def __call__(self, node: Node, sample: Sample) -> None:
        self.seen.append((node, sample))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def test_subscriptions_deliver_changes_in_order(client: OpcUa) -> None:
    changes = Changes()
    real, small = await _at(client, "Device", "Real"), await _at(client, "Device", "Small")
    subscription = await client.subscribe([real, small], changes, 20)
    await changes.until(lambda: len(changes.seen) == 2)
    assert {node: sample.value for node, sample in changes.seen} == {real: 1.5, small: 7}
    for value in range(1, 6):
        await client.write({small: value})
    await changes.until(lambda: len(changes.seen) == 7)
    assert [sample.value for _, sample in changes.seen[2:]] == [1, 2, 3, 4, 5]
    await subscription.close()
    await client.write({small: 9})
    assert len(changes.seen) == 7
    with pytest.raises(BadRequest, match="does not let ns=2;i=999999 be subscribed"):
        await client.subscribe([small, Node("ns=2;i=999999")], changes, 20)


async def test_a_failing_callback_is_logged_and_survived(
    client: OpcUa, caplog: pytest.LogCaptureFixture
) -> None:
    changes = Changes()
    small = await _at(client, "Device", "Small")

    def moody(node: Node, sample: Sample) -> None:
        if sample.value == 7:
            raise ZeroDivisionError
        changes(node, sample)

    await client.subscribe([small], moody, 20)
    await client.write({small: 8})
    await changes.until(lambda: len(changes.seen) > 0)
    assert "could not be handled" in caplog.text


async def test_a_lost_connection_and_a_restarted_server() -> None:
    server = ServerProcess()
    server.start()
    told: list[str] = []
    heard = asyncio.Event()

    def lost(reason: str) -> None:
        told.append(reason)
        heard.set()

    client = OpcUa(server.url, timeout_s=10.0, on_lost=lost)
    await client.open()
    before = client.namespace(URI)
    device, sleep = await _at(client, "Device"), await _at(client, "Device", "Sleep")
    subscription = await client.subscribe([await _at(client, "Device", "Small")], Changes(), 20)
    call = asyncio.create_task(client.call(device, sleep, 60.0))
    await client.read([device])  # the call is on its way before this
    server.kill()
    with pytest.raises(LinkDown) as down:
        await call
    assert down.value.sent
    async with asyncio.timeout(WAIT_S):
        await heard.wait()
    assert len(told) == 1
    assert server.url in told[0]
    assert not client.is_open
    with pytest.raises(LinkDown) as again:
        await client.read([device])
    assert not again.value.sent
    await subscription.close()
    with pytest.raises(LinkDown, match="failed while connecting") as refused:
        await client.open()
    assert not refused.value.sent
    server.start("shifted")
    await client.open()
    assert client.namespace(URI) == before + 1
    (sample,) = await client.read([await _at(client, "Device", "Fixed")])
    assert sample.value == 3
    assert client.is_open
    await client.close()
    assert not client.is_open
    assert len(told) == 1
    await client.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    server.kill()


async def test_a_server_that_says_nothing() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = OpcUa(f"opc.tcp://127.0.0.1:{port}", timeout_s=0.1)
    with pytest.raises(LinkTimeout, match="did not answer in time while connecting") as late:
        await client.open()
    assert not late.value.sent
    assert not client.is_open
    listener.close()


async def test_a_server_that_speaks_something_else() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(http, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = OpcUa(f"opc.tcp://127.0.0.1:{port}", timeout_s=2.0)
    with pytest.raises((LinkDown, LinkTimeout)):
        await client.open()
    listener.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host:4840", "not an OPC UA address"),
        ("opc.tcp://", "not an OPC UA address"),
        ("opc.tcp://host", "lacks a port"),
        ("opc.tcp://host:99999", "lacks a port"),
        ("opc.tcp://user:secret@host:4840", "user name"),
    ],
)
def test_addresses_that_are_none(url: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as refused:
        OpcUa(url)
    assert "secret" not in str(refused.value)
