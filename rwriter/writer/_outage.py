"""The state of the database as the flushes of one writer find it. Logged once when it goes and once when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from rwriter._database_errors import (
    Kind,
    advice,
    backoff,
    describe,
    failure_of,
    out_of_connections,
    sqlstate_of,
)
from rwriter.errors import SinkUnavailable
from rwriter.writer._options import Options

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
    """Says who may try to reach the database, and counts what was dropped while it was away.

    All flushes of a writer share it: while one of them stores records, the database is not away for the others.
    """

    def __init__(self, options: Options, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._options: Final = options
        self._name: Final = options.name
        self._clock: Final = clock
        self._logged = False
        self._dropped = 0
        self._live_batch_may_probe = False
        self._turn_is_taken = False
        self._hurried = False
        self._failed_probes = 0
        self._absent_since: float | None = None
        self._changed: asyncio.Event | None = None
        self.state = Database.UP
        self.since = datetime.now(UTC)
        """When the database came, or went."""
        self.error: str | None = None
        """The error of the latest attempt that failed, while the database is away."""
        self.attempts = 0
        """Attempts to store records, in the order in which they began."""
        self.stored = 0
        """Attempts that stored records."""
        self.let_go = 0
        """How often a flush has let go of a connection that it kept, or has used it again."""
        self._latest_stored = 0
        self._untried = 0
        self._under_way = 0
        self._resting = 0
        self._keeping = 0

    @property
    def absent_for(self) -> float:
        """Seconds since the first attempt that failed; 0 while the database answers."""
        return 0.0 if self._absent_since is None else self._clock() - self._absent_since

    @property
    def is_probed(self) -> bool:
        """True while an attempt is finding out whether the database is back."""
        return self.state is Database.PROBING

    # -- who may try

    @contextlib.contextmanager
    def attempt(self, *, replaying: bool = False) -> Iterator[bool]:
        """Give True for the duration of a block that may try, False where another attempt must come first.

        For a writer with a spool. While the database is away the replay probes, with what is in the spool; a try for
        each live batch would be a storm of them. A live batch probes where the replay said that it has nothing.
        """
        if self.state is Database.UP:
            yield True
        elif self.state is Database.AWAY and (replaying or self._live_batch_may_probe):
            self._live_batch_may_probe = False
            with self._probing():
                yield True
        else:
            yield False

    @contextlib.asynccontextmanager
    async def turn(self, *, done: Callable[[], bool]) -> AsyncIterator[bool]:
        """Wait until this flush may try: at once while the database is up, else as the one probe, after its delay.

        Gives True to the probe. Gives up waiting when ``done`` returns True: see ``wake``. For a writer without a
        spool, whose records wait in the buffer.
        """
        if await self._wait_for_turn(done):
            try:
                with self._probing():
                    yield True
            finally:
                self._turn_is_taken = False
                self.wake()
        else:
            yield False

    def wake(self) -> None:
        """Let those that wait for their turn look again: something has changed."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def hurry(self) -> None:
        """Let the next probe begin at once, and the delays begin anew: the writer is closing."""
        self._failed_probes = 0
        self._hurried = True
        self.wake()

    def nothing_to_replay(self) -> None:
        """Let the next live batch probe: the replay has nothing to probe with."""
        self._live_batch_may_probe = True

    # -- what came of it

    def begin(self) -> int:
        """Return the number of an attempt to store records that begins now."""
        self.attempts += 1
        return self.attempts

    def stored_by(self, attempt: int) -> None:
        """Note that records went in."""
        self.stored += 1
        self._latest_stored = max(self._latest_stored, attempt)

    def took_others_since(self, attempt: int | None) -> bool:
        """Return True if an attempt that began after number ``attempt`` stored records.

        One that had begun before says nothing: whatever was refused since, all may be refused since.
        """
        return attempt is not None and self._latest_stored > attempt

    @contextlib.contextmanager
    def trying(self, *, failed: bool) -> Iterator[None]:
        """Count an attempt, of a batch that has ``failed`` before or not."""
        self._under_way += 1
        self._untried += not failed
        try:
            yield
        finally:
            self._under_way -= 1
            self._untried -= not failed

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Count a batch that waits for its next attempt."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Count a flush that keeps its connection and does nothing with it."""
        self._keeping += 1
        try:
            yield
        finally:
            self._keeping -= 1
            self.let_go += 1

    @property
    def someone_retries(self) -> bool:
        """True while a batch has failed and is tried again: it may be for want of a connection."""
        return self._resting + self._under_way - self._untried > 0

    def waits_for_another(self, exc: BaseException, *, let_go: int) -> bool:
        """Return True if ``exc`` says that no connection was left while another flush of this writer may have had one.

        ``let_go`` is that of the attempt's beginning.
        """
        if not out_of_connections(exc):
            return False
        if sqlstate_of(exc) is None:
            # in the pool others may wait as long as this one did, and as much in vain
            return self._untried > 0
        return self._under_way + self._keeping > 0 or self.let_go != let_go

    def attempt_failed(self, exc: BaseException, *, connecting: bool) -> None:
        """Note an attempt that failed.

        A statement that was refused may yet be a record's fault; a connection that was not had is the database's.
        """
        if self._absent_since is None:
            self._absent_since = self._clock()
        self.error = describe(exc)
        if connecting:
            self._log(exc)

    def retries_spent(self, exc: BaseException) -> None:
        """Note that a batch was given up because of ``exc``: the database is away."""
        if self._absent_since is None:
            self._absent_since = self._clock()
        if self.state is Database.UP:
            self.since = datetime.now(UTC)
        self.error = describe(exc)
        self.state = Database.AWAY
        self._live_batch_may_probe = False
        self._failed_probes += 1
        self._log(exc)

    def database_answered(self) -> None:
        """Note an attempt that succeeded, or was refused because of a record: the database is up."""
        if self._logged or self._dropped:
            log.warning("%s: writing again; %d records were dropped meanwhile", self._name, self._dropped)
        if self.state is not Database.UP:
            self.since = datetime.now(UTC)
        self._logged = False
        self.state = Database.UP
        self.error = None
        self._absent_since = None
        self._dropped = self._failed_probes = 0
        self.wake()

    def dropped(self, number: int, reason: str) -> None:
        """Count ``number`` records as dropped in this outage."""
        if not self._dropped:
            log.error("%s: dropping records, first %d of them: %s", self._name, number, reason)
        self._dropped += number

    # -- inside

    @contextlib.contextmanager
    def _probing(self) -> Iterator[None]:
        self.state = Database.PROBING
        try:
            yield
        finally:
            # cancelled, or without a batch to try: nothing was learnt
            if self.state is Database.PROBING:
                self.state = Database.AWAY

    async def _wait_for_turn(self, done: Callable[[], bool]) -> bool:
        """Return True once the turn of the probe is this flush's, False once the database is up or it is all done."""
        while self.state is not Database.UP and not done():
            if self._turn_is_taken:
                await self._change().wait()
                continue
            self._turn_is_taken = True
            try:
                if await self._still_away(self._delay(), done):
                    return True
            except BaseException:
                self._turn_is_taken = False
                self.wake()
                raise
            self._turn_is_taken = False
        return False

    def _delay(self) -> float:
        """Return the seconds to the next probe: they go on doubling where the retries ended."""
        attempt = max(0, self._options.max_retries + self._failed_probes - 1)
        return backoff(attempt, base=self._options.retry_base_delay, maximum=self._options.retry_max_delay)

    async def _still_away(self, seconds: float, done: Callable[[], bool]) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.state is not Database.UP and not done() and not self._hurried:
                    await self._change().wait()
        self._hurried = False
        return self.state is not Database.UP and not done()

    def _change(self) -> asyncio.Event:
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    def _log(self, exc: BaseException) -> None:
        if self._logged:
            return
        self._logged = True
        if failure_of(exc) is Kind.CONFIGURATION:
            log.error("%s: cannot write, %s: %s; %s", self._name, describe(exc), advice(exc), self._meanwhile)
        else:
            away = "the sink" if isinstance(exc, SinkUnavailable) else "the database"
            log.warning("%s: %s is away, %s: retrying; %s", self._name, away, describe(exc), self._meanwhile)

    @property
    def _meanwhile(self) -> str:
        if self._options.spool is not None:
            return "records go to the spool when the retries are spent"
        if self._options.give_up_after > 0:
            return f"records wait in the buffer, and are dropped after {self._options.give_up_after:g} s"
        return "records are dropped when the retries are spent"
