"""JSON that others wrote: whatever is stored can be read, and whatever was read can be written.

Loading never raises: it mends what a lenient parser would accept, and answers ``None`` for the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final, TypeVar

import msgspec

from rwriter._values.texts import repair
from rwriter.asgi._slices import items_of, members_of, values_of

T = TypeVar("T", bound=msgspec.Struct)

_MAX_LEVELS: Final = 100
"""Levels written of a value that is nested too deeply to be written whole."""

_BOM: Final = "\ufeff"
LARGE: Final = 64 * 1024
"""Bytes from which on values that are only passed on are not made: a million small ones stop every thread."""
_LEVELS: Final = 6
_ITERATED: Final = frozenset({"choices", "tool_calls", "candidates", "parts"})
_READ: Final = frozenset({"content", "summary", *_ITERATED})
# possessive: no byte is looked at twice
_CONSTANT: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|NaN|-?Infinity', re.DOTALL)
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_RAW_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

# bound once: the fold calls them for each event of a stream
encode: Final = msgspec.json.Encoder().encode
"""Encode strictly, as UTF-8 bytes. Raises ``RecursionError`` for a value nested too deeply."""
decode: Final = msgspec.json.Decoder().decode
"""Decode strictly. Raises one of ``UNREADABLE``."""
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""Errors of decoding: msgspec's own became a ``ValueError`` after 0.19 only."""


# -- reading


def loads(text: str | bytes | None) -> Any:
    """Return the value in ``text``; ``None`` if it is blank, cut off, nested without end or no JSON at all."""
    if not text:
        return None
    try:
        return decode(text)
    except RecursionError:
        return None
    except UNREADABLE:
        return _loads_leniently(text)


def loads_object(text: str | bytes | None) -> dict[str, Any]:
    """Return the object in ``text``, an empty one if it holds none."""
    value = loads(text)
    return value if isinstance(value, dict) else {}


def shallow(text: str | None, wanted: Collection[str]) -> Any:
    """Return the value in ``text`` as ``loads`` does, its large members as they are written (``msgspec.Raw``).

    Those called ``wanted`` are read whatever their size. Millions of small values are then never made, only passed on.
    """
    if text is None or len(text) <= LARGE:
        return loads(text)
    plain = mended(text)
    try:
        if not plain.lstrip().startswith("{"):
            return _RAW.decode(plain)
        members = _RAW_MEMBERS.decode(plain)
    except UNREADABLE:
        return loads(text)
    return {name: _unless_large(value, always=name in wanted) for name, value in members.items()}


def sparse(text: bytes) -> Any:
    """Return the value in ``text`` as ``loads`` does, but the large lists of an event as they are written.

    Left so are lists that a fold appends or keeps whole (log probabilities, an output), and not those it looks into.
    """
    if len(text) <= LARGE or not text[:LARGE].lstrip().startswith(b"{"):
        return loads(text)
    try:
        text.decode()  # what is only passed on is not looked at otherwise
        return _sparse("", msgspec.Raw(text), _LEVELS)
    except UNREADABLE:
        return loads(text)


def _sparse(name: str | None, raw: msgspec.Raw, levels: int) -> Any:
    """Return the value called ``name``; called ``None`` if nobody looks into it."""
    text = bytes(raw)
    if len(text) <= LARGE or not levels:
        return decode(text)
    if text[:LARGE].lstrip().startswith(b"{"):
        made: dict[str, Any] = {}
        for some in members_of(text):
            for key, value in some.items():
                is_read = type(value) is not msgspec.Raw
                made[key] = value if is_read else _sparse(None if name == "logprobs" else key, value, levels - 1)
        return made
    if not text.startswith(b"["):
        return decode(text)
    if name in _ITERATED:
        return [_sparse("", value, levels - 1) for some in items_of(text) for value in some]
    # numbered items are merged one by one
    is_read = name in _READ or (name is not None and name != "" and b'"index"' in text)
    return [value for some in values_of(text) for value in some] if is_read else msgspec.Raw(text)


