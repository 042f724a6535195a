"""What an MQTT session is told and what it hands on; pure values, no I/O and no library.

Source of names and limits: MQTT Version 5.0 (OASIS, 7 March 2019) and MQTT 3.1.1 (29 October 2014).
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from protocols.errors import BadRequest

Qos = Literal[0, 1]

MAX_PAYLOAD = 1024 * 1024 + 64 * 1024
"""Bytes of payload handed on unless told otherwise: 1 MiB, and room for a signature's envelope."""


@dataclass(frozen=True, kw_only=True)
class MqttSettings:
    """How to reach one broker as one client.

    `client_id` names the persistent session (1..65535 bytes of UTF-8). `keepalive_s` is 1..65535 s,
    `session_expiry_s` 0..4294967295 s (MQTT 5, 3.1.2.11.2; 3.1.1 sessions have no expiry).
    `max_payload` bounds what is handed on, in bytes; larger messages are acknowledged and only reported.
    """

    client_id: str
    host: str
    port: int = 1883
    tls: bool = False
    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    protocol: Literal["5", "3.1.1"] = "5"
    keepalive_s: int = 20
    session_expiry_s: int = 7 * 24 * 3600
    max_payload: int = MAX_PAYLOAD

    def __post_init__(self) -> None:
        if not 1 <= len(self.client_id.encode()) <= 65535:
            raise BadRequest("A persistent MQTT session needs a client id of 1 to 65535 bytes.")
        if not 1 <= self.keepalive_s <= 65535:
            raise BadRequest(f"MQTT keep-alive must be 1 to 65535 s, not {self.keepalive_s}.")
        if self.password is not None and self.username is None:
            raise BadRequest("An MQTT password needs a user name beside it.")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise BadRequest("TLS files are given but the URL is not mqtts://; nothing would be encrypted.")

    @property
    def address(self) -> str:
        """`mqtt://host:port` or `mqtts://host:port`, without any secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_url(url: str) -> tuple[str, int, bool]:
    """Split `mqtt://host[:port]` (default 1883) or `mqtts://host[:port]` (8883) into (host, port, tls).

    Raises BadRequest with the mend for anything else; credentials do not belong in a URL.
    """
    example = "write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS"
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts"):
        raise BadRequest(f"'{_without_secret(url)}' is not a broker URL: {example}.")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("Put the user name and the password file beside the broker URL, not inside it.")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadRequest(f"'{url}' says more than host and port: {example}.")
    try:
        port = parts.port
    except ValueError:
        raise BadRequest(f"The port in '{url}' is not a number from 1 to 65535: {example}.") from None
    if not parts.hostname or port == 0:
        raise BadRequest(f"'{url}' lacks a host, or its port is 0: {example}.")
    tls = parts.scheme == "mqtts"
    return parts.hostname, port or (8883 if tls else 1883), tls


def _without_secret(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"…@{tail}" if at and head else url


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """Client TLS as the settings say, None without TLS.

    The broker's certificate and name are always checked, against `ca_file` or else the system's store.
    Raises BadRequest naming the file that cannot be used.
    """
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BadRequest(f"The CA file {settings.ca_file} cannot be used: {_why(error)}.") from error
    if settings.key_file and not settings.cert_file:
        raise BadRequest(f"The key file {settings.key_file} needs its certificate: give cert_file too.")
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            files = " with ".join(str(file) for file in (settings.cert_file, settings.key_file) if file)
            raise BadRequest(f"The client certificate {files} cannot be used: {_why(error)}.") from error
    return context


def _no_passphrase() -> str:
    # Without this OpenSSL asks on the terminal, and a daemon would stand there for ever.
    raise ValueError("the key is encrypted; store it without a passphrase, readable by the daemon only")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@dataclass(frozen=True)
class Will:
    """What the broker publishes for us when we vanish without saying goodbye."""

    topic: str
    payload: bytes
    qos: Qos = 1
    retain: bool = False


@dataclass(frozen=True)
class Message:
    """One received message.

    `ack()` sends the PUBACK of a QoS 1 message; until then the broker keeps it and delivers it again on the
    next connection. It may be called in any order, late, or twice: acknowledgements leave in the order of
    arrival (MQTT 5, 4.6), and one for a connection that is gone is dropped, since the message comes again.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    response_topic: str | None
    correlation_data: bytes | None
    ack: Callable[[], None]


def refusal(code: int, name: str, settings: MqttSettings) -> str:
    """A clause, after "broker ADDRESS: ", for a CONNACK's reason code (MQTT 5, 3.2.2.2) and its name."""
    if code == 0x84:
        other = "3.1.1" if settings.protocol == "5" else "5"
        return f"it does not speak MQTT {settings.protocol}; set protocol to {other}"
    if code in (0x86, 0x87):
        who = f"user '{settings.username}'" if settings.username is not None else "a client without user name"
        return f"it refuses {who} with the id '{settings.client_id}' ({name}); check user name and password"
    return f"it refuses the connection: {name}"


class Backoff:
    """How long to wait before the next connection: 0.2 s doubling to 10 s, with up to a quarter of jitter.

    Only a connection that held for `STEADY_S` makes the next wait short again. It is longer than any wait: a
    3.1.1 broker, and mosquitto 2.0.11 in MQTT 5 too, gives no reason when it throws us out for another client
    with our id, and two clients must not fight at full speed. When the broker does give that reason, waits
    run from 5 s to 60 s until a connection has held for `PEACE_S`.
    """

    FIRST_S, LAST_S, STEADY_S = 0.2, 10.0, 15.0
    RIVAL_FIRST_S, RIVAL_LAST_S, PEACE_S = 5.0, 60.0, 300.0

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._failures = 0
        self._rivalries = 0

    def after(self, *, lasted_s: float, taken_over: bool) -> float:
        """Seconds to wait after a connection that was up for `lasted_s` (0: never came up)."""
        if lasted_s >= self.STEADY_S:
            self._failures = 0
        if lasted_s >= self.PEACE_S:
            self._rivalries = 0
        if taken_over:
            wait = min(self.RIVAL_LAST_S, self.RIVAL_FIRST_S * 2.0 ** min(self._rivalries, 10))
            self._rivalries += 1
        else:
            wait = min(self.LAST_S, self.FIRST_S * 2.0 ** min(self._failures, 10))
            self._failures += 1
        return wait * (1.0 + self._chance() / 4)
