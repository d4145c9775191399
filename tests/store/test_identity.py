"""A spool is stamped with the database, however it is reached, and with the schema of the tables."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter import DbEngines, RequestStore
from rwriter.engines._urls import connect_arguments
from tests.support.faults import proxy_to


@pytest.mark.both_schemas("RequestStore.identity")
async def test_the_identity_is_the_same_by_whatever_way(store: RequestStore, database: str, schema: str | None) -> None:
    async with proxy_to(database) as proxy, DbEngines.from_url(proxy.url(database), schema=schema) as engines:
        assert await RequestStore(engines).identity() == await store.identity()


async def test_another_database_and_another_schema_have_another_identity(
    store: RequestStore, database: str, empty_database: str
) -> None:
    async with DbEngines.from_url(empty_database) as other, DbEngines.from_url(database) as here:
        identities = [
            await store.identity(),
            await RequestStore(other).identity(),
            await RequestStore(here, schema="elsewhere").identity(),
        ]
    assert len(set(identities)) == 3


async def test_a_role_that_may_not_ask_the_cluster_is_told_the_database(engine: AsyncEngine, database: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP ROLE IF EXISTS rwriter_without_cluster"))
        await connection.execute(text("CREATE ROLE rwriter_without_cluster LOGIN"))
        await connection.execute(text("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"))
    try:
        url, arguments = connect_arguments(database)
        limited = create_async_engine(
            url.set(username="rwriter_without_cluster"), connect_args=arguments, poolclass=NullPool
        )
        assert (url.database or "?") in await RequestStore(limited).identity()
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC"))
            await connection.execute(text("DROP ROLE rwriter_without_cluster"))
