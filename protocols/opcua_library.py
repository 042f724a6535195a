"""asyncua's door: the library itself, and values in and out of its types.

The only importer of asyncua in `protocols`; it costs 28 MB and 200 ms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import asyncua.ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UaClientState
from asyncua.common.ua_utils import data_type_to_variant_type
from asyncua.ua.ua_binary import pack_uatype, pack_uatype_array, variant_to_binary

from protocols.errors import BadRequest
from protocols.opcua_model import Node, Sample, Structure, plain, utc

__all__ = [
    "Client",
    "NodeId",
    "UaClientState",
    "VariantType",
    "data_type_to_variant_type",
    "node_id",
    "packed",
    "plain_value",
    "sample",
    "ua",
    "variant",
]

# asyncua's published types contradict its own defaults and enumerations: taken as untyped.
ua: Any = asyncua.ua
NodeId = Any
VariantType = Any

# asyncua logs, with tracebacks, what is raised by the client as a sentence anyway.
logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)

_PLAIN: Mapping[type, Callable[[Any], Any]] = {
    ua.NodeId: lambda value: Node(value.to_string()),
    ua.LocalizedText: lambda value: value.Text,
    ua.QualifiedName: lambda value: value.Name,
    ua.Variant: lambda value: plain(value.Value, _PLAIN),
}


def node_id(node: Node) -> NodeId:
    """asyncua's node id; BadRequest if the text is none."""
    try:
        return ua.NodeId.from_string(node.id)
    except ua.UaError:
        raise BadRequest(f"'{node.id}' is not an OPC UA node id; write ns=2;i=1001 or ns=2;s=name.") from None


def sample(value: Any) -> Sample:
    """A DataValue of asyncua's."""
    status = value.StatusCode.name if value.StatusCode is not None else "Good"
    content = None if value.Value is None else value.Value.Value
    return Sample(plain_value(content), utc(value.SourceTimestamp), status)


def plain_value(value: Any) -> Any:
    """A value of asyncua's as `Sample` promises it."""
    return plain(value, _PLAIN)


def variant(value: Any, kind: VariantType, what: str) -> Any:
    """`value` in the built-in type `kind` (None or abstract: as Python has it), or BadRequest."""
    known = None if kind is ua.VariantType.Variant else kind
    try:
        if isinstance(value, list | tuple):
            variant = ua.Variant([_native(item, known) for item in value], known, is_array=True)
        else:
            variant = ua.Variant(_native(value, known), known)
        variant_to_binary(variant)
    except Exception:  # the encoder raises struct.error, TypeError, AttributeError, UaError …
        wanted = "any type" if known is None else known.name
        raise BadRequest(f"The {what} cannot be sent as {wanted}: {value!r}.") from None
    return variant


def _native(value: Any, kind: VariantType) -> Any:
    if isinstance(value, Structure):
        return ua.ExtensionObject(ua.NodeId.from_string(value.encoding_id), value.body)
    if isinstance(value, Node):
        return node_id(value)
    if kind is ua.VariantType.LocalizedText and isinstance(value, str):
        return ua.LocalizedText(value)
    return value


def packed(value: Any, kind: VariantType, array: bool, what: str) -> bytes:
    """The binary encoding (Part 6, 5.2) of one field; None is the type's empty value."""
    try:
        if array:
            return pack_uatype_array(kind, None if value is None else [_native(item, kind) for item in value])
        empty = ua.get_default_value(kind) if value is None else value
        return pack_uatype(kind, _native(empty, kind))
    except Exception:  # as in `variant`
        raise BadRequest(f"The {what} cannot be sent as {kind.name}: {value!r}.") from None
