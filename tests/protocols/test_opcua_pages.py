"""What the OPC UA client makes of answers that the test server never gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protocols.errors import BadFrame, BadRequest, LinkDown, LinkTimeout
from protocols.opcua import OBJECTS, UA, Child, Node, OpcUa
from protocols.opcua_library import UaClientState, ua
from protocols.opcua_model import error_of


class Services:
    """asyncua's services with prepared answers."""

    state = UaClientState.CONNECTED

    def __init__(self, **answers: Callable[[Any], Any]) -> None:
        for name, answer in answers.items():
            setattr(self, name, self._service(answer))

    @staticmethod
    def _service(answer: Callable[[Any], Any]) -> Any:
        async def service(*arguments: Any) -> Any:
            return answer(arguments[0])

        return service


class Library:
    def __init__(self, services: Services) -> None:
        self.uaclient = services


def _client(**answers: Callable[[Any], Any]) -> OpcUa:
    client = OpcUa("opc.tcp://device:4840")
    client._client = Library(Services(**answers))
    client._uris = [UA]
    return client


def _reference(name: str, number: int) -> Any:
    return ua.ReferenceDescription(
        NodeId=ua.NodeId(number), BrowseName=ua.QualifiedName(name, 5), NodeClass=ua.NodeClass.Object
    )


def _page(*references: Any, more: bytes | None) -> Any:
    return ua.BrowseResult(ContinuationPoint=more, References=list(references))


async def test_children_come_in_pages() -> None:
    asked: list[Any] = []

    def next_page(parameters: Any) -> list[Any]:
        asked.append(parameters.ContinuationPoints)
        return [_page(_reference("b", 2), more=None)]

    client = _client(browse=lambda _: [_page(_reference("a", 1), more=b"p")], browse_next=next_page)
    unknown = "urn:unknown-namespace:5"
    assert await client.children(OBJECTS) == [
        Child(Node("i=1"), (unknown, "a"), None, "Object"),
        Child(Node("i=2"), (unknown, "b"), None, "Object"),
    ]
    assert asked == [[b"p"]]


async def test_pages_without_end_are_the_servers_fault() -> None:
    def page(_: Any) -> list[Any]:
        return [_page(more=b"p")]

    with pytest.raises(BadFrame, match="never stops listing what is below i=85"):
        await _client(browse=page, browse_next=page).children(OBJECTS)


def _definition(**more: Any) -> Any:
    field = ua.StructureField(Name="Key", DataType=ua.NodeId(ua.ObjectIds.String), ValueRank=-1)
    return ua.StructureDefinition(Fields=[field], **more)


def _read(definition: Any) -> Callable[[Any], Any]:
    return lambda _: [ua.DataValue(ua.Variant(definition))]


async def test_the_encoding_may_be_a_node_of_its_own() -> None:
    client = _client(
        read_attributes=_read(_definition()),
        browse=lambda _: [_page(_reference("Default XML", 8), _reference("Default Binary", 9), more=None)],
    )
    client._builtins[ua.NodeId(ua.ObjectIds.String)] = ua.VariantType.String
    assert (await client.structure(UA, 7, Key="k")).encoding_id == "i=9"


async def test_structures_that_cannot_be_built() -> None:
    options = _definition(StructureType=ua.StructureType.StructureWithOptionalFields)
    with pytest.raises(BadRequest, match="optional fields"):
        await _client(read_attributes=_read(options)).structure(UA, 7)
    with pytest.raises(BadRequest, match="no binary encoding"):
        await _client(read_attributes=_read(_definition()), browse=lambda _: [_page(more=None)]).structure(
            UA, 7
        )
    nested = _client(read_attributes=_read(_definition(DefaultEncodingId=ua.NodeId(9))))
    nested._builtins[ua.NodeId(ua.ObjectIds.String)] = ua.VariantType.ExtensionObject
    with pytest.raises(BadRequest, match="a structure of its own"):
        await nested.structure(UA, 7)


async def test_an_unreadable_answer_is_the_servers_fault() -> None:
    def stumble(_: Any) -> Any:
        raise ValueError("not enough data")

    with pytest.raises(BadFrame, match=r"unreadable while reading \(ValueError"):
        await _client(read_attributes=stumble).read([OBJECTS])


async def test_a_service_fault_is_told_by_its_status() -> None:
    def fault(status: int) -> Callable[[Any], Any]:
        def answer(_: Any) -> Any:
            raise ua.UaStatusCodeError(status)

        return answer

    codes = ua.StatusCodes
    with pytest.raises(LinkDown, match="BadSessionIdInvalid"):
        await _client(read_attributes=fault(codes.BadSessionIdInvalid)).read([OBJECTS])
    with pytest.raises(BadRequest, match="refuses reading: BadTooManyOperations") as refused:
        await _client(read_attributes=fault(codes.BadTooManyOperations)).read([OBJECTS])
    assert refused.value.sent


async def test_arguments_of_a_method_that_declares_none_go_as_they_are() -> None:
    sent: list[Any] = []

    def call(requests: Any) -> list[Any]:
        sent.extend(requests[0].InputArguments)
        return [ua.CallMethodResult()]

    missing = ua.BrowsePathResult(StatusCode=ua.StatusCode(ua.StatusCodes.BadNoMatch))
    client = _client(translate_browsepaths_to_nodeids=lambda _: [missing], call=call)
    assert await client.call(OBJECTS, Node("i=1"), "text", 2.5, [1, 2]) == []
    assert [argument.Value for argument in sent] == ["text", 2.5, [1, 2]]


def test_status_names_become_errors() -> None:
    assert isinstance(error_of("BadTimeout", "x"), LinkTimeout)
    assert isinstance(error_of("BadSecureChannelClosed", "x"), LinkDown)
    refused = error_of("BadInvalidState", "The server refuses")
    assert isinstance(refused, BadRequest)
    assert (refused.sent, str(refused)) == (True, "The server refuses: BadInvalidState.")
