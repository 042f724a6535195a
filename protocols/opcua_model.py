"""What an OPC UA client hands out and takes: values without the library, which takes 200 ms to import.

Source: OPC UA 1.05, Part 4 (services, 7.39 status codes) and Part 3 (node classes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from protocols.errors import BadRequest, LinkDown, LinkTimeout, WireError

UA = "http://opcfoundation.org/UA/"
"""URI of the base namespace."""

Name = tuple[str, str]
"""A browse name: (namespace URI, name)."""


@dataclass(frozen=True)
class Node:
    """One node of a server, as text (`ns=4;i=1001`); good for the connection it came from.

    Namespace indices may change when the server restarts: browse again after `open`.
    """

    id: str


OBJECTS = Node("i=85")
"""Where a server's objects begin."""


@dataclass(frozen=True)
class Child:
    """A node found below another one."""

    node: Node
    browse_name: Name
    type_definition: tuple[str, int | str] | None
    """(namespace URI, identifier) of its type; None for methods and types."""
    node_class: str
    """`Object`, `Variable`, `Method` …"""


@dataclass(frozen=True)
class Sample:
    """A variable's value with the time the device gave it (UTC, None if it gave none).

    `value` is built of numbers, strings, booleans, bytes, aware datetimes, `Node`s, and lists and dicts of
    them; localized texts are their text, standard structures are dicts by field name, enumerations numbers.
    `status` is the name of its status code: `Good`, `BadNodeIdUnknown` …
    """

    value: Any
    source_time: datetime | None
    status: str

    @property
    def good(self) -> bool:
        """Neither bad nor uncertain."""
        return self.status.startswith("Good")


@dataclass(frozen=True)
class Structure:
    """A value of a structured data type, ready to be sent to the server it was made for."""

    encoding_id: str
    body: bytes


_SESSION_GONE = frozenset(
    {
        "BadConnectionClosed",
        "BadSecureChannelClosed",
        "BadSecureChannelIdInvalid",
        "BadServerHalted",
        "BadServerNotConnected",
        "BadSessionClosed",
        "BadSessionIdInvalid",
        "BadSessionNotActivated",
        "BadShutdown",
    }
)
_TOO_LATE = frozenset({"BadTimeout", "BadRequestTimeout"})


def error_of(status: str, sentence: str) -> WireError:
    """The error for a bad status that a server answered to a request; `sentence` says what was asked."""
    text = f"{sentence}: {status}."
    if status in _SESSION_GONE:
        return LinkDown(text)
    if status in _TOO_LATE:
        return LinkTimeout(text)
    return BadRequest(text, sent=True)


def check_url(url: str) -> str:
    """`url` itself if it is `opc.tcp://HOST:PORT[/PATH]`; raises BadRequest otherwise."""
    example = "write opc.tcp://HOST:PORT"
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise BadRequest("An OPC UA URL with user name and password is not supported; remove them.")
    if parts.scheme != "opc.tcp" or not parts.hostname:
        raise BadRequest(f"'{url}' is not an OPC UA address: {example}.")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not port:
        raise BadRequest(f"'{url}' lacks a port from 1 to 65535: {example}.")
    return url


def utc(time: datetime | None) -> datetime | None:
    """An aware time; those without a zone are UTC."""
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def plain(value: Any, rules: Mapping[type, Callable[[Any], Any]]) -> Any:
    """A library's value as `Sample` promises it; `rules` say how its own types are converted."""
    for kind, convert in rules.items():
        if isinstance(value, kind):
            return convert(value)
    if isinstance(value, list | tuple):
        return [plain(item, rules) for item in value]
    if isinstance(value, datetime):
        return utc(value)
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), rules) for field in dataclasses.fields(value)}
    return value
