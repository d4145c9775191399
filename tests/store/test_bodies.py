"""Bodies come back byte for byte: arbitrary text, large text, and sizes in UTF-8 bytes."""

from __future__ import annotations

import base64
import json
import random

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rwriter import RequestStore
from rwriter.engines._urls import connect_arguments
from rwriter.schema import request_templates, requests
from tests.support.records import new_request, record
from tests.support.rows import one, rows, template_of
from tests.support.sizes import MIB

# every code point that Python has, NUL and lone surrogates among them
ANY_TEXT = st.text(st.characters(exclude_categories=()))
OFTEN = settings(
    max_examples=50,
    deadline=None,
    # the database is shared by the examples; each makes a row of its own
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def repaired(text: str) -> str:
    """Return what PostgreSQL can hold of ``text``, by other means than the library: surrogates in a pair are one."""
    paired = text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
    return "".join("\ufffd" if character == "\0" else character for character in paired)


@OFTEN
@given(bodies=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=20))
@example(bodies=[("\0", "\ud800"), ("\udc00\ud83d", "\ud83d\ude00")])
@example(bodies=[('\\u0000"', "{NULL,\"a\",'b'}\\"), ("\r\n\u2028\ufeff", " \t "), ("NULL", "null")])
async def test_any_text_comes_back_as_given_but_for_what_cannot_be_stored(
    store: RequestStore, engine: AsyncEngine, bodies: list[tuple[str, str]]
) -> None:
    batch = [record(request_body=asked, response_body=answered, status_code=422) for asked, answered in bodies]
    await store.persist_completed(batch)

    stored = {row["id"]: row for row in await rows(engine, requests, *(each.request_id for each in batch))}
    templates = {row["id"]: row for row in await rows(engine, request_templates)}
    for given_record, (asked, answered) in zip(batch, bodies, strict=True):
        row = stored[given_record.request_id]
        template = templates[row["template_id"]]
        assert (row["response_body"], template["body"]) == (repaired(answered), repaired(asked))
        assert row["response_size"] == len(row["response_body"].encode())
        assert template["body_byte_size"] == len(template["body"].encode())
        envelope = {"type": "NonRetriableHttpStatus", "details": {"status": 422, "body": row["response_body"]}}
        assert row["error"] == json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


@OFTEN
@given(names=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=20))
async def test_any_name_can_be_stored(store: RequestStore, engine: AsyncEngine, names: list[tuple[str, str]]) -> None:
    batch = [
        record(model=name, endpoint=name, custom_id=name[:512], created_by=f"x{owner}"[:512]) for name, owner in names
    ]
    await store.persist_completed(batch)

    found = {row["id"]: row for row in await rows(engine, requests, *(each.request_id for each in batch))}
    paths = {row["id"]: row["path"] for row in await rows(engine, request_templates)}
    for stored in batch:
        row = found[stored.request_id]
        assert [row[name] for name in ("model", "custom_id", "created_by")] == [
            stored.model, stored.custom_id, stored.created_by,
        ]  # fmt: skip
        assert paths[row["template_id"]] == stored.endpoint


@OFTEN
@given(body=ANY_TEXT)
async def test_any_body_of_a_begun_request_comes_back(store: RequestStore, engine: AsyncEngine, body: str) -> None:
    new = new_request(body=body)
    await store.create_realtime(new)
    template = await template_of(engine, new.request_id)
    assert (template["body"], template["body_byte_size"]) == (repaired(body), len(repaired(body).encode()))


@pytest.mark.parametrize("megabytes", [1, 20])
async def test_large_bodies_come_back_whole(store: RequestStore, engine: AsyncEngine, megabytes: int) -> None:
    # 4 bytes, 2 bytes and an escape in every unit: sizes in characters, bytes and JSON all differ
    unit = 'ä🎉"\n'
    body = unit * (megabytes * 1_000_000 // len(unit.encode()))
    stored = record(request_body=body, response_body=body, status_code=500)

    await store.persist_completed([stored])

    row, template = await one(engine, requests), await one(engine, request_templates)
    quote = json.loads(row["error"])["details"]["body"]
    assert 64 * 1024 - 4 < len(quote.encode()) <= 64 * 1024
    # compared outside of assert: a difference of 20 MB would take pytest minutes to print
    same = (row["response_body"] == body, template["body"] == body, body.startswith(quote))
    assert same == (True, True, True)
    assert row["response_size"] == template["body_byte_size"] == megabytes * 1_000_000
    detail = await store.get_request(stored.request_id)
    assert detail is not None
    assert (detail.body == body, detail.response_body == body) == (True, True)


async def test_bodies_are_cut_to_as_many_characters_as_are_asked_for(store: RequestStore) -> None:
    stored = record(request_body="äöü\u20ac\U0001f600", response_body="no!", status_code=500, custom_id="chatcmpl-1")
    await store.persist_completed([stored])
    whole = await store.get_request(stored.request_id)
    assert whole is not None
    assert whole.response_body is not None
    assert whole.error is not None
    for limit in (0, 1, 3, 10):
        cut = msgspec.structs.replace(
            whole, body=whole.body[:limit], response_body=whole.response_body[:limit], error=whole.error[:limit]
        )
        assert await store.get_request(stored.request_id, body_limit=limit) == cut
        assert await store.find_request("chatcmpl-1", stored.created_by, body_limit=limit) == cut
    with pytest.raises(ValueError, match=r"body_limit must be at least 0, not -1"):
        await store.get_request(stored.request_id, body_limit=-1)


async def test_of_a_cut_body_the_server_reads_its_beginning_alone(database: str) -> None:
    url, connect_args = connect_arguments(database)
    # one connection: its own counts are known at once
    engine = create_async_engine(url, connect_args=connect_args, pool_size=1, max_overflow=0)
    store = RequestStore(engine)
    stored = record(request_body=incompressible(1 * MIB), response_body=incompressible(1 * MIB))
    await store.persist_completed([stored])

    async def blocks_of(body_limit: int | None) -> int:
        before = await _toast_blocks(engine)
        assert await store.get_request(stored.request_id, body_limit=body_limit) is not None
        return await _toast_blocks(engine) - before

    beginnings, whole = [await blocks_of(0), await blocks_of(100)], await blocks_of(None)
    await engine.dispose()
    assert whole >= 2 * MIB // 8192
    assert max(beginnings) * 10 < whole


def incompressible(size: int) -> str:
    """Return a text of ``size`` characters that no compression makes much smaller: the same one each time."""
    return base64.b85encode(random.Random(size).randbytes(size)).decode()[:size]  # noqa: S311 -- no secret


async def _toast_blocks(engine: AsyncEngine) -> int:
    counted = text("SELECT sum(toast_blks_read + toast_blks_hit)::bigint FROM pg_statio_user_tables")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
        await connection.commit()
        return int((await connection.execute(counted)).scalar_one())
