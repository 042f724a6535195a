"""OPC UA client: browse by namespace URI, batched reads, writes, method calls, subscriptions.

Brings in asyncua, which costs 28 MB and 200 ms: import this module only when a cell has such a device.
Security policy None, anonymous user. Requests carry ids, so a cancelled or late one is never taken for
another; a lost connection is not repaired here: everything raises LinkDown until `open` is called again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from protocols.errors import BadFrame, BadRequest, LinkDown, LinkTimeout, WireError
from protocols.opcua_library import (
    Client,
    NodeId,
    UaClientState,
    VariantType,
    data_type_to_variant_type,
    node_id,
    packed,
    plain_value,
    sample,
    ua,
    variant,
)
from protocols.opcua_model import (
    OBJECTS,
    UA,
    Child,
    Name,
    Node,
    Sample,
    Structure,
    check_url,
    error_of,
)
from protocols.opcua_subscription import Handler, Subscription

__all__ = ["OBJECTS", "UA", "Child", "Name", "Node", "OpcUa", "Sample", "Structure", "Subscription"]

SESSION_S = 60
"""How long the server keeps the session of a client that vanished; instruments allow few sessions."""

QUEUE = 100
"""Changes of one subscribed node that the server keeps between two publications."""

_PAGES = 1000
_HIERARCHICAL = ua.NodeId(ua.ObjectIds.HierarchicalReferences)
_HAS_ENCODING = ua.NodeId(ua.ObjectIds.HasEncoding)

T = TypeVar("T")


class OpcUa:
    """One session with one server. All methods belong to one event loop.

    Requests raise LinkDown (not connected: sent=False; lost meanwhile: sent=True), LinkTimeout (sent=True)
    after `timeout_s`, BadRequest with the status that the server answered (sent=True), BadFrame.
    `on_lost` hears, once, why an open connection ended by itself.
    """

    def __init__(
        self, url: str, *, timeout_s: float = 4.0, on_lost: Callable[[str], None] | None = None
    ) -> None:
        self.url = check_url(url)
        self._timeout_s = timeout_s
        self._on_lost = on_lost
        self._client: Any = None
        self._farewell: asyncio.Task[None] | None = None
        self._uris: list[str] = []
        self._builtins: dict[NodeId, VariantType] = {}
        self._inputs: dict[Node, list[Any] | None] = {}
        self._definitions: dict[tuple[str, int | str], tuple[NodeId, list[Any]]] = {}

    @property
    def is_open(self) -> bool:
        """Connected with an active session, as far as this side knows."""
        return self._client is not None and self._client.uaclient.state is UaClientState.CONNECTED

    async def open(self) -> None:
        """Connect, open a session and learn the namespaces; replaces a connection that was lost.

        Raises LinkDown or LinkTimeout; then nothing is left open.
        """
        await self.close()
        # asyncua asks for the server's state once per watchdog interval and gives it that long to answer.
        client: Any = Client(self.url, timeout=self._timeout_s, watchdog_intervall=self._timeout_s)
        client.name = client.description = "labedge"
        client.application_uri = "urn:labedge:client"
        client.session_timeout = SESSION_S * 1000
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await client.connect()
                self._uris = list(await client.get_namespace_array())
        except BaseException as error:
            await self._dispose(client)
            failure = self._failure(error, "connecting", sent=False)
            if failure is None:
                raise
            raise failure from error

        async def lost(error: Exception) -> None:
            self._told_lost(client, error)

        client.connection_lost_callback = lost
        self._client = client
        self._builtins.clear()
        self._inputs.clear()
        self._definitions.clear()

    async def close(self) -> None:
        """End session and connection; never raises, ends within `timeout_s`."""
        client, self._client = self._client, None
        farewell, self._farewell = self._farewell, None
        if client is not None:
            await self._dispose(client)
        if farewell is not None:
            await farewell

    def namespace(self, uri: str) -> int:
        """Index of a namespace in this session; BadRequest if the server lacks it."""
        if uri not in self._uris:
            raise BadRequest(f"The server {self.url} does not have the namespace {uri}.")
        return self._uris.index(uri)

    def node(self, uri: str, identifier: int | str) -> Node:
        """The node with a known identifier in a namespace."""
        return Node(ua.NodeId(identifier, self.namespace(uri)).to_string())

    async def browse_path(self, start: Node, path: Sequence[Name]) -> Node:
        """The node reached from `start` along hierarchical references by browse names, in one request.

        Raises BadRequest naming the first name that is not there.
        """
        elements = [
            ua.RelativePathElement(_HIERARCHICAL, False, True, ua.QualifiedName(name, self.namespace(uri)))
            for uri, name in path
        ]
        if not elements:
            return start
        steps = [
            ua.BrowsePath(node_id(start), ua.RelativePath(elements[: length + 1]))
            for length in range(len(elements))
        ]
        results = await self._ask(
            "looking up names", lambda client: client.uaclient.translate_browsepaths_to_nodeids(steps)
        )
        for (_, name), result in zip(path, results, strict=True):
            if result.StatusCode.is_bad() or not result.Targets:
                way = "/".join(part for _, part in path)
                status = result.StatusCode.name
                raise BadRequest(
                    f"{self.url} has no '{name}' on the way {start.id}/{way} ({status}).", sent=True
                )
        return Node(results[-1].Targets[0].TargetId.to_string())

    async def children(self, node: Node) -> list[Child]:
        """All nodes below `node` by hierarchical references, in the server's order."""
        asked = ua.BrowseDescription(
            node_id(node), ua.BrowseDirection.Forward, _HIERARCHICAL, True, 0, ua.BrowseResultMask.All
        )
        return [self._child(reference) for reference in await self._references(asked)]

    async def read(self, nodes: Sequence[Node]) -> list[Sample]:
        """Values of variables, in the order of `nodes`, in one request; each with its own status."""
        return [sample(value) for value in await self._attributes(nodes, ua.AttributeIds.Value)]

    async def write(self, values: Mapping[Node, Any]) -> None:
        """Write variables in one request, each as its data type; BadRequest names what was refused."""
        nodes = list(values)
        types: list[VariantType] = []
        for node, value in zip(nodes, await self._attributes(nodes, ua.AttributeIds.DataType), strict=True):
            if value.StatusCode.is_bad():
                raise error_of(value.StatusCode.name, f"The server {self.url} cannot write {node.id}")
            types.append(await self._builtin(value.Value.Value))
        written = [
            ua.DataValue(variant(values[node], kind, f"the value for {node.id}"))
            for node, kind in zip(nodes, types, strict=True)
        ]
        ids = [node_id(node) for node in nodes]
        statuses = await self._ask("writing", lambda client: client.uaclient.write_attributes(ids, written))
        for node, status in zip(nodes, statuses, strict=True):
            if status.is_bad():
                raise error_of(status.name, f"The server {self.url} did not write {node.id}")

    async def call(self, owner: Node, method: Node, *arguments: Any) -> list[Any]:
        """Call `method` of the object `owner`; arguments are sent as the types that the server declares.

        Returns the output arguments. Raises BadRequest for arguments that do not fit (sent=False) and for a
        status that the server answers (sent=True), naming it, such as BadInvalidState.
        """
        request = ua.CallMethodRequest(
            node_id(owner), node_id(method), await self._arguments(method, arguments)
        )
        (result,) = await self._ask("calling a method", lambda client: client.uaclient.call([request]))
        if result.StatusCode.is_bad():
            wrong = [
                f"argument {number} is {status.name}"
                for number, status in enumerate(result.InputArgumentResults or (), start=1)
                if status.is_bad()
            ]
            sentence = f"The server {self.url} refuses the method {method.id} of {owner.id}"
            raise error_of(" because ".join([result.StatusCode.name, *wrong[:1]]), sentence)
        return [plain_value(output.Value) for output in result.OutputArguments or ()]

    async def subscribe(
        self, nodes: Sequence[Node], callback: Callable[[Node, Sample], None], interval_ms: float
    ) -> Subscription:
        """Call `callback` on the event loop for every change, and once at the beginning, for each node.

        Nothing is repeated after a lost connection: `on_lost` tells, and one subscribes again after `open`.
        """
        handler = Handler(callback, sample)
        inner = await self._ask(
            "subscribing", lambda client: client.create_subscription(interval_ms, handler)
        )
        subscription = Subscription(self._ask, inner)
        results = await self._ask(
            "subscribing",
            lambda client: inner.subscribe_data_change(
                [client.get_node(node_id(node)) for node in nodes],
                queuesize=QUEUE,
                sampling_interval=interval_ms,
            ),
        )
        for node, result in zip(nodes, results, strict=True):
            if isinstance(result, ua.StatusCode):
                await subscription.close()
                raise error_of(result.name, f"The server {self.url} does not let {node.id} be subscribed")
        return subscription

    async def structure(self, type_uri: str, type_id: int | str, **fields: Any) -> Structure:
        """A value of the structured data type that the server publishes; fields not given are empty.

        Types whose fields are built-in types or arrays of them, without options. Raises BadRequest naming
        the fields there are.
        """
        encoding, known = await self._definition(type_uri, type_id)
        unknown = sorted(set(fields) - {field.Name for field in known})
        if unknown:
            names = ", ".join(field.Name for field in known)
            raise BadRequest(
                f"The data type {type_id} of {type_uri} has no field '{unknown[0]}'; it has {names}."
            )
        body = b""
        for field in known:
            kind = await self._builtin(field.DataType)
            what = f"field '{field.Name}' of data type {type_id}"
            if kind in (ua.VariantType.ExtensionObject, ua.VariantType.Variant):
                raise BadRequest(f"The {what} is a structure of its own; those are not supported.")
            body += packed(fields.get(field.Name), kind, field.ValueRank >= 1, what)
        return Structure(encoding.to_string(), body)

    # Below: one request each, and what is learned about the server.

    async def _ask(self, what: str, request: Callable[[Any], Awaitable[T]]) -> T:
        client = self._client
        if client is None or not self.is_open:
            raise LinkDown(f"There is no connection to {self.url}.", sent=False)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await request(client)
        except Exception as error:
            failure = self._failure(error, what, sent=True)
            if failure is None:
                raise
            raise failure from error

    def _failure(self, error: BaseException, what: str, *, sent: bool) -> WireError | None:
        """Our error for the library's, None for what is not its."""
        if isinstance(error, WireError) or not isinstance(error, Exception):
            return None
        if isinstance(error, ua.UaStatusCodeError):
            return error_of(ua.StatusCode(error.code).name, f"The server {self.url} refuses {what}")
        if isinstance(error, TimeoutError):
            return LinkTimeout(f"{self.url} did not answer in time while {what}.", sent=sent)
        if isinstance(error, OSError):
            reason = error.strerror or str(error) or "connection lost"
            return LinkDown(f"The connection to {self.url} failed while {what}: {reason}.", sent=sent)
        # What asyncua's decoder stumbles over has no common type; our own values were encoded before.
        return BadFrame(f"{self.url} answered something unreadable while {what} ({error!r}).")

    async def _dispose(self, client: Any) -> None:
        try:
            with contextlib.suppress(Exception):  # the library's, about a connection nobody wants any more
                async with asyncio.timeout(self._timeout_s):
                    await client.disconnect()
        finally:
            client.disconnect_socket()

    def _told_lost(self, client: Any, error: Exception) -> None:
        if client is not self._client:
            return
        self._client = None
        # Left alone, asyncua would go on trying to publish on the dead connection, once a second, for ever.
        self._farewell = asyncio.create_task(self._dispose(client))
        if self._on_lost is not None:
            reason = str(error) or type(error).__name__
            self._on_lost(f"The connection to {self.url} was lost: {reason}.")

    async def _attributes(self, nodes: Sequence[Node], attribute: Any) -> list[Any]:
        ids = [node_id(node) for node in nodes]
        if not ids:
            return []
        return await self._ask("reading", lambda client: client.uaclient.read_attributes(ids, attribute))

    async def _references(self, asked: Any) -> list[Any]:
        parameters = ua.BrowseParameters(ua.ViewDescription(), 0, [asked])
        (page,) = await self._ask("browsing", lambda client: client.uaclient.browse(parameters))
        found: list[Any] = []
        for _ in range(_PAGES):
            if page.StatusCode.is_bad():
                raise error_of(
                    page.StatusCode.name, f"The server {self.url} does not show {asked.NodeId.to_string()}"
                )
            found += page.References or ()
            if not page.ContinuationPoint:
                return found
            more = ua.BrowseNextParameters(False, [page.ContinuationPoint])
            (page,) = await self._ask("browsing", partial(_browse_next, more))
        raise BadFrame(f"{self.url} never stops listing what is below {asked.NodeId.to_string()}.")

    def _child(self, reference: Any) -> Child:
        kind = reference.TypeDefinition
        known = None if kind is None or kind.is_null() else (self._uri(kind.NamespaceIndex), kind.Identifier)
        name = reference.BrowseName
        return Child(
            node=Node(reference.NodeId.to_string()),
            browse_name=(self._uri(name.NamespaceIndex), name.Name),
            type_definition=known,
            node_class=ua.NodeClass(reference.NodeClass).name,
        )

    def _uri(self, index: int) -> str:
        return self._uris[index] if index < len(self._uris) else f"urn:unknown-namespace:{index}"

    async def _builtin(self, data_type: NodeId) -> VariantType:
        """The built-in type in which values of a data type travel (Part 6, 5.1.2)."""
        if data_type not in self._builtins:
            self._builtins[data_type] = await self._ask(
                "looking up a data type", lambda client: data_type_to_variant_type(client.get_node(data_type))
            )
        return self._builtins[data_type]

    async def _arguments(self, method: Node, given: Sequence[Any]) -> list[Any]:
        if not given:  # no question first: it may be a stop
            return []
        if method not in self._inputs:
            self._inputs[method] = await self._declared_inputs(method)
        declared = self._inputs[method]
        if declared is None:  # nothing declared: the types of the Python values must do
            return [variant(value, None, f"argument {n}") for n, value in enumerate(given, start=1)]
        if len(given) != len(declared):
            names = ", ".join(argument.Name for argument in declared) or "none"
            raise BadRequest(
                f"The method {method.id} takes {len(declared)} arguments ({names}), not {len(given)}."
            )
        return [
            variant(value, await self._builtin(argument.DataType), f"argument '{argument.Name}'")
            for argument, value in zip(declared, given, strict=True)
        ]

    async def _declared_inputs(self, method: Node) -> list[Any] | None:
        try:
            declaration = await self.browse_path(method, [(UA, "InputArguments")])
        except BadRequest:
            return None
        (value,) = await self._attributes([declaration], ua.AttributeIds.Value)
        return list(value.Value.Value or ())

    async def _definition(self, type_uri: str, type_id: int | str) -> tuple[NodeId, list[Any]]:
        key = (type_uri, type_id)
        if key not in self._definitions:
            node = self.node(type_uri, type_id)
            (value,) = await self._attributes([node], ua.AttributeIds.DataTypeDefinition)
            definition = value.Value.Value if value.Value is not None else None
            if not isinstance(definition, ua.StructureDefinition):
                raise BadRequest(f"{self.url} publishes no structure for data type {type_id} of {type_uri}.")
            if definition.StructureType != ua.StructureType.Structure:
                raise BadRequest(f"Data type {type_id} of {type_uri} has optional fields; not supported.")
            encoding = definition.DefaultEncodingId
            if encoding.is_null():
                encoding = await self._binary_encoding(node)
            self._definitions[key] = encoding, list(definition.Fields or ())
        return self._definitions[key]

    async def _binary_encoding(self, data_type: Node) -> NodeId:
        asked = ua.BrowseDescription(
            node_id(data_type), ua.BrowseDirection.Forward, _HAS_ENCODING, True, 0, ua.BrowseResultMask.All
        )
        for reference in await self._references(asked):
            if reference.BrowseName.Name == "Default Binary":
                return reference.NodeId
        raise BadRequest(f"{self.url} publishes no binary encoding for {data_type.id}.")


async def _browse_next(more: Any, client: Any) -> list[Any]:
    pages: list[Any] = await client.uaclient.browse_next(more)
    return pages
