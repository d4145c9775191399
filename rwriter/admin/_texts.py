"""Texts of others as a page shows them: bounded, control characters spelled out, JSON laid out."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from rwriter._values.escape import escape

SHOWN: Final = 64 * 1024
"""Most characters of a body that are shown."""

_DEPTH: Final = 32
"""Deepest JSON that is laid out: its indentation grows with the square of the depth."""

# possessive, and one that does not end is taken to the end: without either its time would be the square of its length
_TEXT: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS: Final = re.compile(r"[\[\]{}]")


def lines(text: str) -> str:
    r"""Return ``text`` with its line ends as they are, and every other control or format character spelled out."""
    return "\n".join(map(escape, text.split("\n")))


def laid_out(body: str) -> str:
    """Return a body for reading: JSON indented, anything else as it is; at most ``SHOWN`` characters of it."""
    if len(body) > SHOWN:
        return lines(body[:SHOWN])
    if _depth(body) > _DEPTH:
        return lines(body)
    try:
        return lines(msgspec.json.format(body, indent=2))
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return lines(body)


def _depth(body: str) -> int:
    depth = deepest = 0
    for match in _BRACKETS.finditer(_TEXT.sub("", body)):
        depth += 1 if match[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
