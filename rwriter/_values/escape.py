"""Escapes texts of others for terminals and logs: what would move the cursor or end the line is spelled out."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

# Cc: C0, DEL and C1. Cf: bidi overrides, zero-width and tag characters. Zl and Zp end a line in some programs. Cs, Co
# and Cn: a surrogate, a private or an unassigned character shows as nothing, or as anything.
_HIDDEN: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))

# an exact match of printable ASCII costs nothing; the category is asked of the other characters alone
_SUSPECT: Final = re.compile(r"[^ -~]")


def escape(text: str) -> str:
    r"""Return ``text`` as one line: control and format characters become ``\n``, ``\x1b``, ``\u202e`` and the like.

    Letters of any script and ordinary spaces stay as they are, and so do backslashes.
    """
    return text if text.isprintable() else _SUSPECT.sub(_spelled, text)


def escape_json(text: str) -> str:
    r"""Return the JSON ``text`` with the same characters as ``\uXXXX``: its values do not change."""
    return text if text.isprintable() else _SUSPECT.sub(_in_json, text)


def _spelled(match: re.Match[str]) -> str:
    character = match[0]
    return character.encode("unicode_escape").decode() if _is_hidden(character) else character


def _in_json(match: re.Match[str]) -> str:
    character = match[0]
    return json.dumps(character)[1:-1] if _is_hidden(character) else character


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN
