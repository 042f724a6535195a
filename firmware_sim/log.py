"""The bench's log: one JSON object a line, the judge of what really happened."""

from __future__ import annotations

import json
import time
from typing import Any, Protocol, TextIO


class Log(Protocol):
    """Writes one line of the bench's log: `kind` is action, fault, rx or tx."""

    def __call__(self, instrument: str, kind: str, what: str, **details: Any) -> None: ...


class BenchLog:
    """Writes each line at once; `t` is epoch seconds, never running backwards."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.time() - time.monotonic()

    def __call__(self, instrument: str, kind: str, what: str, **details: Any) -> None:
        line = {
            "t": round(self._start + time.monotonic(), 6),
            "instrument": instrument,
            "kind": kind,
            "what": what,
        }
        self._stream.write(json.dumps(line | details, ensure_ascii=False) + "\n")
        self._stream.flush()


def nowhere(instrument: str, kind: str, what: str, **details: Any) -> None:
    """The log of a bench that keeps none."""
