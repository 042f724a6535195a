"""What can go wrong on a wire, and whose doing it was.

Library exceptions stop at this border: everything above sees only these four.
"""

from __future__ import annotations


class WireError(Exception):
    """Something went wrong on a link.

    `sent` tells whether any byte of the request may have left this machine. It decides between
    "not executed" and "unknown": False only where it is certain that nothing left.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class LinkDown(WireError):
    """The port, connection or session is gone or was refused."""


class LinkTimeout(WireError):
    """No complete answer by the deadline."""


class BadFrame(WireError):
    """The peer's bytes broke the protocol: checksum, length, address, structure."""


class BadRequest(WireError):
    """We asked for something that the protocol or the peer's interface does not have."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message, sent=sent)
