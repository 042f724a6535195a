"""Plain data -> msgspec structs, with every mistake instead of the first, in a technician's words.

msgspec stops at its first error; so structs, mappings and lists are walked here, and msgspec has the leaves.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from edge.yamlfile import BROKEN, Document, child

Unbuilt = Mapping[type, tuple[str, ...]]
"""Struct -> keys that the interface names and this version does not have."""


class Converter:
    """Converts parts of one document and notes what is wrong in it."""

    def __init__(self, document: Document, unbuilt: Unbuilt | None = None) -> None:
        self.document = document
        self.unbuilt = unbuilt or {}

    def value(self, data: Any, kind: Any, path: str) -> Any:
        """`data` as `kind`, or BROKEN if it cannot be. Broken entries of mappings and lists are left out."""
        if data is BROKEN:
            return BROKEN
        kind = _member(kind, data)
        core = _core(kind)
        origin = get_origin(core)
        if isinstance(core, type) and issubclass(core, msgspec.Struct):
            return self.struct({} if data is None and _all_optional(core) else data, core, path)
        if origin is dict and isinstance(data, dict | None):
            return self._whole(self._mapping(data or {}, core, path), kind, path)
        if origin is list and isinstance(data, list | None):
            return self._whole(self._items(data or [], get_args(core)[0], path), kind, path)
        if origin is tuple and isinstance(data, list | None):
            return self._tuple(data or [], kind, path)
        return self._leaf(data, kind, path)

    def struct(self, data: Any, struct: type[msgspec.Struct], path: str) -> Any:
        """A struct, or BROKEN."""
        values = self.fields(data, struct, path)
        if values is None or any(value is BROKEN for value in values.values()):
            return BROKEN
        try:
            return struct(**values)
        except (TypeError, ValueError) as error:  # what a struct's own `__post_init__` may raise
            self.document.wrong(path, sentence(str(error)))
            return BROKEN

    def fields(self, data: Any, struct: type[msgspec.Struct], path: str) -> dict[str, Any] | None:
        """Field -> value or BROKEN for every field that is given or required; None if it is no mapping."""
        if not isinstance(data, dict):
            self.document.wrong(path, sentence(f"{_shown(data)} stands where a mapping is needed"))
            return None
        known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        for key in data:
            if key not in known:
                self._unknown(key, known, struct, path)
        values: dict[str, Any] = {}
        for key, field in known.items():
            if key in data:
                values[field.name] = self.value(data[key], field.type, child(path, key))
            elif field.required:
                what = _description(field.type)
                self.document.wrong(
                    path, f"`{key}` is missing" + (f" ({what})" if what else ""), f"Add `{key}:`"
                )
                values[field.name] = BROKEN
        return values

    def _unknown(self, key: Any, known: Mapping[str, Any], struct: type, path: str) -> None:
        here = child(path, key)
        if key in self.unbuilt.get(struct, ()):
            self.document.wrong(here, f"`{key}` is not built yet in this version", "Leave it out")
            return
        near = closest(str(key), known)
        mend = f"Did you mean `{near}`?" if near else _listed(known)
        self.document.wrong(here, f"There is no key `{key}`", mend)

    def _mapping(self, data: dict[Any, Any], kind: Any, path: str) -> dict[Any, Any]:
        key_kind, value_kind = get_args(kind)
        found = {}
        for key, value in data.items():
            here = child(path, key)
            name = self._leaf(key, key_kind, here)
            converted = self.value(value, value_kind, here)
            if name is not BROKEN and converted is not BROKEN:
                found[name] = converted
        return found

    def _items(self, data: list[Any], kind: Any, path: str) -> list[Any]:
        items = (self.value(item, kind, f"{path}[{number}]") for number, item in enumerate(data))
        return [item for item in items if item is not BROKEN]

    def _tuple(self, data: list[Any], kind: Any, path: str) -> Any:
        kinds = get_args(_core(kind))
        if kinds[-1] is Ellipsis:
            return self._whole(tuple(self._items(data, kinds[0], path)), kind, path)
        if len(data) != len(kinds):
            return self._leaf(data, kind, path)
        items = tuple(
            self.value(item, part, f"{path}[{number}]")
            for number, (item, part) in enumerate(zip(data, kinds, strict=True))
        )
        return BROKEN if BROKEN in items else items

    def _whole(self, found: Any, kind: Any, path: str) -> Any:
        """What the type says of a collection as such: its length."""
        return self._leaf(found, kind, path) if get_origin(kind) is Annotated else found

    def _leaf(self, data: Any, kind: Any, path: str) -> Any:
        if _holds_broken(data):
            return BROKEN
        try:
            return msgspec.convert(data, kind)
        except msgspec.ValidationError as error:
            message, mend, tail = _sentence(str(error), data, kind)
            self.document.wrong(path + tail, sentence(message), mend)
            return BROKEN


def closest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that is probably meant: by spelling, or the only one with `word` inside it."""
    known = list(words)
    if near := get_close_matches(word, known, n=1):
        return near[0]
    inside = [name for name in known if len(word) > 2 and word in name]
    return inside[0] if len(inside) == 1 else None


