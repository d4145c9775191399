"""Cuts a large list or object of JSON into slices, so that no call into C works on all of it and holds every thread."""

from __future__ import annotations

import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

SLICE_BYTES: Final = 128 * 1024
"""Bytes decoded in one call: ten thousand small values, a millisecond. More than is ever decoded on an event loop."""
_GROWS: Final = 16
"""Factor by which a slice grows while it holds no whole item."""
_TRIES: Final = 6
"""Commas that are tried for a slice, each at the cost of decoding it. Two for one that has grown."""
_PAUSE: Final = 0.00001
"""Seconds between two slices in which another thread can take over. It need not ask, which takes it 5 ms."""
_NEAR: Final = re.compile(rb"[}\]\"0-9el](\s*+,\s*+)(?=[{\[\"0-9\-tfn])"), 512
_FAR: Final = re.compile(rb"[}\]](\s*+,\s*+)(?=[{\[\"])"), 8_192
"""Commas between what may be two items, and how far from the end of a slice they are looked for."""
_ALIKE: Final = 2
"""Commas of one kind, by what stands on both sides, that are tried."""
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)

_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_VALUE: Final = msgspec.json.Decoder().decode
_MANY: Final = 100
"""Members of one slice that are not worth a call each."""
_VALUES: Final = msgspec.json.Decoder(list[Any]).decode


def items_of(text: bytes) -> Iterator[list[msgspec.Raw]]:
    """Yield the items of the list that ``text`` is, as they are written, some thousand at a time.

    Raises what ``msgspec`` raises for ``text`` as a whole; what came before an error in it was yielded then.
    """
    return _Slices(text, b"[", b"]", _ITEMS).each()


def values_of(text: bytes) -> Iterator[list[Any]]:
    """Yield the values in the list that ``text`` is, some at a time. Raises as ``items_of`` does."""
    return _Slices(text, b"[", b"]", _VALUES).each()


def members_of(text: bytes) -> Iterator[dict[str, Any]]:
    """Yield the members of the object that ``text`` is, some at a time: many small ones read, others as written.

    A name may come again: the last of its values counts. Raises as ``items_of`` does.
    """
    return _Slices(text, b"{", b"}", _members).each()


def _members(text: bytes) -> dict[str, Any]:
    found = _MEMBERS(text)
    is_small = len(found) >= _MANY and len(text) <= SLICE_BYTES + 2
    return _VALUE(text) if is_small else found


class _Slices(Generic[T]):
    """The slices of one text, each with brackets of its own."""

    def __init__(self, text: bytes, opening: bytes, closing: bytes, decode: Callable[[bytes], T]) -> None:
        self._text: Final = text.strip()
        self._part: Final = memoryview(self._text)
        self._opening: Final = opening
        self._closing: Final = closing
        self._decode: Final = decode

    def each(self) -> Iterator[T]:
        """Decode one slice after the other, and let other threads run in between."""
        text, at, size = self._text, 1, SLICE_BYTES
        end = len(text) - 1 if text.startswith(self._opening) and text.endswith(self._closing) else 0
        while end - at > size:
            found = self._next(at, at + size)
            if found is None:
                size *= _GROWS
                continue
            slice_, at = found
            size = SLICE_BYTES
            yield slice_
            time.sleep(_PAUSE)
        if at == 1:
            yield self._decode(text)
        else:
            # nothing behind the last comma: with that comma it is no list, and without it would be one
            yield self._between(at if text[at:end].strip() else at - 1, end)

    def _next(self, at: int, end: int) -> tuple[T, int] | None:
        """Return as many items from ``at`` on as end before ``end``, and where the next begins; ``None`` if none does.

        What is cut at a comma is a list of its own, or an object, only if that comma stands between two of its items:
        in a text or in an item that is not closed no list can end.
        """
        cuts = (cut for seam, reach in (_NEAR, _FAR) for cut in _cuts(self._text, max(at, end - reach), end, seam))
        for cut in itertools.islice(cuts, _TRIES if end - at <= SLICE_BYTES else 2):
            try:
                return self._between(at, cut), cut + 1
            except _UNREADABLE:
                continue
        return None

    def _between(self, start: int, end: int) -> T:
        return self._decode(b"".join((self._opening, self._part[start:end], self._closing)))


def _cuts(text: bytes, start: int, end: int, seam: re.Pattern[bytes]) -> list[int]:
    """Return commas that are worth trying: the last of each kind, those behind a bracket first."""
    kinds: dict[tuple[int, int], deque[int]] = {}
    for found in seam.finditer(text, start, end):
        kind = text[found.start()], text[found.end()]
        kinds.setdefault(kind, deque(maxlen=_ALIKE)).append(text.index(b",", found.start(1)))
    ranked = sorted(kinds, key=lambda kind: kind[0], reverse=True)  # } and ] before letters, digits and quotes
    return [cut for kind in ranked for cut in reversed(kinds[kind])]
