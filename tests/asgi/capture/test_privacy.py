"""Zero data retention, and the redaction hook: what may not be kept is nowhere."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from sqlalchemy import select, text

from rwriter import CompletedRequest, DbEngines, RequestsWriter, Spool
from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._types import Receive, Scope, Send
from rwriter.records import decode_record
from rwriter.schema import dead_letters
from rwriter.testing import TestDbEngines
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import DONE, OWNER, SSE, Exchange, begin, chunk, owners, part, read, say
from tests.support.driving import eventually
from tests.support.records import new_request


class Kit(NamedTuple):
    """Helpers of these tests."""

    capture: Capture
    rows: Rows
    engines: TestDbEngines


@pytest.fixture
def kit(capture: Capture, rows: Rows, rwriter_engines: TestDbEngines) -> Kit:
    return Kit(capture, rows, rwriter_engines)


WORDS = "s3cr3t-words"
ASKED = b'{"model":"gpt-test","input":"' + WORDS.encode() + b'"}'


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await say(send, b'{"id":"resp_up","output":"' + WORDS.encode() + b'"}')


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await say(send, b'{"error":{"message":"' + WORDS.encode() + b'"}}', status=400)


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await begin(send, headers=SSE)
    await part(send, chunk(WORDS))
    raise ValueError(WORDS)


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await say(send, chunk(WORDS), DONE, headers=SSE)


def everything(scope: Scope, created_by: str) -> bool:
    return True


async def slowly_everything(scope: Scope, created_by: str) -> bool:
    await asyncio.sleep(0)
    return created_by == OWNER


def broken(scope: Scope, created_by: str) -> bool:
    raise ValueError(WORDS)


@pytest.mark.parametrize("zdr", [everything, slowly_everything, broken])
@pytest.mark.parametrize(
    ("app", "status"),
    [(answering, 200), (failing, 400), (raising, 500), (streaming, 200)],
    ids=["answered", "refused", "raised", "streamed"],
)
async def test_with_zero_retention_there_is_a_row_without_a_word(
    kit: Kit, caplog: pytest.LogCaptureFixture, zdr: Any, app: Any, status: int
) -> None:
    middleware = kit.capture(app, zdr=zdr)
    try:
        await Exchange(middleware, ASKED).run()
    except ValueError:
        assert app is raising
    row = await kit.rows.one(middleware)
    assert (row.response_status, row.model, row.created_by, row.path) == (status, "gpt-test", OWNER, "/v1/responses")
    assert (row.body, row.response_body) == ("", "")
    assert row.duration_ms is not None
    assert WORDS not in await everything_stored(kit.engines)
    assert WORDS not in caplog.text


def only_bob(scope: Scope, created_by: str) -> bool:
    return created_by == "bob"


async def everything_stored(engines: TestDbEngines) -> str:
    async with engines.write.connect() as connection:
        found = [
            str((await connection.execute(text(f"SELECT coalesce(json_agg(t)::text, '') FROM {table} t"))).scalar_one())
            for table in ("requests", "request_templates", "dead_letters")
        ]
    return "".join(found)


async def test_zero_retention_is_decided_call_by_call(capture: Capture, rows: Rows) -> None:
    middleware = capture(answering, zdr=only_bob)
    await Exchange(middleware, ASKED).run()
    await Exchange(middleware, ASKED, key="sk-bob").run()
    kept, blank = await rows.all(middleware)
    assert WORDS in kept.body
    assert (blank.body, blank.created_by) == ("", "bob")


async def test_zero_retention_holds_in_the_spool_too(tmp_path: Path) -> None:
    async with DbEngines.from_url("postgresql://nobody@127.0.0.1:1/none") as away:
        writer = RequestsWriter(
            away, spool=Spool(tmp_path), durability="journal", max_retries=0, check_schema=False, drain_timeout=0
        )
        async with writer:
            middleware = CaptureMiddleware(answering, writer, attribute=owners, zdr=everything)
            await Exchange(middleware, ASKED).run()
            await middleware.aclose()
            await eventually(lambda: writer.stats.spooled == 1)
    with sqlite3.connect(tmp_path / "spool.sqlite3") as db:
        [(payload,)] = db.execute("SELECT payload FROM records").fetchall()
    spooled = decode_record(payload)
    assert (spooled.request_body, spooled.response_body, spooled.model) == ("", "", "gpt-test")
    assert all(WORDS.encode() not in file.read_bytes() for file in tmp_path.iterdir())


async def test_zero_retention_holds_in_dead_letters_and_logs(
    capture: Capture, writer: RequestsWriter, rwriter_engines: TestDbEngines, caplog: pytest.LogCaptureFixture
) -> None:
    async with rwriter_engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CHECK (model <> 'gpt-test')"))
    middleware = capture(answering, zdr=everything)
    await Exchange(middleware, ASKED).run()
    await middleware.aclose()
    await writer.flush(timeout=20)
    assert writer.stats.dead == 1
    async with rwriter_engines.write.connect() as connection:
        letter = (await connection.execute(select(dead_letters))).mappings().one()
    assert WORDS.encode() not in letter["payload"]
    assert WORDS not in letter["error"]
    assert WORDS not in caplog.text


async def test_a_begun_row_keeps_no_word_either(capture: Capture, rows: Rows, rwriter_engines: TestDbEngines) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert WORDS in (await read(receive)).decode()
        seen.append(await everything_stored(rwriter_engines))
        await answering(scope, receive, send)

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, WORDS.encode())

    seen: list[str] = []
    middleware = capture(app, zdr=everything)
    await Exchange(middleware, ASKED[:-1] + b',"background":true}').run()
    row = await rows.one(middleware)
    assert (row.status, row.body, row.response_body) == ("completed", "", "")
    assert "processing" in seen[0]
    assert WORDS not in seen[0]


def mask(record: CompletedRequest) -> CompletedRequest:
    return msgspec.structs.replace(
        record,
        request_body=record.request_body.replace(WORDS, "***"),
        response_body=record.response_body.replace(WORDS, "***"),
    )


async def slow_mask(record: CompletedRequest) -> CompletedRequest:
    await asyncio.sleep(0)
    return mask(record)


@pytest.mark.parametrize("redact", [mask, slow_mask])
@pytest.mark.parametrize("background", [False, True])
async def test_the_hook_sees_every_record_before_it_is_stored(
    capture: Capture, rows: Rows, rwriter_engines: TestDbEngines, redact: Any, background: bool
) -> None:
    middleware = capture(answering, redact=redact)
    asked = ASKED[:-1] + (b',"background":true}' if background else b"}")
    await Exchange(middleware, asked).run()
    row = await rows.one(middleware)
    assert row.body == asked.decode().replace(WORDS, "***")
    assert row.response_body == '{"id":"resp_up","output":"***"}'
    assert WORDS not in await everything_stored(rwriter_engines)


@pytest.mark.parametrize(
    "answer", [None, "text", new_request(), ValueError(WORDS)], ids=["none", "text", "begun", "raised"]
)
async def test_where_the_hook_fails_nothing_of_the_bodies_is_kept(
    capture: Capture, rows: Rows, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    def redact(record: CompletedRequest) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    middleware = capture(answering, redact=redact)
    await Exchange(middleware, ASKED).run()
    row = await rows.one(middleware)
    assert (row.status, row.body, row.response_body) == ("completed", "", "")
    assert "redact failed" in caplog.text
    assert WORDS not in caplog.text


async def test_the_hook_cannot_give_a_record_anothers_row(capture: Capture, rows: Rows) -> None:
    other = Exchange(capture(answering))
    await other.run()

    def redact(record: CompletedRequest) -> CompletedRequest:
        return msgspec.structs.replace(record, request_id=other.scope["state"]["rwriter_request_id"])

    middleware = capture(answering, redact=redact)
    exchange = await Exchange(middleware, ASKED).run()
    assert (await rows.all(middleware))[-1].id == exchange.scope["state"]["rwriter_request_id"]


async def test_the_hook_may_rename_the_owner_of_a_finished_call(capture: Capture, rows: Rows) -> None:
    middleware = capture(answering, redact=lambda record: msgspec.structs.replace(record, created_by="pseudonym"))
    await Exchange(middleware).run()
    assert (await rows.one(middleware)).created_by == "pseudonym"
