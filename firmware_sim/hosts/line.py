"""Instruments on one line: every one hears every byte, and the one that is meant answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from firmware_sim.api import ByteSimulator, Receiver, Service, Simulator
from firmware_sim.clock import Clock
from firmware_sim.faults import Gate, Outgoing
from firmware_sim.log import Log


class Listener(Receiver, Protocol):
    """A receiver that can also cut the line's bytes into its messages (see `ByteSimulator.split`)."""

    def split(self, data: bytes) -> list[bytes]:
        """The messages now complete."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One instrument's place on a line. `connect` gives what listens on a new connection."""

    simulator: Simulator
    gate: Gate
    connect: Callable[[], Listener]
    log: Log

    def say(self, answer: bytes, now: float) -> list[Outgoing]:
        """What the line carries of an answer."""
        outgoing = self.gate.reply(answer, now)
        for wait_s, data in outgoing:
            late = {"delay_s": wait_s} if wait_s else {}
            self.log(self.simulator.name, "tx", "bytes", hex=data.hex(" "), text=_readable(data), **late)
        return outgoing

    def unasked(self, now: float) -> list[Outgoing]:
        """What the instrument says by itself now."""
        if not isinstance(self.simulator, ByteSimulator) or self.gate.silent(now):
            return []
        data = self.simulator.unasked()
        return self.say(data, now) if data else []


class Conversation(Protocol):
    """One connection to a line."""

    greeting: bytes

    @property
    def closed(self) -> bool:
        """Whether the instrument has hung up."""

    def hear(self, data: bytes) -> list[Outgoing]:
        """What to send, and when, in answer to these bytes."""


class LineTalk:
    """A connection to the instruments of a line."""

    greeting = b""

    def __init__(self, drops: Sequence[Drop], clock: Clock) -> None:
        self._ends = [(drop, drop.connect()) for drop in drops]
        self._clock = clock

    @property
    def closed(self) -> bool:
        return any(getattr(listener, "closed", False) for _, listener in self._ends)

    def hear(self, data: bytes) -> list[Outgoing]:
        self._clock.catch_up()
        now = self._clock.now()
        outgoing: list[Outgoing] = []
        for drop, listener in self._ends:
            for message in listener.split(data):
                outgoing += self._exchange(drop, listener, message, now)
        self._clock.rearm()
        return outgoing

    def _exchange(self, drop: Drop, listener: Listener, message: bytes, now: float) -> Iterable[Outgoing]:
        drop.log(drop.simulator.name, "rx", "bytes", hex=message.hex(" "), text=_readable(message))
        heard = drop.gate.request(message, now)
        answer = listener.receive(heard) if heard else b""
        return drop.say(answer, now) if answer else []


class ServiceTalk:
    """A connection to a further door of an instrument; only `hang` and `reboot` reach it."""

    def __init__(self, service: Service, simulator: Simulator, gate: Gate, clock: Clock, log: Log) -> None:
        self.greeting = service.greeting
        self._receiver = service.connect()
        self._name, self._gate, self._clock, self._log = simulator.name, gate, clock, log

    @property
    def closed(self) -> bool:
        return bool(getattr(self._receiver, "closed", False))

    def hear(self, data: bytes) -> list[Outgoing]:
        self._clock.catch_up()
        self._log(self._name, "rx", "service", hex=data.hex(" "), text=_readable(data))
        answer = b"" if self._gate.silent(self._clock.now()) else self._receiver.receive(data)
        if answer:
            self._log(self._name, "tx", "service", hex=answer.hex(" "), text=_readable(answer))
        self._clock.rearm()
        return [(0.0, answer)] if answer else []


def _readable(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")
