"""Between a delivery and what it settles: fates that leave no row are noted on the way."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from rwriter._chain.entries import Kind
from rwriter.records import CompletedRequest


class Settled(Protocol):
    """A pending record: ``fate`` is ``None`` until it has one."""

    record: CompletedRequest
    fate: Any


E = TypeVar("E", bound=Settled)
E_contra = TypeVar("E_contra", bound=Settled, contravariant=True)


class Settling(Protocol[E_contra]):
    """Takes the fates of records."""

    def settle(self, entries: Iterable[E_contra], fate: Any, error: Exception | None = None) -> int:
        """Give ``entries`` their fate and return how many had none before."""


Note: TypeAlias = Callable[[Kind, Iterable[uuid.UUID]], None]
"""Makes an entry about records that leave no row now."""

_NOTED: Final[dict[str, Kind]] = {"spooled": "spooled", "dropped": "dropped"}


class Noting(Generic[E]):
    """Settles as ``settling`` does, and calls ``note`` for what is spooled or dropped."""

    def __init__(self, settling: Settling[E], note: Note) -> None:
        self._settling: Final = settling
        self._note: Final = note

    def settle(self, entries: Iterable[E], fate: Any, error: Exception | None = None) -> int:
        """Give ``entries`` their fate and return how many had none before."""
        kind = _NOTED.get(fate)
        if kind is None:
            return self._settling.settle(entries, fate, error)
        these = [entry for entry in entries if entry.fate is None]
        number = self._settling.settle(these, fate, error)
        self._note(kind, [entry.record.request_id for entry in these])
        return number
