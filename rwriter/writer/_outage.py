"""Whether the database is away: known to all flushes of a writer, logged once when it goes and once when it is back."""

from __future__ import annotations

import logging
from typing import Final

from rwriter._database_errors import Kind, advice, describe, failure_of

log = logging.getLogger("rwriter")


class Outage:
    """The state of one writer's database, as its flushes find it."""

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._logged = False
        self._lost = 0
        self.away = False
        """Retries were spent: batches are not tried one by one until a probe succeeds."""

    def attempt_failed(self, exc: BaseException) -> None:
        """An attempt failed, not for a record's sake."""
        if self._logged:
            return
        self._logged = True
        if failure_of(exc) is Kind.CONFIGURATION:
            log.error("%s: cannot write, %s: %s", self._name, describe(exc), advice(exc))
        else:
            log.warning("%s: the database is away, %s; retrying", self._name, describe(exc))

    def dropped(self, number: int, reason: str) -> None:
        """Records were dropped."""
        if not self._lost:
            log.error("%s: dropping records, first %d of them: %s", self._name, number, reason)
        self._lost += number

    def over(self) -> None:
        """An attempt succeeded, or was refused for a record's sake: the database answers."""
        if self._logged or self._lost:
            log.warning("%s: writing again; %d records were dropped meanwhile", self._name, self._lost)
        self._logged = self.away = False
        self._lost = 0
