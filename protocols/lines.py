"""Text protocols: frames that end with a terminator."""

from __future__ import annotations

from protocols.codec import Malformed


class LineDecoder:
    """Cuts bytes into lines.

    A frame is the line without its terminator, as bytes; an empty line is a frame too. A line longer than
    `max_length` bytes (terminator not counted) is reported once as `Malformed` and skipped to its end.
    """

    def __init__(self, terminator: bytes = b"\r\n", max_length: int = 4096) -> None:
        if not terminator or max_length < 1:
            raise ValueError("a line needs a terminator of at least one byte and a length of at least one")
        self.kind = (terminator, max_length)
        self._terminator = terminator
        self._max_length = max_length
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | Malformed]:
        """Take bytes in any pieces; return the lines they complete."""
        self._buffer += data
        lines: list[bytes | Malformed] = []
        while (end := self._buffer.find(self._terminator, self._searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + len(self._terminator)]
            self._searched = 0
            if self._skipping:
                self._skipping = False
            elif len(line) > self._max_length:
                lines.append(self._too_long(line))
            else:
                lines.append(line)
        self._bound(lines)
        return lines

    def reset(self) -> None:
        """Forget a half-received line."""
        self._buffer.clear()
        self._searched = 0
        self._skipping = False

    def _bound(self, lines: list[bytes | Malformed]) -> None:
        keep = len(self._terminator) - 1
        if len(self._buffer) > self._max_length + keep:
            if not self._skipping:
                lines.append(self._too_long(bytes(self._buffer)))
            self._skipping = True
            # The last bytes may be the beginning of the terminator.
            del self._buffer[: len(self._buffer) - keep]
        self._searched = max(0, len(self._buffer) - keep)

    def _too_long(self, line: bytes) -> Malformed:
        return Malformed(line[:64], f"a line of more than {self._max_length} bytes without its end")
