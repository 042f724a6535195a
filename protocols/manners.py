"""How a line wants to be treated: what an exchange has to know about a protocol beyond its frames."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Replies(Enum):
    """What a reply tells about the request it answers; decides what a late one can spoil."""

    ANONYMOUS = "nothing: whatever comes next on the line is taken for the answer"
    ADDRESSED = "its unit: a late reply can only be mistaken for an answer of the same unit"
    TAGGED = "its request, by a transaction number: a late reply cannot be mistaken"


@dataclass(frozen=True, slots=True)
class Manners:
    """How a line wants to be treated; times in seconds."""

    quiet_s: float = 0.05
    """Silence after which a dirty line counts as clean."""
    late_s: float = 0.0
    """How long after a timeout the answer may still come."""
    replies: Replies = Replies.ANONYMOUS
    gap_s: float = 0.0
    """Silence that the protocol asks for before each request."""
    character_s: float = 0.0
    """Duration of one character on the line (0 where it doesn't matter)."""
    turn_timeout_s: float = 30.0
    """How long a request waits for its unit's turn."""
