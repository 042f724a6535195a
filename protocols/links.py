"""The ports of a daemon: one object for each, however many devices share it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from protocols.codec import Decoder, FrameT, same_language
from protocols.errors import BadRequest
from protocols.exchange import Exchange
from protocols.manners import Manners
from protocols.modbus import Modbus
from protocols.serial_port import SerialPort, SerialSettings
from protocols.stream import Stream
from protocols.tcp import TcpStream

_TCP_SCHEMES = ("tcp", "socket")


def open_stream(url: str, settings: SerialSettings | None = None) -> Stream:
    """The stream that a port's scheme picks; it is not opened yet.

    A path (device, by-id link, PTY) or `hwgrep://REGEXP` is a serial port with `settings` (default 9600 8N1);
    `socket://host:port` and `tcp://host:port` are TCP. Raises `BadRequest` for anything else.
    """
    scheme = _scheme(url)
    if scheme in _TCP_SCHEMES:
        return TcpStream(*_endpoint(url))
    if scheme in ("", "hwgrep"):
        return SerialPort(url, settings or SerialSettings())
    if scheme == "rfc2217":
        raise BadRequest(
            f"{url}: RFC 2217 ports are not supported, because they need a thread for each port. "
            "Set the line on the device server and use socket://host:port."
        )
    raise BadRequest(
        f"{url}: {scheme}:// is not a port that bytes go through. Give a device path such as "
        "/dev/serial/by-id/…, socket://host:port, tcp://host:port or hwgrep://REGEXP."
    )


def same_port(one: str, other: str) -> bool:
    """Whether two `port` values mean the same port: symlinks resolved, host names without regard to case.

    An `hwgrep://` is the same as an equal one only; if it finds a port that is in use, the lock tells.
    """
    return _key(one) == _key(other)


@dataclass(frozen=True)
class _Entry:
    user: str
    port: str
    settings: SerialSettings | None
    link: Exchange[Any] | Modbus


class Links:
    """The pool of ports: who asks for the same port gets the same object, and only `close` here closes it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._closed = False

    def exchange(
        self,
        port: str,
        settings: SerialSettings | None,
        decoder_factory: Callable[[], Decoder[FrameT]],
        *,
        quiet_s: float = 0.05,
        late_s: float = 0.2,
        user: str = "",
    ) -> Exchange[FrameT]:
        """The exchange on `port`, not opened before the first request.

        `quiet_s`, `late_s`: see `Manners`; the first to ask sets them. `user` is the device's name in errors.
        Raises `BadRequest` if the port is in use with other settings or another protocol.
        """
        decoder = decoder_factory()
        entry = self._known(port, settings, user)
        if entry is not None:
            if isinstance(entry.link, Modbus) or not same_language(entry.link.decoder, decoder):
                raise _conflict(entry, port, user, "speak different protocols")
            return cast("Exchange[FrameT]", entry.link)
        manners = Manners(quiet_s=quiet_s, late_s=late_s, character_s=_character_s(port, settings))
        made = Exchange(open_stream(port, settings), decoder, manners)
        self._entries[_key(port)] = _Entry(user, port, settings, made)
        return made

    def modbus(self, port: str, settings: SerialSettings | None = None, *, user: str = "") -> Modbus:
        """The Modbus master on `port`: `tcp://` is Modbus TCP, everything else RTU. Errors as `exchange`."""
        entry = self._known(port, settings, user)
        if entry is not None:
            if not isinstance(entry.link, Modbus) or entry.link.is_tcp != (_scheme(port) == "tcp"):
                raise _conflict(entry, port, user, "speak different protocols")
            return entry.link
        made = Modbus(
            open_stream(port, settings),
            tcp=_scheme(port) == "tcp",
            character_s=_character_s(port, settings),
        )
        self._entries[_key(port)] = _Entry(user, port, settings, made)
        return made

    async def close(self) -> None:
        """Close every port for good."""
        self._closed = True
        await asyncio.gather(*(entry.link.close() for entry in self._entries.values()))

    def _known(self, port: str, settings: SerialSettings | None, user: str) -> _Entry | None:
        if self._closed:
            raise BadRequest(f"{port}: the ports of this cell have been closed.")
        entry = self._entries.get(_key(port))
        if entry is not None and _scheme(port) not in _TCP_SCHEMES and entry.settings != settings:
            mine, theirs = settings or SerialSettings(), entry.settings or SerialSettings()
            if mine != theirs:
                raise _conflict(entry, port, user, f"need different line settings ({theirs}; {mine})")
        return entry


def _conflict(entry: _Entry, port: str, user: str, what: str) -> BadRequest:
    first, second = entry.user or "one device", user or "another"
    return BadRequest(
        f"{port}: {first} and {second} share this port and {what}. Give one of them its own port."
    )


def _character_s(port: str, settings: SerialSettings | None) -> float:
    if _scheme(port) in _TCP_SCHEMES:
        return 0.0
    return (settings or SerialSettings()).character_s


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""


def _endpoint(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise BadRequest(f"{url}: give host and port number, such as {_scheme(url)}://10.0.0.7:4001.")
    return host, port


def _key(url: str) -> str:
    scheme = _scheme(url)
    if scheme in _TCP_SCHEMES:
        host, port = _endpoint(url)
        return f"tcp://{host}:{port}"
    return os.path.realpath(url) if scheme == "" else url
