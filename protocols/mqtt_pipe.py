"""The byte side of an MQTT connection: connecting, and a socket's face for code that knows no asyncio."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from errno import ECONNREFUSED

from protocols.errors import LinkDown
from protocols.mqtt_model import MqttSettings

PACKET_LIMIT = 16 * 1024 * 1024
"""Largest packet taken from the broker at all, in bytes; an MQTT 5 broker is told and drops larger ones."""


async def connect(
    factory: Callable[[], asyncio.Protocol], settings: MqttSettings, context: ssl.SSLContext | None
) -> None:
    """Connect to the broker, with TLS if there is a context; the caller sets the deadline.

    Raises LinkDown (sent=False) with a clause that follows "broker ADDRESS: ".
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.create_connection(factory, settings.host, settings.port, ssl=context)
    except ssl.SSLCertVerificationError as error:
        raise LinkDown(f"its certificate is not trusted: {error.verify_message}", sent=False) from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise LinkDown(f"the TLS handshake failed ({reason})", sent=False) from error
    except socket.gaierror as error:
        raise LinkDown(f"the host name '{settings.host}' cannot be resolved", sent=False) from error
    except ConnectionResetError as error:
        broken_off = "it broke off the TLS handshake; does this port speak TLS?"
        reason = broken_off if context else "it reset the connection"
        raise LinkDown(reason, sent=False) from error
    except OSError as error:
        refused = error.errno == ECONNREFUSED or f"[Errno {ECONNREFUSED}]" in str(error)
        reason = "nothing listens there (connection refused)" if refused else error.strerror or str(error)
        raise LinkDown(reason, sent=False) from error


def tune(sock: socket.socket, keepalive_s: int) -> None:
    """Send small packets at once; notice a cut cable within the keep-alive, not after TCP's 15 minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, keepalive_s * 1000)


class Pipe:
    """Looks like a non-blocking socket to packet code; bytes come from and go to an asyncio transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.blocked = False
        self.oversize = 0
        self._received = bytearray()
        self._read = 0

    @property
    def unread(self) -> int:
        """Bytes received and not read yet."""
        return len(self._received) - self._read

    @property
    def unsent(self) -> int:
        """Bytes written that the network has not taken."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def feed(self, data: bytes) -> None:
        if self._read > 65536:  # in a flood the buffer may never run empty
            del self._received[: self._read]
            self._read = 0
        self._received += data

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; BlockingIOError when there are none.

        The packet code asks for all that is left of a packet, so a `size` above `PACKET_LIMIT` is the first
        word of a packet that will not be taken: OSError, before any memory is spent on it.
        """
        if size > PACKET_LIMIT:
            self.oversize = size
            raise OSError("packet too large")
        if self._read == len(self._received):
            raise BlockingIOError
        chunk = bytes(self._received[self._read : self._read + size])
        self._read += len(chunk)
        if self._read == len(self._received):
            self._received.clear()
            self._read = 0
        return chunk

    def send(self, data: bytes | bytearray) -> int:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionError("closed")
        if self.blocked:
            raise BlockingIOError
        self.transport.write(data)
        return len(data)

    def close(self) -> None:
        """Leaves the transport alone: who owns it decides when it ends."""

    def fileno(self) -> int:
        """None of ours: the transport owns it."""
        return -1

    def setblocking(self, flag: bool) -> None:
        """A transport never blocks."""
