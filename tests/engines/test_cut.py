"""Connections that die in the middle of an operation: its caller hears of nothing, and it happens once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest
from sqlalchemy.exc import InvalidRequestError

from rwriter import DbEngines, NewRequest, RequestStore, new_request_id
from rwriter._database_errors import Kind, failure_of, lost_connection, mark_connecting
from rwriter.errors import RequestExists
from rwriter.schema import requests
from rwriter.testing import TestDbEngines
from tests.chaos.commit_cutter import CommitCutter, Moment
from tests.support.faults import address_of
from tests.support.records import new_request, record
from tests.support.rows import rows

MOMENTS = [Moment.BEFORE, Moment.WITH, Moment.AFTER]


class Cut(NamedTuple):
    """A store over a line that is cut at the next commits, at the moments in ``moments``."""

    store: RequestStore
    moments: list[Moment]
    proxy: CommitCutter


@pytest.fixture
async def cut(rwriter_database: str) -> AsyncIterator[Cut]:
    moments: list[Moment] = []

    def next_moment() -> Iterator[Moment | None]:
        while True:
            yield moments.pop() if moments else None

    async with (
        CommitCutter(*address_of(rwriter_database), next_moment()) as proxy,
        DbEngines.from_url(proxy.url(rwriter_database)) as engines,
    ):
        store = RequestStore(engines)
        await store.create_realtime(new_request())
        await store.delete_request(new_request_id())
        yield Cut(store, moments, proxy)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_request_is_begun_once_wherever_its_connection_dies(
    cut: Cut, rwriter_engines: TestDbEngines, moment: Moment
) -> None:
    new = new_request()
    cut.moments.append(moment)
    await cut.store.create_realtime(new)
    assert cut.proxy.cuts[moment] == 1
    assert [row["id"] for row in await rows(rwriter_engines.write, requests)].count(new.request_id) == 1


@pytest.mark.parametrize("moment", MOMENTS)
async def test_an_id_that_was_there_is_refused_wherever_the_connection_dies(cut: Cut, moment: Moment) -> None:
    there = record(created_by="tenant-b")
    await cut.store.persist_completed([there])
    cut.moments.append(moment)
    with pytest.raises(RequestExists):
        await cut.store.create_realtime(NewRequest.before(there))
    assert cut.proxy.cuts[moment] == 1


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_deletion_tells_that_the_row_was_there_wherever_its_connection_dies(cut: Cut, moment: Moment) -> None:
    there = record()
    await cut.store.persist_completed([there])
    cut.moments.append(moment)
    assert await cut.store.delete_request(there.request_id)
    assert cut.proxy.cuts[moment] == 1
    assert await cut.store.get_request(there.request_id) is None
    assert not await cut.store.delete_request(there.request_id)


def test_a_pool_that_met_dead_connections_alone_is_no_fault_of_the_set_up() -> None:
    exhausted = InvalidRequestError("This connection is closed")
    assert not lost_connection(exhausted)
    assert failure_of(exhausted) is Kind.CONFIGURATION
    mark_connecting(exhausted)
    assert lost_connection(exhausted)
    assert failure_of(exhausted) is Kind.TRANSIENT
