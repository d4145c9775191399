"""Which pending record has which id, and whose turn it is among records with one id."""

from __future__ import annotations

import uuid
from collections import deque
from typing import Final

from rwriter.records import CompletedRequest
from rwriter.writer._entry import Entry


class PendingIndex:
    """Every pending entry by its request's id, and by the id its client knows.

    Of each id one entry at a time may be queued or lent, and the others stay behind it: in two flushes at once the
    later record could be stored first, and win.
    """

    def __init__(self) -> None:
        # by the id's number, which hashes in C: an id's own hash would be a tenth of what accepting a record costs
        self._first: Final[dict[int, Entry]] = {}
        self._behind: Final[dict[int, deque[Entry]]] = {}
        self._by_custom_id: Final[dict[tuple[str, str], Entry]] = {}

    def add(self, entry: Entry) -> bool:
        """Know ``entry``. Whether it may be queued now; if not, ``remove`` hands it out when its turn comes."""
        record = entry.record
        if record.custom_id is not None:
            self._by_custom_id[record.custom_id, record.created_by] = entry
        number = record.request_id.int
        if self._first.setdefault(number, entry) is entry:
            return True
        self._behind.setdefault(number, deque()).append(entry)
        return False

    def remove(self, entry: Entry) -> Entry | None:
        """Forget ``entry``; the one behind it, which may be queued now."""
        record = entry.record
        if record.custom_id is not None and self._by_custom_id.get((record.custom_id, record.created_by)) is entry:
            del self._by_custom_id[record.custom_id, record.created_by]
        number = record.request_id.int
        if self._first.get(number) is not entry:
            return None
        del self._first[number]
        behind = self._behind.get(number)
        if not behind:
            return None
        following = self._first[number] = behind.popleft()
        if not behind:
            del self._behind[number]
        return following

    def forget_order(self) -> None:
        """Nothing is queued any more: no entry waits for another."""
        self._behind.clear()

    def get(self, request_id: uuid.UUID) -> CompletedRequest | None:
        """The record with that id: of several the first, whose row it will be."""
        entry = self._first.get(request_id.int)
        return None if entry is None else entry.record

    def find(self, custom_id: str, created_by: str) -> CompletedRequest | None:
        """The latest record that its owner's client knows as ``custom_id``."""
        entry = self._by_custom_id.get((custom_id, created_by))
        return None if entry is None else entry.record
