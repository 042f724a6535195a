"""Faults: what can go wrong on the wire and in an instrument, scripted or injected while the bench runs.

A gate stands between the line and each instrument and is the only thing that knows of faults; an instrument
takes part only in its own (`reboot`, `stuck`, `drift`, `error`). Every injection is logged with the bytes it
changed. Time is an argument (real seconds on any clock).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from firmware_sim.log import Log
from firmware_sim.suggest import nearest

Side = Literal["request", "reply"]

_REPEATED = {"after", "count", "for_s", "probability"}
KEYS: dict[str, set[str]] = {
    "drop-reply": _REPEATED,
    "drop-request": _REPEATED,
    "delay": _REPEATED | {"delay_s"},
    "garble": _REPEATED | {"side"},
    "truncate": _REPEATED | {"side", "keep"},
    "duplicate-reply": _REPEATED,
    "noise": _REPEATED | {"length"},
    "hang": {"after", "for_s"},
    "disconnect": {"after", "for_s"},
    "reboot": {"after", "for_s"},
    "stuck": {"after", "count", "for_s"},
    "drift": {"after", "for_s", "per_s"},
    "error": {"after", "code"},
}
"""The keys each kind of fault takes beside `instrument` and `kind`."""

WIRE = frozenset({"drop-reply", "drop-request", "delay", "garble", "truncate", "duplicate-reply", "noise"})
BOOT_S, UNPLUGGED_S = 0.5, 1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one instrument.

    It begins after `after` messages. A wire fault then hits `count` messages (default one), or every message
    for `for_s` seconds, or each with `probability`. `hang` without `for_s` lasts until a reboot; `reboot`
    and `disconnect` last `for_s` (0.5 and 1 s); `stuck` holds `count` movements (default one), or all for
    `for_s`. `side` is what `garble` and `truncate` spoil.
    """

    instrument: str
    kind: str
    after: int = 0
    count: int | None = None
    for_s: float | None = None
    probability: float | None = None
    side: Side = "reply"
    delay_s: float = 1.0
    keep: int | None = None
    length: int = 8
    per_s: float = 0.01
    code: int = 1

    @property
    def hits(self) -> float:
        """How many messages it hits at most."""
        if self.count is not None:
            return self.count
        return float("inf") if self.for_s is not None or self.probability is not None else 1


_WHOLE = {"after": 0, "count": 1, "keep": 0, "length": 1, "code": 0}
_NUMBER = {"for_s": 0.0, "delay_s": 0.0, "per_s": float("-inf")}


def parse_fault(entry: Mapping[str, Any]) -> tuple[Fault | None, list[str]]:
    """A fault from a bench file's entry or a command; and every mistake in it, as sentences."""
    kind = entry.get("kind")
    if kind not in KEYS:
        hint = nearest(str(kind), KEYS)
        return None, [f"kind {kind!r} is not a fault{hint}; there are {', '.join(KEYS)}."]
    allowed = KEYS[str(kind)] | {"instrument", "kind"}
    mistakes = [
        f"{key} is not a key of a {kind} fault{nearest(str(key), allowed)}."
        for key in entry
        if key not in allowed
    ]
    mistakes += [text for key in entry if key in allowed and (text := _wrong_value(key, entry[key]))]
    if mistakes:
        return None, mistakes
    return Fault(**entry), []


