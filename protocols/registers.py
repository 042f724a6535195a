"""Values in 16-bit registers: word order, sign, blocks. Pure.

Modbus fixes the byte order inside a register (big-endian; Modbus Application Protocol V1.1b3, 4.2) and
nothing beyond it: how two registers make a 32-bit value is each maker's choice and stands in its manual.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from protocols.errors import BadFrame, BadRequest

Value = float | int | str
Kind = Literal["uint16", "int16", "uint32", "int32", "float32", "string"]
Table = Literal["holding", "input"]

READ_LIMIT = 125
"""Registers that one Modbus request may read (V1.1b3, 6.3)."""


class WordOrder(Enum):
    """Which register of a pair carries the high 16 bits."""

    LOW_FIRST = "low word first"
    HIGH_FIRST = "high word first"


def signed16(word: int) -> int:
    """A register 0 … 65535 as a two's complement number -32768 … 32767."""
    return word - 0x10000 if word & 0x8000 else word


def unsigned16(value: int) -> int:
    """A number -32768 … 65535 as it stands in a register. Raises `BadRequest` outside of that."""
    if not -0x8000 <= value <= 0xFFFF:
        raise BadRequest(f"{value} does not fit into a 16-bit register (-32768 … 65535).")
    return value & 0xFFFF


def decode_float32(words: Sequence[int], order: WordOrder) -> float:
    """Two registers as an IEEE 754 single; may be NaN or infinite."""
    return float(struct.unpack(">f", _pair_bytes(words, order))[0])


def encode_float32(value: float, order: WordOrder) -> list[int]:
    """A number as two registers. Raises `BadRequest` if it is too large for a single."""
    try:
        return _pair_words(struct.pack(">f", value), order)
    except OverflowError:
        raise BadRequest(f"{value} does not fit into a 32-bit floating point register pair.") from None


def decode_uint32(words: Sequence[int], order: WordOrder) -> int:
    """Two registers as 0 … 4294967295."""
    return int.from_bytes(_pair_bytes(words, order), "big")


def encode_uint32(value: int, order: WordOrder) -> list[int]:
    """0 … 4294967295 as two registers. Raises `BadRequest` outside of that."""
    if not 0 <= value < 1 << 32:
        raise BadRequest(f"{value} does not fit into 32 bits without sign.")
    return _pair_words(value.to_bytes(4, "big"), order)


def decode_int32(words: Sequence[int], order: WordOrder) -> int:
    """Two registers as -2147483648 … 2147483647."""
    return int.from_bytes(_pair_bytes(words, order), "big", signed=True)


def encode_int32(value: int, order: WordOrder) -> list[int]:
    """-2147483648 … 2147483647 as two registers. Raises `BadRequest` outside of that."""
    if not -(1 << 31) <= value < 1 << 31:
        raise BadRequest(f"{value} does not fit into 32 bits with sign.")
    return _pair_words(value.to_bytes(4, "big", signed=True), order)


def decode_string(words: Sequence[int]) -> str:
    """Registers as text: two characters each, high byte first, up to the first NUL, without blanks behind."""
    data = b"".join(word.to_bytes(2, "big") for word in words)
    return data.split(b"\0", 1)[0].decode("latin-1").rstrip()


def encode_string(text: str, count: int) -> list[int]:
    """Text as `count` registers, padded with NUL. Raises `BadRequest` if too long or not Latin-1."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        raise BadRequest(f"{text!r} has characters that a register cannot hold (Latin-1 only).") from None
    if len(data) > 2 * count:
        raise BadRequest(f"{text!r} is longer than the {2 * count} characters of its registers.")
    padded = data.ljust(2 * count, b"\0")
    return [int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)]


@dataclass(frozen=True, slots=True)
class Field:
    """A named value in the register map: where it stands on the wire and how it is read.

    `words` is the length of a string in registers; other kinds know theirs. A numeric value is multiplied
    by `scale` unless that is 1.
    """

    name: str
    address: int
    kind: Kind = "uint16"
    order: WordOrder = WordOrder.HIGH_FIRST
    scale: float = 1
    words: int = 1

    @property
    def count(self) -> int:
        """Registers that the value takes."""
        if self.kind == "string":
            return self.words
        return 1 if self.kind in ("uint16", "int16") else 2

    def decode(self, words: Sequence[int]) -> Value:
        """The value of the field from its own registers."""
        if self.kind == "string":
            return decode_string(words)
        value = self._number(words)
        return value if self.scale == 1 else value * self.scale

    def _number(self, words: Sequence[int]) -> float | int:
        if self.kind == "float32":
            return decode_float32(words, self.order)
        if self.kind == "uint32":
            return decode_uint32(words, self.order)
        if self.kind == "int32":
            return decode_int32(words, self.order)
        return signed16(words[0]) if self.kind == "int16" else words[0]


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring registers that are read in one request: `count` of them from `address` on the wire."""

    address: int
    count: int
    fields: tuple[Field, ...]
    table: Table = "holding"

    def __post_init__(self) -> None:
        if not 1 <= self.count <= READ_LIMIT:
            raise BadRequest(f"A block of {self.count} registers cannot be read at once (1 … {READ_LIMIT}).")
        end = self.address + self.count
        for field in self.fields:
            if field.address < self.address or field.address + field.count > end:
                raise BadRequest(
                    f"{field.name} at {field.address} lies outside the block {self.address} … {end - 1}."
                )

    def decode(self, words: Sequence[int]) -> dict[str, Value]:
        """Each field's value by name, from the block's registers. Raises `BadFrame` if some are missing."""
        if len(words) != self.count:
            raise BadFrame(f"{len(words)} registers came where {self.count} were asked for.")
        starts = ((field, field.address - self.address) for field in self.fields)
        return {field.name: field.decode(words[at : at + field.count]) for field, at in starts}


def blocks(
    fields: Iterable[Field], *, table: Table = "holding", gap: int = 8, limit: int = READ_LIMIT
) -> list[Block]:
    """The fewest reads that bring all fields: those at most `gap` registers apart go together.

    `limit` is what the device lets one request read (1 … 125 registers). Use `gap=0` where reading the
    registers between is an error.
    """
    groups: list[list[Field]] = []
    end = 0
    for field in sorted(fields, key=lambda field: field.address):
        beyond = field.address + field.count
        if groups and field.address - end <= gap and beyond - groups[-1][0].address <= limit:
            groups[-1].append(field)
            end = max(end, beyond)
        else:
            groups.append([field])
            end = beyond
    return [_block(group, table) for group in groups]


def _block(fields: list[Field], table: Table) -> Block:
    address = fields[0].address
    end = max(field.address + field.count for field in fields)
    return Block(address, end - address, tuple(fields), table)


def _pair_bytes(words: Sequence[int], order: WordOrder) -> bytes:
    if len(words) != 2:
        raise BadFrame(f"A 32-bit value needs two registers, not {len(words)}.")
    high, low = words if order is WordOrder.HIGH_FIRST else (words[1], words[0])
    return high.to_bytes(2, "big") + low.to_bytes(2, "big")


def _pair_words(data: bytes, order: WordOrder) -> list[int]:
    words = [int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big")]
    return words if order is WordOrder.HIGH_FIRST else words[::-1]
