"""What the controller does with all devices at once; one that is away delays the others by a bound."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from drivers.errors import DriverError
from edge.run.actor import Actor, Interrupted
from edge.run.alarms import Alarms
from edge.run.stopping import confirm

log = logging.getLogger(__name__)

PREPARE_S = 30.0
CONNECT_WAIT_S = 5.0
CONFIRM_WAIT_S = 1.0
"""How long an abort waits for a device that is away; its stop bytes have been sent long before."""


async def prepare_all(actors: Iterable[Actor], alarms: Alarms) -> None:
    """Make every device ready; an alarm for each that is not."""
    await asyncio.gather(*(_prepare(actor, alarms) for actor in actors))


async def _prepare(actor: Actor, alarms: Alarms) -> None:
    if actor.quiet:
        return
    why = ""
    try:
        async with asyncio.timeout(PREPARE_S):
            await actor.perform(actor.device.prepare, wait_s=CONNECT_WAIT_S)
    except (DriverError, TimeoutError) as error:
        why = str(error) or f"it did not answer within {PREPARE_S:g} s"
    except Exception as error:
        log.exception("the driver of %s failed while it prepared", actor.name)
        why = f"its driver failed: {error}"
    if why:
        alarms.raise_(f"prepare-{actor.name}", "high", actor.name, f"{actor.name} is not ready to run: {why}")
    else:
        alarms.clear(f"prepare-{actor.name}")


async def confirm_all(actors: Iterable[Actor], alarms: Alarms, *, halt: bool = False) -> None:
    """Wait until every device says that it stands still; an alarm for each that does not.

    `halt`: nobody has told the devices yet, and they may not be connected yet.
    """
    await asyncio.gather(*(_confirm(actor, alarms, halt) for actor in actors))


async def _confirm(actor: Actor, alarms: Alarms, halt: bool) -> None:
    async def still() -> str:
        if halt:
            actor.device.halt()
        return await confirm(actor.device)

    why = await _still(actor, still, CONNECT_WAIT_S if halt else CONFIRM_WAIT_S)
    if why:
        text = f"{actor.name} has not confirmed that it stands still: {why}"
        alarms.raise_(f"moving-{actor.name}", "critical", actor.name, text)


async def _still(actor: Actor, still: Callable[[], Awaitable[str]], wait_s: float) -> str:
    """Why the device may still move. A further stop interrupts the question, which is then asked again."""
    while True:
        try:
            return await actor.perform(still, wait_s)
        except Interrupted:
            continue
        except DriverError as error:
            return str(error)
        except Exception as error:
            log.exception("the driver of %s failed when it was asked whether it moves", actor.name)
            return f"its driver failed: {error}"
