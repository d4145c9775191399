"""The mapped classes: the rows that the store writes, read through a SQLAlchemy session."""

from __future__ import annotations

from datetime import timedelta
from typing import get_type_hints

import pytest
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import MissingGreenlet, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import configure_mappers, selectinload

from rwriter import RequestStore
from rwriter.orm import Request, RequestTemplate
from rwriter.schema import NIL_DAEMON, request_templates, requests
from tests.support.records import STARTED, TOOK, new_request, record
from tests.support.rows import rows


@pytest.mark.both_schemas
async def test_a_stored_request_and_its_template_are_read_as_objects(store: RequestStore, engine: AsyncEngine) -> None:
    one = record(status_code=429, custom_id="resp_1", response_body="naïve 😀")
    await store.persist_completed([one])
    async with AsyncSession(engine) as session:
        found = (await session.scalars(select(Request).options(selectinload(Request.template)))).one()
    assert (found.id, found.state, found.response_status) == (one.request_id, "failed", 429)
    assert (found.response_body, found.custom_id, found.created_by) == ("naïve 😀", "resp_1", "tenant-a")
    assert (found.started_at, found.failed_at, found.completed_at) == (STARTED, STARTED + TOOK, None)
    assert (found.daemon_id, found.batch_id) == (NIL_DAEMON, None)
    template = found.template
    assert template is not None
    assert (template.id, template.body, template.path) == (found.template_id, one.request_body, "/v1/responses")
    assert template.api_key == one.api_key


async def test_objects_hold_every_column_of_the_row(store: RequestStore, engine: AsyncEngine) -> None:
    await store.create_realtime(new_request())
    async with AsyncSession(engine) as session:
        for mapped, table in ((Request, requests), (RequestTemplate, request_templates)):
            found = (await session.scalars(select(mapped))).one()
            (row,) = await rows(engine, table)
            for column in table.columns:
                assert getattr(found, column.name) == row[column.name]


@pytest.mark.parametrize(("mapped", "more"), [(Request, {"template"}), (RequestTemplate, set())])
def test_every_mapped_attribute_is_annotated_and_every_annotation_mapped(mapped: type, more: set[str]) -> None:
    configure_mappers()
    assert set(get_type_hints(mapped)) == set(inspect(mapped).all_orm_descriptors.keys())
    assert {name for name in get_type_hints(mapped) if name not in inspect(mapped).columns} == more


async def test_a_session_selects_by_attributes(store: RequestStore, engine: AsyncEngine) -> None:
    late = record(started_at=STARTED + timedelta(days=1), completed_at=STARTED + timedelta(days=1, seconds=1))
    await store.persist_completed([record(), late, record(created_by="tenant-z")])
    query = (
        select(Request.id)
        .join(Request.template)
        .where(Request.created_by == "tenant-a", RequestTemplate.path == "/v1/responses")
        .order_by(Request.created_at.desc())
        .limit(1)
    )
    async with AsyncSession(engine) as session:
        assert (await session.scalars(query)).all() == [late.request_id]
        assert await session.scalar(select(func.count()).select_from(Request)) == 3


async def test_a_template_that_was_not_asked_for_is_an_error_not_a_hidden_query(
    store: RequestStore, engine: AsyncEngine
) -> None:
    await store.persist_completed([record()])
    async with AsyncSession(engine) as session:
        found = (await session.scalars(select(Request))).one()
        # psycopg's dialect wraps it
        with pytest.raises((MissingGreenlet, StatementError), match="greenlet_spawn"):
            _ = found.template


@pytest.mark.plain_only
async def test_a_template_deleted_in_a_session_leaves_its_request(store: RequestStore, engine: AsyncEngine) -> None:
    one = record()
    await store.persist_completed([one])
    async with AsyncSession(engine) as session:
        template = (await session.scalars(select(RequestTemplate))).one()
        await session.delete(template)
        await session.commit()
    (row,) = await rows(engine, requests)
    assert (row["id"], row["template_id"]) == (one.request_id, None)


async def test_a_request_deleted_in_a_session_leaves_its_template(store: RequestStore, engine: AsyncEngine) -> None:
    one, other = record(), record()
    await store.persist_completed([one, other])
    async with AsyncSession(engine) as session:
        await session.delete(await session.get_one(Request, one.request_id))
        await session.commit()
    assert len(await rows(engine, request_templates)) == 2
    assert [row["id"] for row in await rows(engine, requests)] == [other.request_id]
