"""The bench's door to OPC UA: a server for one instrument, on asyncua.

Imported only when a bench has such an instrument, for asyncua costs some 28 MB. `Space` builds nodes one by
one with the type definition, reference and node id that are asked for; asyncua's own instantiation would
choose them itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

import asyncua

from firmware_sim.errors import BenchError
from firmware_sim.hosts.tcp import split_address

# asyncua's published types contradict its own defaults and enumerations: taken as untyped.
library: Any = asyncua
ua: Any = library.ua
Server = Any
NodeId = Any
QualifiedName = Any
Variant = Any
Argument = Any

Callback = Callable[..., Awaitable[Any]]
"""An OPC UA method: object's node id and the arguments as variants; output variants, or a bad status code."""

OBJECTS = ua.NodeId(ua.ObjectIds.ObjectsFolder)
BASE_OBJECT = ua.NodeId(ua.ObjectIds.BaseObjectType)
PROPERTY = ua.NodeId(ua.ObjectIds.PropertyType)
BASE_VARIABLE = ua.NodeId(ua.ObjectIds.BaseDataVariableType)
HAS_COMPONENT = ua.NodeId(ua.ObjectIds.HasComponent)
HAS_PROPERTY = ua.NodeId(ua.ObjectIds.HasProperty)
HAS_SUBTYPE = ua.NodeId(ua.ObjectIds.HasSubtype)
ORGANIZES = ua.NodeId(ua.ObjectIds.Organizes)
MANDATORY = ua.NodeId(ua.ObjectIds.ModellingRule_Mandatory)
NOTHING = ua.NodeId()
_FAREWELL_S = 5.0


class Space:
    """Writes nodes into a server's address space. Names are qualified, ids made from the path if not
    given."""

    def __init__(self, server: Server, own_namespace: int) -> None:
        self._server = server
        self._own = own_namespace

    async def object(
        self,
        parent: NodeId,
        name: QualifiedName,
        type_definition: NodeId = BASE_OBJECT,
        node_id: NodeId = None,
        reference: NodeId = HAS_COMPONENT,
    ) -> NodeId:
        attributes = ua.ObjectAttributes()
        attributes.EventNotifier = 0
        item = self._item(parent, name, node_id, reference, attributes)
        item.NodeClass, item.TypeDefinition = ua.NodeClass.Object, type_definition
        return await self._add(item)

    async def variable(
        self,
        parent: NodeId,
        name: QualifiedName,
        value: Variant,
        data_type: NodeId,
        type_definition: NodeId = PROPERTY,
    ) -> NodeId:
        """A property, or with another type definition a component; read-only to clients."""
        attributes = ua.VariableAttributes()
        attributes.DataType, attributes.Value = data_type, value
        attributes.ValueRank = 1 if isinstance(value.Value, list) else -1
        attributes.ArrayDimensions = [0] if isinstance(value.Value, list) else None
        attributes.AccessLevel = attributes.UserAccessLevel = ua.AccessLevel.CurrentRead.mask
        attributes.MinimumSamplingInterval, attributes.Historizing = 0, False
        reference = HAS_PROPERTY if type_definition == PROPERTY else HAS_COMPONENT
        item = self._item(parent, name, None, reference, attributes)
        item.NodeClass, item.TypeDefinition = ua.NodeClass.Variable, type_definition
        return await self._add(item)

    async def object_type(self, parent: NodeId, name: QualifiedName, node_id: NodeId) -> NodeId:
        attributes = ua.ObjectTypeAttributes()
        attributes.IsAbstract = False
        item = self._item(parent, name, node_id, HAS_SUBTYPE, attributes)
        item.NodeClass = ua.NodeClass.ObjectType
        return await self._add(item)

    async def method(
        self,
        parent: NodeId,
        name: QualifiedName,
        callback: Callback,
        arguments: tuple[Sequence[Argument], Sequence[Argument]] = ((), ()),
        node_id: NodeId = None,
    ) -> NodeId:
        """`arguments` are the inputs and the outputs."""
        attributes = ua.MethodAttributes()
        attributes.Executable = attributes.UserExecutable = True
        item = self._item(parent, name, node_id, HAS_COMPONENT, attributes)
        item.NodeClass = ua.NodeClass.Method
        method = await self._add(item)
        for direction, listed in zip(("InputArguments", "OutputArguments"), arguments, strict=True):
            if listed:
                value = ua.Variant(list(listed), ua.VariantType.ExtensionObject)
                argument = ua.NodeId(ua.ObjectIds.Argument)
                await self.variable(method, ua.QualifiedName(direction, 0), value, argument)
        self._server.iserver.isession.add_method_callback(method, callback)
        return method

    async def structure(
        self, name: QualifiedName, fields: Sequence[str], data_type: NodeId, encoding: NodeId
    ) -> None:
        """A data type whose fields are strings, described so that any client can decode it."""
        base = self._server.nodes.base_structure_type
        node = await base.add_data_type(data_type, name)
        item = self._item(
            data_type,
            ua.QualifiedName("Default Binary", 0),
            encoding,
            ua.NodeId(ua.ObjectIds.HasEncoding),
            ua.ObjectAttributes(),
        )
        item.NodeClass, item.TypeDefinition = (
            ua.NodeClass.Object,
            ua.NodeId(ua.ObjectIds.DataTypeEncodingType),
        )
        await self._add(item)
        definition = ua.StructureDefinition()
        definition.BaseDataType, definition.DefaultEncodingId = base.nodeid, encoding
        definition.StructureType = ua.StructureType.Structure
        definition.Fields = [_string_field(name) for name in fields]
        await node.write_data_type_definition(definition)

    async def write(self, node_id: NodeId, value: Variant, status: int = ua.StatusCodes.Good) -> None:
        """Set a variable; subscribers hear of it."""
        data = ua.DataValue(value, StatusCode=ua.StatusCode(status))
        await self._server.write_attribute_value(node_id, data)

    async def delete(self, node_id: NodeId) -> None:
        """Remove a node and everything below it."""
        await self._server.delete_nodes([self._server.get_node(node_id)], recursive=True)

    def _item(
        self,
        parent: NodeId,
        name: QualifiedName,
        node_id: NodeId,
        reference: NodeId,
        attributes: Any,
    ) -> Any:
        attributes.DisplayName = ua.LocalizedText(name.Name)
        item = ua.AddNodesItem()
        item.ParentNodeId, item.BrowseName, item.ReferenceTypeId = parent, name, reference
        item.NodeAttributes = attributes
        path = f"{parent.Identifier}/{name.Name}" if parent != OBJECTS else name.Name
        item.RequestedNewNodeId = node_id or ua.NodeId(path, self._own)
        return item

    async def _add(self, item: Any) -> NodeId:
        result = (await self._server.iserver.isession.add_nodes([item]))[0]
        result.StatusCode.check()
        return result.AddedNodeId