def _wrong_value(key: str, value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _WHOLE and not (isinstance(value, int) and is_number and value >= _WHOLE[key]):
        return f"{key} is {value!r} and must be a whole number from {_WHOLE[key]}."
    if key in _NUMBER and not (is_number and value >= _NUMBER[key]):
        return f"{key} is {value!r} and must be a number{'' if key == 'per_s' else ', not negative'}."
    if key == "probability" and not (is_number and 0 < value <= 1):
        return f"probability is {value!r} and must be above 0 and at most 1."
    if key == "side" and value not in ("request", "reply"):
        return f"side is {value!r} and must be request or reply."
    return None


@dataclass(slots=True)
class _Active:
    fault: Fault
    seen: int = 0
    hits: int = 0
    until: float | None = None
    over: bool = False


Outgoing = tuple[float, bytes]
"""Seconds to wait, and bytes to send."""

Actuator = Callable[[Fault], None]
"""Carries out what the gate cannot: `reboot`, `stuck`, `drift`, `error`, `disconnect`."""


class Gate:
    """Between one instrument and its line."""

    def __init__(self, instrument: str, rng: random.Random, log: Log, actuate: Actuator) -> None:
        self._instrument = instrument
        self._rng = rng
        self._log = log
        self._actuate = actuate
        self._active: list[_Active] = []
        self._silent_until: float | None = None

    def add(self, fault: Fault, now: float) -> None:
        """Put a fault in force; one of the instrument's own with nothing to wait for happens at once."""
        if fault.kind in WIRE or fault.after:
            self._active.append(_Active(fault))
        else:
            self._happen(fault, now)

    def silent(self, now: float) -> bool:
        """Whether the instrument hears and says nothing now (hung, or booting)."""
        if self._silent_until is not None and now >= self._silent_until:
            self._silent_until = None
        return self._silent_until is not None

    def wakes(self) -> float | None:
        """When the instrument can be heard again, if that is known."""
        return self._silent_until if self._silent_until != float("inf") else None

    def request(self, message: bytes, now: float) -> bytes | None:
        """What reaches the instrument of a message; None: nothing."""
        for active in list(self._active):
            if active.fault.kind not in WIRE:
                active.seen += 1
                if active.seen > active.fault.after:
                    self._active.remove(active)
                    self._happen(active.fault, now)
        if self.silent(now):
            return None
        for active in self._hit("request", now):
            if active.fault.kind == "drop-request":
                self._note(active, message, b"")
                return None
            changed = self._spoil(active.fault, message)
            self._note(active, message, changed)
            message = changed
        return message

    def reply(self, message: bytes, now: float) -> list[Outgoing]:
        """What reaches the line of an answer, and when."""
        if self.silent(now):
            return []
        wait_s, copies, before = 0.0, 1, b""
        for active in self._hit("reply", now):
            fault, original = active.fault, message
            if fault.kind == "drop-reply":
                self._note(active, message, b"")
                return []
            if fault.kind == "delay":
                wait_s += fault.delay_s
            elif fault.kind == "duplicate-reply":
                copies += 1
            elif fault.kind == "noise":
                before += self._noise(fault)
            else:
                message = self._spoil(fault, message)
            self._note(active, original, before + message * copies, delay_s=wait_s)
        return [(wait_s, before + message)] + [(wait_s, message)] * (copies - 1)

    def burst(self, fault: Fault) -> list[Outgoing]:
        """Noise at once, for a fault injected while the bench runs."""
        bursts = [self._noise(fault) for _ in range(fault.count or 1)]
        for data in bursts:
            self._log(self._instrument, "fault", "noise", before="", after=data.hex(" "))
        return [(0.0, data) for data in bursts]

    def _hit(self, side: Side, now: float) -> list[_Active]:
        hit = [active for active in self._active if _side(active.fault) == side and self._counts(active, now)]
        self._active = [active for active in self._active if not active.over]
        return hit

    def _counts(self, active: _Active, now: float) -> bool:
        fault = active.fault
        active.seen += 1
        if active.seen <= fault.after:
            return False
        if fault.for_s is not None:
            active.until = now + fault.for_s if active.until is None else active.until
            if now >= active.until:
                active.over = True
                return False
        if fault.probability is not None and self._rng.random() >= fault.probability:
            return False
        active.hits += 1
        active.over = active.hits >= fault.hits
        return True

    def _happen(self, fault: Fault, now: float) -> None:
        self._log(self._instrument, "fault", fault.kind, before="", after="", **_details(fault))
        if fault.kind == "hang":
            self._silent_until = float("inf") if fault.for_s is None else now + fault.for_s
            return
        if fault.kind == "reboot":
            self._silent_until = now + (BOOT_S if fault.for_s is None else fault.for_s)
        self._actuate(fault)

    def _spoil(self, fault: Fault, message: bytes) -> bytes:
        if fault.kind == "truncate":
            keep = len(message) // 2 if fault.keep is None else fault.keep
            return message[: min(keep, max(len(message) - 1, 0))]
        at = self._rng.randrange(len(message))
        # The top bit goes over too, so that a protocol without checksums has a chance to notice.
        mask = 0x80 | self._rng.randrange(0x80)
        return message[:at] + bytes([message[at] ^ mask]) + message[at + 1 :]

    def _noise(self, fault: Fault) -> bytes:
        return self._rng.randbytes(fault.length)

    def _note(self, active: _Active, before: bytes, after: bytes, **details: Any) -> None:
        kind = active.fault.kind
        self._log(self._instrument, "fault", kind, before=before.hex(" "), after=after.hex(" "), **details)


def _side(fault: Fault) -> Side | None:
    if fault.kind not in WIRE:
        return None
    return "request" if fault.kind == "drop-request" else fault.side


def _details(fault: Fault) -> dict[str, Any]:
    """What of a fault of the instrument itself is worth a place in the log."""
    wanted = KEYS[fault.kind] - {"after"}
    return {key: value for key in sorted(wanted) if (value := getattr(fault, key)) is not None}