def mended(text: str) -> str:
    """Return ``text`` without a byte order mark, and ``null`` for each NaN and infinity in it."""
    text = text.removeprefix(_BOM)
    if "NaN" in text or "Infinity" in text:
        return _CONSTANT.sub(lambda found: found[0] if found[0].startswith('"') else "null", text)
    return text


def is_list(value: Any) -> bool:
    """Return True for a list, read or as it is written."""
    return isinstance(value, list) or (isinstance(value, msgspec.Raw) and bytes(memoryview(value)[:1]) == b"[")


def _unless_large(value: msgspec.Raw, *, always: bool) -> Any:
    return loads(bytes(value)) if always or memoryview(value).nbytes <= LARGE else value


class Members:
    """Reads the members of an object that it was made for, and makes no values of the others."""

    def __init__(self, *names: str) -> None:
        self._names: Final = names
        fields = [(name, Any, msgspec.UNSET) for name in names]
        self._decoder: Final = msgspec.json.Decoder(msgspec.defstruct("Members", fields))

    def of(self, text: str | bytes | None) -> dict[str, Any] | None:
        """Return those members that the object in ``text`` has, ``None`` if it holds no object."""
        if not text:
            return None
        try:
            found = self._decoder.decode(text)
        except UNREADABLE:
            value = loads(text)
            return {name: value[name] for name in self._names if name in value} if isinstance(value, dict) else None
        values = ((name, getattr(found, name)) for name in self._names)
        return {name: value for name, value in values if value is not msgspec.UNSET}


def peek(text: str, fields: type[T]) -> T:
    """Decode only those members of the object in ``text`` that ``fields`` names; its defaults if it is no object."""
    try:
        return msgspec.json.decode(text, type=fields)
    except UNREADABLE:
        return fields()


def objects_in(values: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the objects in a list; over nothing if ``values`` is no list."""
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else iter(())


def text_or_empty(value: Any) -> str:
    """Return ``value`` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def _loads_leniently(text: str | bytes) -> Any:
    # a byte order mark, NaN, 1e999, raw control characters, half a surrogate pair, bytes that are no UTF-8: other
    # parsers take them, and an answer must not be lost over one. Each step goes once over the text.
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
        value = json.loads(decoded.removeprefix(_BOM), strict=False, parse_constant=lambda _: None)
        # encoding the value again turns infinities into null
        return decode(_encoded(value))
    except UNREADABLE:
        return None


def _encoded(value: Any) -> bytes:
    try:
        return encode(value)
    except UnicodeEncodeError:
        return encode(_repaired(value))


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return repair(value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {repair(key): _repaired(item) for key, item in value.items()}
    return value


# -- writing


def dumps(value: Any) -> bytes:
    """Return ``value`` as UTF-8 JSON. What is nested too deeply becomes ``null``."""
    try:
        return encode(value)
    except RecursionError:
        return encode(_pruned(value, _MAX_LEVELS))


def to_text(value: Any) -> str:
    """Return ``value`` as a JSON text, as ``dumps`` makes it."""
    return dumps(value).decode()


def with_error(text: str, error: dict[str, Any]) -> str:
    """Add ``error`` to the JSON object in ``text``, which keeps an error of its own.

    Any other text becomes the ``partial`` member of an object with that error.
    """
    if not text:
        return to_text({"error": error})
    partial = shallow(text, ("error",))
    if isinstance(partial, dict):
        # what an upstream's error frame says is kept
        return to_text(partial if partial.get("error") else partial | {"error": error})
    return to_text({"error": error, "partial": text})


def _pruned(value: Any, levels: int) -> Any:
    if isinstance(value, (dict, list)) and not levels:
        return None
    if isinstance(value, list):
        return [_pruned(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {key: _pruned(item, levels - 1) for key, item in value.items()}
    return value