class AddressSpace(Protocol):
    """What an instrument shows."""

    async def build(self, server: Server) -> None:
        """Write the nodes, before the server listens."""

    async def follow(self) -> None:
        """Keep the nodes true to the simulator, until cancelled."""


class OpcUaCarrier:
    """Serves one instrument at `host:port` (port 0: any free one) without security, to anonymous clients."""

    def __init__(self, name: str, space: AddressSpace, address: str) -> None:
        self._name = name
        self._space = space
        self._host, self._port = split_address(address)
        self._server: Server = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"opc.tcp://{host}:{self._port}"

    async def open(self) -> None:
        """Begin to answer; `BenchError` if the port is taken."""
        self._port = self._free_port()
        server = library.Server()
        await server.init()
        server.set_endpoint(self.address)
        server.set_server_name(f"firmware-sim {self._name}")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        await self._space.build(server)
        await server.start()
        self._server = server
        self._start(self._space.follow())

    async def close(self) -> None:
        """Hang up and close the port; closing twice is no error."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        server, self._server = self._server, None
        if server is not None:
            # A client that does not answer the farewell must not hold the bench up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await server.stop()

    def disconnect(self, for_s: float) -> None:
        """Pull the plug: connections break and new ones are refused, until it is plugged in again."""
        if self._server is not None:
            for transport in list(self._server.iserver.asyncio_transports):
                transport.abort()
            self._start(self._stay_away(self._server, for_s))

    async def _stay_away(self, server: Server, for_s: float) -> None:
        await server.bserver.stop()
        await asyncio.sleep(for_s)
        await server.bserver.start()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nodes that stand still would look like an instrument that does.
            context = {"message": f"{self._name}: the OPC UA server is broken", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _free_port(self) -> int:
        """The port, chosen now if any will do: clients are told of it before the server listens."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as error:
                raise BenchError(f"{self.address} cannot be listened at: {error.strerror}.") from error
            return int(probe.getsockname()[1])


def _string_field(name: str) -> Any:
    string = ua.NodeId(ua.ObjectIds.String)
    return ua.StructureField(Name=name, DataType=string, ValueRank=ua.ValueRank.Scalar, IsOptional=False)
