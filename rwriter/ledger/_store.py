"""A ``RequestStore`` that writes an entry of the ledger beside the rows of each batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rwriter._chain.entries import ID_BYTES, NOTHING_ODD, Entry, Kind, Outcome, packed
from rwriter.ledger._lanes import Lanes, written_by
from rwriter.records import CompletedRequest
from rwriter.store import PersistResult, RequestStore
from rwriter.store._connections import on_living_connection
from rwriter.store._dead_letters import bury

_MOST_DEAD: Final = 3


class LedgerStore(RequestStore):
    """Does what ``store`` does, over its connections, with entries of ``kind`` in free lanes."""

    def __init__(self, store: RequestStore, lanes: Lanes, kind: Kind) -> None:
        super().__init__(store._connections)  # noqa: SLF001 -- a store over another's
        self._lanes: Final = lanes
        self._kind: Final[Kind] = kind

    def build(self) -> None:
        """Build the statements, on a connected engine, as ``RequestStore.check_schema`` does those of a plain store."""
        self._persist.build(entry=True)

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        """Store finished requests and their entry in one statement. See ``RequestStore.persist_completed``."""
        batch = list(records)
        with self._lanes.one(self._connections) as lane:

            async def attempt() -> tuple[PersistResult, Outcome]:
                return await self._persist.with_entry(batch, lambda sorted_: lane.entry_of(self._kind, sorted_))

            done = await lane.write(lambda: on_living_connection(attempt, most_dead=_MOST_DEAD))
        return done if isinstance(done, PersistResult) else _result(len(batch), *done)

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        """Keep a refused record beside its entry. See ``RequestStore.bury``."""
        with self._lanes.one(self._connections) as lane:

            async def attempt() -> tuple[None, Outcome]:
                entry = lane.entry_of("dead", [record])
                is_there = await bury(self._connections, record, sqlstate=sqlstate, error=error, entry=entry)
                return None, NOTHING_ODD if is_there else Outcome(skipped=packed([record.request_id]))

            await lane.write(lambda: on_living_connection(attempt))


def _result(given: int, entry: Entry, outcome: Outcome) -> PersistResult:
    """Return the result of an attempt whose answer was lost."""
    written = written_by(entry, outcome)
    updated = len(outcome.begun) // ID_BYTES
    return PersistResult(len(written) - updated, updated, given - len(written), written)
