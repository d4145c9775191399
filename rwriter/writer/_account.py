"""The writer's account: how many records were accepted, and which fate each of them had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Fate = Literal["persisted", "skipped", "dead", "spooled", "dropped"]
FATES: Final[tuple[Fate, ...]] = ("persisted", "skipped", "dead", "spooled", "dropped")


class Account:
    """Counts records. ``accepted == pending + the sum of fates`` holds between any two calls."""

    __slots__ = ("_fates", "accepted")

    def __init__(self) -> None:
        self.accepted = 0
        self._fates: Final[dict[Fate, int]] = dict.fromkeys(FATES, 0)

    @property
    def fates(self) -> Mapping[Fate, int]:
        """Settled records by fate."""
        return self._fates

    @property
    def pending(self) -> int:
        """Records accepted and not settled."""
        return self.accepted - sum(self._fates.values())

    def settle(self, fate: Fate, number: int) -> None:
        """Count ``number`` pending records as settled."""
        self._fates[fate] += number
