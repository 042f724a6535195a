"""What turns bytes into frames: pure, without a clock and without a port.

A decoder takes bytes in any pieces and gives back whole frames. It never raises on any input and
never keeps more than a bounded number of bytes, because what arrives on a wire is not ours to trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

FrameT = TypeVar("FrameT")
FrameT_co = TypeVar("FrameT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that began like a frame and broke the protocol; never taken for data.

    `why` is half a sentence that fits after "the answer was damaged: ".
    """

    raw: bytes
    why: str


class Decoder(Protocol[FrameT_co]):
    """Bytes in, frames out.

    A decoder that can be set up in several ways also has an attribute `kind`: two decoders of one type
    with equal `kind` read the same language, and may stand for each other on a shared port.
    """

    def feed(self, data: bytes) -> Sequence[FrameT_co | Malformed]:
        """Take bytes in any pieces; return the frames they complete, in order. Never raises."""
        ...

    def reset(self) -> None:
        """Forget a half-received frame."""
        ...


def same_language(one: Decoder[object], other: Decoder[object]) -> bool:
    """Whether two decoders read the same frames."""
    return type(one) is type(other) and getattr(one, "kind", None) == getattr(other, "kind", None)
