"""What a writer does on start with a database that is not at its release's revision."""

from __future__ import annotations

import pytest

from rwriter import RequestsWriter, SchemaOutdated
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import ODD_SCHEMA, column, engine_on, execute
from tests.support.records import record


async def test_an_empty_database_stops_the_writer_with_the_command_to_run(empty_database: str) -> None:
    async with engine_on(empty_database) as engine:
        writer = RequestsWriter(engine)
        with pytest.raises(SchemaOutdated, match=f"no revision.*{HEAD_REVISION}.*`rwriter migrate`"):
            await writer.__aenter__()


async def test_an_older_database_stops_the_writer_with_both_revisions(rwriter_database: str) -> None:
    await execute(rwriter_database, "UPDATE rwriter_alembic_version SET version_num = 'rwriter_0000'")
    async with engine_on(rwriter_database) as engine:
        writer = RequestsWriter(engine)
        with pytest.raises(SchemaOutdated, match=f"rwriter_0000.*{HEAD_REVISION}.*`rwriter migrate`"):
            await writer.__aenter__()


async def test_tables_in_another_schema_do_not_count(rwriter_database: str) -> None:
    async with engine_on(rwriter_database) as engine:
        writer = RequestsWriter(engine.execution_options(schema_translate_map={None: ODD_SCHEMA}))
        with pytest.raises(SchemaOutdated, match="`rwriter migrate`"):
            await writer.__aenter__()


@pytest.mark.parametrize("revision", [HEAD_REVISION, "rwriter_0099"])
async def test_a_database_at_head_or_of_a_later_release_is_written_to(rwriter_database: str, revision: str) -> None:
    await execute(rwriter_database, f"UPDATE rwriter_alembic_version SET version_num = '{revision}'")
    given = record()
    async with engine_on(rwriter_database) as engine, RequestsWriter(engine) as writer:
        await writer.send(given, wait="committed")
    assert await column(rwriter_database, "SELECT id FROM requests") == [given.request_id]
