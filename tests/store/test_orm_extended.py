"""``rwriter.orm`` beside a service's models: what prints, what is awaited, and one ``MetaData`` for both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args, get_type_hints

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import load_only

from rwriter import RequestFilter, RequestStore, RequestSummary
from rwriter.orm import Request, RequestTemplate
from rwriter.schema import STATES, State
from tests.docs.pages import noted
from tests.support.migrations import run
from tests.support.records import record

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "orm.md"

SHARED = """
import asyncio, os
from sqlalchemy.orm import configure_mappers
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from rwriter import DbEngines, migrate

def proposed(connection):
    opts = {"include_name": migrate.include_name, "include_object": migrate.include_object}
    found = compare_metadata(MigrationContext.configure(connection, opts=opts), Base.metadata)
    print([(kind, getattr(thing, "name", thing)) for kind, thing, *_ in found])
    Base.metadata.create_all(connection)

async def main():
    url = os.environ["RWRITER_DATABASE_URL"]
    async with DbEngines.from_url(url) as engines:
        async with engines.write.begin() as connection:
            await connection.run_sync(proposed)
        await migrate.check(url)
    configure_mappers()
    print(Request.orders.property.mapper.class_.__name__)

asyncio.run(main())
"""


async def test_an_object_prints_no_body_and_no_key_and_asks_for_nothing(
    store: RequestStore, engine: AsyncEngine
) -> None:
    one = record(request_body="a secret question", response_body="a secret answer", api_key="sk-secret")
    await store.persist_completed([one])
    async with AsyncSession(engine) as session:
        found = (await session.scalars(select(Request))).one()
        template = await found.awaitable_attrs.template
        printed = f"{found!r} {template!r}"
        assert str(one.request_id) in printed
        assert "state='completed', created_by='tenant-a'" in printed
        assert "path='/v1/responses'" in printed
        assert "secret" not in printed
        assert "sha256" not in printed

        session.expire(found)
        assert repr(found) == "Request()"
        part = (await session.scalars(select(RequestTemplate).options(load_only(RequestTemplate.id)))).one()
        session.expunge(part)
        assert str(one.request_id) in repr(part)


async def test_names_of_a_shared_metadata_are_no_drift_and_only_the_services_own_are_proposed(
    rwriter_database: str,
) -> None:
    done = run(
        sys.executable, "-W", "error", "-c", noted(PAGE, "example: shared metadata") + SHARED, url=rwriter_database
    )
    assert done.stdout.splitlines() == ["[('add_table', 'orders')]", "Order"]


def test_states_are_literals_of_all_six() -> None:
    assert set(get_args(State)) == set(STATES)
    assert get_type_hints(RequestSummary)["status"] == State
    assert get_type_hints(RequestFilter)["status"] == State | None
