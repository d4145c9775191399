"""Reads the members of a JSON object from its two ends: of a body too large to be kept, or that no parser takes.

Looks at the head and the tail and nowhere else, so that it costs the same whatever lies between.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from rwriter.asgi._json import loads

_LONGEST: Final = 16 * 1024
"""Bytes of the longest member that is read."""
_LONGEST_NAME: Final = 256
_BOM: Final = b"\xef\xbb\xbf"
# possessive, and an unfinished string is one token: no byte is looked at twice
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[{}\[\],:]', re.DOTALL)
_MARK: Final = re.compile(rb'["{}\[\],:]')


def skim(head: bytes, tail: bytes, wanted: Collection[str]) -> dict[str, Any]:
    """Return the ``wanted`` members of the object that begins in ``head`` and ends in ``tail``, those that are found.

    A member that stands in both is taken from the tail, where a parser would find the last one. Never raises.
    """
    found: dict[str, Any] = {}
    for name, value in _members_of_head(head.removeprefix(_BOM).lstrip()):
        _take(found, name, value, wanted)
    for name, value in _members_of_tail(tail.rstrip()):
        if _spelled(name) not in found:
            _take(found, name, value, wanted)
    return found


def _take(found: dict[str, Any], name: bytes, value: bytes, wanted: Collection[str]) -> None:
    key = _spelled(name)
    if key not in wanted or len(value) > _LONGEST:
        return
    text = value.strip()
    loaded = loads(text)
    if loaded is not None or text == b"null":
        found[key] = loaded


def _spelled(name: bytes) -> str:
    """Return a name as a parser reads it: any letter of it may be escaped."""
    read = loads(b'"' + name + b'"') if b"\\" in name and len(name) <= _LONGEST_NAME else None
    return read if isinstance(read, str) else name.decode("utf-8", "replace")


def _members_of_head(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and value of each member that lies in ``data`` whole, and the text of each."""
    if not data.startswith(b"{"):
        return
    depth, name, begin, last = 0, b"", -1, b""
    for token in _TOKEN.finditer(data):
        kind = token[0]
        if kind in b"{[":
            depth += 1
        elif depth == 1 and begin < 0 and kind == b":":
            name, begin = last[1:-1], token.end()
        elif depth == 1 and begin >= 0 and kind in b",}":
            yield name, data[begin : token.start()]
            begin = -1
        if kind in b"}]":
            depth -= 1
            if not depth:
                return
        last = kind


def _members_of_tail(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the same from behind, the last member first."""
    depth, end, colon = 0, -1, -1
    for kind, at, stop in _tokens_from_behind(data) if data.endswith(b"}") else ():
        if kind in b"}]":
            depth += 1
        elif kind in b"{[":
            depth -= 1
        if not depth:
            return
        if depth > 1:
            continue
        if kind in b"},":
            end, colon = at, -1
        elif kind == b":":
            colon = at
        elif kind == b'"' and 0 <= colon < end:
            yield data[at + 1 : stop], data[colon + 1 : end]
            # whatever stands before a name, the next member ends with a comma
            end, colon = -1, -1


def _tokens_from_behind(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each mark and each string of ``data``, from its end: the mark, where it begins and where it ends."""
    backwards = data[::-1]
    last = len(data) - 1
    found = _MARK.search(backwards)
    while found is not None:
        stop = last - found.start()
        begin = _opening_quote(data, stop) if found[0] == b'"' else stop
        if begin < 0:
            return
        yield found[0], begin, stop
        found = _MARK.search(backwards, last - begin + 1)


def _opening_quote(data: bytes, closing: int) -> int:
    """Return where the string begins that ends at ``closing``; -1 if it begins before ``data``."""
    begin = data.rfind(b'"', 0, closing)
    while begin > 0:
        before = begin
        while before and data[before - 1] == _BACKSLASH:
            before -= 1
        if (begin - before) % 2 == 0:
            break
        begin = data.rfind(b'"', 0, before)
    return begin


_BACKSLASH: Final = ord("\\")