def nearest(word: str, words: list[str], what: str) -> str:
    """How to mend a name that does not exist."""
    if near := closest(word, words):
        return f"Did you mean {near}?"
    return _listed(words) if words else f"The cell has no {what}"


def sentence(text: str) -> str:
    """With a capital letter in front."""
    return text[:1].upper() + text[1:]


def _listed(words: Collection[str]) -> str:
    return f"There {'are' if len(words) > 1 else 'is only'} {', '.join(words)}"


def _core(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _member(kind: Any, data: Any) -> Any:
    """The member of a union that can only be meant; the union itself where msgspec has to decide."""
    core = _core(kind)
    if get_origin(core) not in (Union, UnionType) or not isinstance(data, dict | list):
        return kind
    members = [member for member in get_args(core) if _takes(_core(member), data)]
    return members[0] if len(members) == 1 else kind


def _takes(core: Any, data: dict[Any, Any] | list[Any]) -> bool:
    if isinstance(data, dict):
        return get_origin(core) is dict or (isinstance(core, type) and issubclass(core, msgspec.Struct))
    return get_origin(core) in (list, tuple)


def _all_optional(struct: type[msgspec.Struct]) -> bool:
    return not any(field.required for field in msgspec.structs.fields(struct))


def _holds_broken(data: Any) -> bool:
    if isinstance(data, list):
        return any(_holds_broken(item) for item in data)
    if isinstance(data, dict):
        return any(key is BROKEN or _holds_broken(item) for key, item in data.items())
    return data is BROKEN


def _parts(kind: Any) -> Iterator[Any]:
    """A type and everything inside it, metadata included."""
    yield kind
    if get_origin(kind) is not Literal:
        for part in get_args(kind):
            yield from _parts(part)


def _description(kind: Any) -> str:
    """What the type itself says it is; what its keys or items are does not count."""
    if get_origin(kind) is Annotated:
        core, *notes = get_args(kind)
        said = [note.description for note in notes if isinstance(note, msgspec.Meta) and note.description]
        return said[-1] if said else _description(core)
    if get_origin(kind) in (Union, UnionType):
        return next((words for member in get_args(kind) if (words := _description(member))), "")
    return ""


def _choices(kind: Any) -> list[str]:
    words: list[str] = []
    for part in _parts(kind):
        if get_origin(part) is Literal:
            words += [str(choice) for choice in get_args(part)]
        elif isinstance(part, type) and issubclass(part, enum.Enum):
            words += [str(choice.value) for choice in part]
    return list(dict.fromkeys(words))


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
_BOUNDS = {
    ">=": "at least {}",
    "<=": "at most {}",
    ">": "more than {}",
    "<": "less than {}",
}


def _sentence(text: str, data: Any, kind: Any) -> tuple[str, str, str]:
    """(message, mend, rest of the path) from what msgspec says of a leaf."""
    said, _, where = text.partition(" - at `")
    tail = where.removeprefix("$").removesuffix("`") if where.startswith("$") else ""
    value = _inside(data, tail)
    shown = _shown(value)
    choices = _choices(kind)
    if choices and not isinstance(value, dict | list):
        near = closest(str(value), choices)
        return f"{shown} is not one of {', '.join(choices)}", f"Did you mean {near}?" if near else "", tail
    if match := re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)`", said):
        wanted = [_WORDS.get(name, name) for name in match[1].split(" | ") if name != "null"]
        quote = "str" in match[1].split(" | ") and isinstance(value, int | float)
        mend = f'Write "{value}" in quotes' if quote and not isinstance(value, bool) else ""
        return f"{shown} stands where {' or '.join(wanted)} is needed", mend, tail
    if match := re.fullmatch(r"Expected `(\w+)` (of length )?(>=|<=|>|<)? ?(-?[\d.e+-]+)(, got \d+)?", said):
        bound = _BOUNDS.get(match[3] or "", "{}").format(f"{float(match[4]):g}")
        if match[2]:
            return f"{shown} has the wrong length: it needs {bound}", "", tail
        return f"{shown} is out of range: it has to be {bound}", "", tail
    if "matching regex" in said:
        what = _description(kind)
        return (
            f"{shown} is not {what}" if what else f"{shown} does not have the right form ({said})",
            "",
            tail,
        )
    return f"{shown} cannot be used: {said}", "", tail


def _inside(data: Any, tail: str) -> Any:
    for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", tail):
        try:
            data = data[key] if key else data[int(index)]
        except (KeyError, IndexError, TypeError):
            return data
    return data


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = str(value)
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"
