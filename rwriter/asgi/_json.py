"""JSON that others wrote: whatever is stored can be read, and whatever was read can be sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from rwriter.records import repair

_DEEPEST: Final = 100
"""Levels that are sent of a value nested too deeply to be sent whole."""


def loads(text: str | None) -> Any:
    """The value in ``text``; ``None`` when there is none: blank, cut off, no JSON, nested without end."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError):
        return _loads_leniently(text)
    except RecursionError:
        return None


def loads_object(text: str | None) -> dict[str, Any]:
    """The object in ``text``, empty when it holds none."""
    value = loads(text)
    return value if isinstance(value, dict) else {}


def dumps(value: Any) -> bytes:
    """``value`` as UTF-8 JSON."""
    try:
        return msgspec.json.encode(value)
    except RecursionError:
        return msgspec.json.encode(_pruned(value, _DEEPEST))


def objects_in(values: Any) -> Iterator[dict[str, Any]]:
    """The objects in a list; nothing when it is no list."""
    return (value for value in values if isinstance(value, dict)) if isinstance(values, list) else iter(())


def text_or_empty(value: Any) -> str:
    """``value`` if it is a text."""
    return value if isinstance(value, str) else ""


def _loads_leniently(text: str) -> Any:
    # half an emoji, NaN, 1e999: other parsers take them, and a stored answer must not be lost over one
    try:
        value = json.loads(text, parse_constant=lambda _: None)
        return msgspec.json.decode(msgspec.json.encode(_clean(value)))
    except (ValueError, RecursionError):
        return None


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return repair(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {repair(key): _clean(item) for key, item in value.items()}
    return value


def _pruned(value: Any, levels: int) -> Any:
    if isinstance(value, (dict, list)) and not levels:
        return None
    if isinstance(value, list):
        return [_pruned(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {key: _pruned(item, levels - 1) for key, item in value.items()}
    return value
