"""A run as Bluesky documents (event model 1.x): start, descriptors, events, stop.

One Bluesky run a plan. Each recorded step id is a stream with the data keys `<device>_<field>`; the stream
`phases` holds every execution's start, end and outcome. Every event names its `execution` in its data.
Pure: documents come out in order, with `seq` counting from 0; a resumed run goes on where its kept
documents end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from drivers.api import unit_of
from edge.link.messages import Document

Name = Literal["start", "descriptor", "event", "stop"]

PHASES = "phases"
_PHASE_KEYS: dict[str, dict[str, Any]] = {
    "execution": {"dtype": "string", "shape": [], "source": "labedge:execution"},
    "device": {"dtype": "string", "shape": [], "source": "labedge:device"},
    "operation": {"dtype": "string", "shape": [], "source": "labedge:operation"},
    "started_at": {"dtype": "number", "shape": [], "source": "labedge:clock", "units": "s"},
    "ended_at": {"dtype": "number", "shape": [], "source": "labedge:clock", "units": "s"},
    "outcome": {"dtype": "string", "shape": [], "source": "labedge:outcome"},
    "attempts": {"dtype": "integer", "shape": [], "source": "labedge:attempts"},
    "reason": {"dtype": "string", "shape": [], "source": "labedge:outcome"},
}


class Phase(msgspec.Struct, frozen=True):
    """One execution of a step, from its first attempt to its end. Times are epoch seconds."""

    execution: str
    device: str
    operation: str
    started_at: float
    ended_at: float
    outcome: str
    attempts: int
    reason: str


class RunDocuments:
    """Writes the documents of one run."""

    def __init__(self, run_uid: str, kept: Iterable[Document] = ()) -> None:
        self.run_uid = run_uid
        self._seq = 0
        self._streams: dict[str, tuple[str, int]] = {}
        self.stopped = False
        for document in kept:
            self._seq = document.seq + 1
            self._remember(document)

    @property
    def started(self) -> bool:
        """Whether the start document is written."""
        return self._seq > 0

    def start(self, plan: Mapping[str, Any], time_s: float) -> list[Document]:
        """The start document; `plan` gives plan_id, plan_name, cell and metadata."""
        return [self._next("start", {"uid": self.run_uid, "time": time_s, **plan})]

    def reading(
        self, stream: str, device: str, execution: str, values: Mapping[str, Any], time_s: float
    ) -> list[Document]:
        """A recorded step's readings, taken at `time_s` (epoch seconds)."""
        data = {f"{device}_{field}": value for field, value in values.items()}
        keys = {key: data_key(device, key.removeprefix(f"{device}_"), value) for key, value in data.items()}
        keys["execution"] = _PHASE_KEYS["execution"]
        return self._event(stream, keys, data | {"execution": execution}, time_s, {device: list(data)})

    def phase(self, phase: Phase) -> list[Document]:
        """The end of an execution."""
        return self._event(PHASES, _PHASE_KEYS, msgspec.structs.asdict(phase), phase.ended_at, {})

    def stop(self, state: str, reason: str, time_s: float) -> list[Document]:
        """The stop document; `state` is the run's final state."""
        status = {"Complete": "success", "Stopped": "fail", "Aborted": "abort"}[state]
        counts = {stream: count for stream, (_, count) in self._streams.items()}
        doc = {
            "uid": self._uid("stop"),
            "run_start": self.run_uid,
            "time": time_s,
            "exit_status": status,
            "reason": reason,
            "num_events": counts,
        }
        return [self._next("stop", doc)]

    def _event(
        self,
        stream: str,
        keys: Mapping[str, Any],
        data: Mapping[str, Any],
        time_s: float,
        objects: Mapping[str, list[str]],
    ) -> list[Document]:
        documents = []
        if stream not in self._streams:
            doc = {
                "uid": self._uid(f"descriptor:{stream}"),
                "run_start": self.run_uid,
                "time": time_s,
                "name": stream,
                "data_keys": dict(keys),
                "object_keys": dict(objects),
            }
            documents.append(self._next("descriptor", doc))
        uid, count = self._streams[stream]
        doc = {
            "uid": self._uid(f"event:{stream}:{count + 1}"),
            "descriptor": uid,
            "time": time_s,
            "seq_num": count + 1,
            "data": dict(data),
            "timestamps": dict.fromkeys(data, time_s),
        }
        documents.append(self._next("event", doc))
        return documents

    def _next(self, name: Name, doc: dict[str, Any]) -> Document:
        document = Document(self._seq, name, doc)
        self._seq += 1
        self._remember(document)
        return document

    def _remember(self, document: Document) -> None:
        doc = document.doc
        if document.name == "descriptor":
            self._streams[doc["name"]] = (doc["uid"], 0)
        elif document.name == "event":
            for stream, (uid, count) in self._streams.items():
                if uid == doc["descriptor"]:
                    self._streams[stream] = (uid, max(count, doc["seq_num"]))
        elif document.name == "stop":
            self.stopped = True

    def _uid(self, what: str) -> str:
        """The same for the same thing of the same run, so that a document sent twice is recognised."""
        return hashlib.blake2b(f"{self.run_uid}/{what}".encode(), digest_size=16).hexdigest()


def data_key(device: str, field: str, value: Any) -> dict[str, Any]:
    """Event-model description of one field; its unit stands in its name."""
    if isinstance(value, bool):
        kind: dict[str, Any] = {"dtype": "boolean", "shape": []}
    elif isinstance(value, str):
        kind = {"dtype": "string", "shape": []}
    elif isinstance(value, (list, tuple)):
        kind = {"dtype": "array", "shape": [len(value)]}
    else:
        kind = {"dtype": "integer" if isinstance(value, int) else "number", "shape": []}
    unit = unit_of(field)
    return kind | {"source": f"device:{device}", "object_name": device} | ({"units": unit} if unit else {})
