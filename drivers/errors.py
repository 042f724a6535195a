"""How an operation ends when it does not end well, and whose doing it was.

The three classes decide between the outcomes of an attempt: not executed, failed, unknown.
"""

from __future__ import annotations


class DriverError(Exception):
    """Base of the three; its text is a sentence a technician can act on."""


class Refused(DriverError):
    """We asked wrongly, or the device declined before doing anything: not executed, safe to retry."""


class Fault(DriverError):
    """The device says that it tried and failed."""


class Lost(DriverError):
    """No trustworthy answer.

    `sent` is False only where it is certain that the command never left: not executed. Otherwise the
    outcome is unknown and has to be settled before the device gets another command.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent
