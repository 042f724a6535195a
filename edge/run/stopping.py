"""Stop everything, now.

Short on purpose: it waits for no lock, queue, journal or state machine, and one device's failure does not
delay the others. Who called, why and what became of it is recorded afterwards, by somebody else.

This is a software stop. People are protected by a hardware emergency stop (ISO 13850).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from drivers.api import Device
from drivers.errors import DriverError

log = logging.getLogger(__name__)

CONFIRM_S = 10.0
"""How long a device may take to say that nothing moves any more."""
ASK_EVERY_S = 0.1


def stop_everything(devices: Iterable[Device]) -> list[str]:
    """Tell every device to stop; returns the names of those whose stop could not even be sent."""
    failed = []
    for device in devices:
        try:
            device.halt()
        except Exception:
            failed.append(device.name)
    return failed


async def confirm(device: Device, within_s: float = CONFIRM_S) -> str:
    """Wait until the device itself says that it stands still; an empty text, or why that is not known."""
    why = "it did not answer"
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if await device.halted():
                        return ""
                    why = "it still moves"
                except DriverError as error:
                    why = str(error)
                await asyncio.sleep(ASK_EVERY_S)
    except TimeoutError:
        return why
