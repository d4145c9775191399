"""Finds the entry of a list that a piece of a stream belongs to: by its own id, else by its number and type.

A number on the wire is a hint. Some providers number every entry 0, number by something else, or not at all; an entry
that is announced under a number that is taken is another entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rwriter.asgi._fold.budget import Budget

Ids = tuple[tuple[str, str], ...]
"""What an entry calls itself: names of fields, each with its value."""

_LONGEST_NUMBER: Final = 7
"""Digits of a number that comes as a text."""


def number_of(value: Any) -> int | None:
    """Return a number on the wire, which may come as a text; ``None`` if it is none."""
    if type(value) is int:
        return value if value >= 0 else None
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < _LONGEST_NUMBER:
        return int(value)
    return None


def name_of(value: Any) -> str | None:
    """Return the name of a type on the wire; ``None`` if it is none."""
    return value if type(value) is str and value else None


def ids_of(value: Any, name: str = "id") -> Ids:
    """Return the ids of an entry whose field ``name`` is ``value``: one, or none."""
    return ((name, value),) if type(value) is str and value else ()


class Places:
    """The places of the entries of one list.

    Remembers nothing more once ``budget`` is exceeded: then no entry can be added to the list either.
    """

    __slots__ = ("_announced", "_announced_below", "_budget", "_found", "_ids", "_ids_hold", "_kinds", "_last")

    def __init__(self, budget: Budget) -> None:
        self._budget: Final = budget
        # by id; the entry that was opened last under a number, or under any (``None``); and the one that was told of
        # last of a type, or of a number and a type
        self._found: Final[dict[tuple[str | int | None, str] | str | int | None, int]] = {}
        self._kinds: Final[dict[int, str | None]] = {}
        self._ids: Final[dict[tuple[int, str], str]] = {}
        # places that were announced: those below a number, as in nearly all lists, and others
        self._announced_below = 0
        self._announced: Final[dict[int, None]] = {}  # an empty set takes three times the memory
        self._ids_hold = False
        self._last = -1

    def known(self, ids: Ids) -> int | None:
        """Return the place of the entry of one of these ids, ``None`` if there is none."""
        for one in ids:
            place = self._found.get(one)
            if place is not None:
                self._ids_hold = True
                return place
        return None

    def find(self, number: int | None, kind: str | None = None, ids: Ids = ()) -> int | None:
        """Return the place of the entry that a piece belongs to, ``None`` if it is of an entry that is not there."""
        place = self.known(ids) if ids else None
        if place is None:
            place = self._latest_of(number, kind)
            if place is not None and ids and self._is_another(place, ids):
                place = None
        return place

    def place_of(self, number: int | None, kind: str | None = None, ids: Ids = ()) -> int:
        """Return the place of the entry that a piece belongs to, a new one for an entry that is not there."""
        if not ids:
            place = self._found.get(number if kind is None else (number, kind))
            if place is not None:
                return place
        place = self.find(number, kind, ids)
        return self.open(number, kind, ids) if place is None else self.learn(place, number, kind, ids)

    def announce(self, number: int | None, kind: str | None, ids: Ids, is_same: Callable[[int], bool]) -> int:
        """Return the place of an entry that begins.

        It has one already if one of its ids is known, if pieces of it came before it, or if ``is_same`` says of the
        latest entry of its number and type that this is the one, announced again.
        """
        place = self.known(ids) if ids else None
        if place is None and number in self._found:
            place = self._latest_of(number, kind)
            if place is not None and (
                self._calls_itself_otherwise(place, ids) or (self._was_announced(place) and not is_same(place))
            ):
                place = None
        place = self.open(number, kind, ids) if place is None else self.learn(place, number, kind, ids)
        if place == self._announced_below:
            self._announced_below = place + 1
        elif place > self._announced_below and not self._budget.exceeded:
            self._announced[place] = None
        return place

    def open(self, number: int | None, kind: str | None = None, ids: Ids = ()) -> int:
        """Return the place of an entry that is not there: its number if that is free, else one behind all others."""
        place = self._last + 1 if number is None or number in self._kinds else number
        if self._budget.exceeded:
            return place
        self._last = max(self._last, place)
        found = self._found
        self._kinds[place] = kind
        found[number] = found[None] = place
        if kind is not None:
            found[kind] = found[number, kind] = place
        if ids:
            self._learn_ids(place, ids)
        return place

    def learn(self, place: int, number: int | None, kind: str | None = None, ids: Ids = ()) -> int:
        """Note type and ids that a piece tells of its entry. Returns ``place``."""
        if self._budget.exceeded:
            return place
        if kind is not None:
            self._kinds[place] = self._kinds.get(place) or kind
            self._found[kind] = self._found[number, kind] = place
        if ids:
            self._learn_ids(place, ids)
        return place

    def _learn_ids(self, place: int, ids: Ids) -> None:
        for name, value in ids:
            if (place, name) not in self._ids:  # once: some providers make a new id for each event
                self._ids[place, name] = value
                self._found.setdefault((name, value), place)

    def _latest_of(self, number: int | None, kind: str | None) -> int | None:
        found = self._found
        if kind is None:
            return found.get(number)
        place = found.get(kind if number is None else (number, kind))
        if place is None:
            place = found.get(number)
            if place is not None and self._kinds.get(place) is not None:
                return None
        return place

    def _is_another(self, place: int, ids: Ids) -> bool:
        """Return True if a piece of these ids is not of the entry there.

        While no id was ever seen twice, ids are made anew for each event, as by some providers, and tell nothing.
        """
        return (self._ids_hold or not self._was_announced(place)) and self._calls_itself_otherwise(place, ids)

    def _was_announced(self, place: int) -> bool:
        return place < self._announced_below or place in self._announced

    def _calls_itself_otherwise(self, place: int, ids: Ids) -> bool:
        return any(self._ids.get((place, name), value) != value for name, value in ids)
