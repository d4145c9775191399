"""The state of the database as the flushes of one writer find it. Logged once when it goes and once when it is back."""

from __future__ import annotations

import contextlib
import enum
import logging
from collections.abc import Iterator
from typing import Final

from rwriter._database_errors import Kind, advice, describe, failure_of

log = logging.getLogger("rwriter")


class Database(enum.Enum):
    """The state of the database, as far as the writer knows."""

    UP = enum.auto()
    """It answers, or nothing is known to the contrary."""
    AWAY = enum.auto()
    """The retries of a batch were spent: one attempt at a time may find out whether it is back."""
    PROBING = enum.auto()
    """That one attempt is under way."""


class Outage:
    """Says who may try to reach the database, and counts what was dropped while it was away."""

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._logged = False
        self._dropped = 0
        self._live_batch_may_probe = False
        self.state = Database.UP

    @contextlib.contextmanager
    def attempt(self, *, replaying: bool = False) -> Iterator[bool]:
        """Give True for the duration of a block that may try, False where another attempt must come first.

        While the database is away the replay probes, with what is in the spool; a try for each live batch would be a
        storm of them. A live batch probes where the replay said that it has nothing.
        """
        if self.state is Database.UP:
            yield True
        elif self.state is Database.AWAY and (replaying or self._live_batch_may_probe):
            self.state = Database.PROBING
            self._live_batch_may_probe = False
            try:
                yield True
            finally:
                # cancelled, or without a batch to try: nothing was learnt
                if self.state is Database.PROBING:
                    self.state = Database.AWAY
        else:
            yield False

    @property
    def is_probed(self) -> bool:
        """True while an attempt is finding out whether the database is back."""
        return self.state is Database.PROBING

    def nothing_to_replay(self) -> None:
        """Let the next live batch probe: the replay has nothing to probe with."""
        self._live_batch_may_probe = True

    def attempt_failed(self, exc: BaseException) -> None:
        """Note an attempt that failed because of the database, not because of a record."""
        if self._logged:
            return
        self._logged = True
        if failure_of(exc) is Kind.CONFIGURATION:
            log.error("%s: cannot write, %s: %s", self._name, describe(exc), advice(exc))
        else:
            log.warning("%s: the database is away, %s; retrying", self._name, describe(exc))

    def retries_spent(self) -> None:
        """Note that a batch was given up: the database is away."""
        self.state = Database.AWAY
        self._live_batch_may_probe = False

    def dropped(self, number: int, reason: str) -> None:
        """Count ``number`` records as dropped in this outage."""
        if not self._dropped:
            log.error("%s: dropping records, first %d of them: %s", self._name, number, reason)
        self._dropped += number

    def database_answered(self) -> None:
        """Note an attempt that succeeded, or was refused because of a record: the database is up."""
        if self._logged or self._dropped:
            log.warning("%s: writing again; %d records were dropped meanwhile", self._name, self._dropped)
        self._logged = False
        self.state = Database.UP
        self._dropped = 0
