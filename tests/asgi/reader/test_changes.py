from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import BadRequestError, InternalServerError, NotFoundError

from rwriter import NewRequest, RequestStore, RequestsWriter, Spool
from rwriter.asgi import responses_app
from rwriter.asgi._ids import response_id
from rwriter.schema import request_templates, requests
from tests.support.asgi_client import OWNER, owners
from tests.support.reading import STARTED, response_record
from tests.support.records import new_request
from tests.support.rows import one, rows
from tests.support.servers import database_away
from tests.support.serving import official_client, plain_client


def begun(**changes: object) -> NewRequest:
    """A background response of alice's that has just begun."""
    body = '{"input":"hello","background":true}'
    return new_request(**({"created_by": OWNER, "path": "/v1/responses", "body": body} | changes))


async def test_a_deleted_response_is_gone_with_its_template(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER, custom_id="resp_upstream")
    await store.persist_completed([finished])
    app = responses_app(store, attribute=owners)
    async with plain_client(app) as client:
        answer = await client.delete("/v1/responses/resp_upstream")
        assert answer.json() == {"id": "resp_upstream", "object": "response", "deleted": True}
        assert (await client.delete("/v1/responses/resp_upstream")).status_code == 404
    assert (
        await rows(store._connections.write, requests) == await rows(store._connections.write, request_templates) == []
    )


async def test_of_two_responses_under_one_id_the_one_that_is_shown_is_deleted(store: RequestStore) -> None:
    older = response_record(created_by=OWNER, custom_id="same", started_at=STARTED, completed_at=STARTED)
    newer = response_record(created_by=OWNER, custom_id="same")
    foreign = response_record(created_by="bob", custom_id="same")
    await store.persist_completed([newer, older, foreign])
    async with plain_client(responses_app(store, attribute=owners)) as client:
        for shown in (newer, older):
            assert await store.get_request(shown.request_id) is not None
            assert (await client.get("/v1/responses/same")).status_code == 200
            assert (await client.delete("/v1/responses/same")).status_code == 200
            assert await store.get_request(shown.request_id) is None
        assert (await client.get("/v1/responses/same")).status_code == 404
    assert await store.get_request(foreign.request_id) is not None


async def test_the_official_client_deletes_without_a_word(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    await store.persist_completed([finished])
    async with official_client(responses_app(store, attribute=owners)) as client:
        await client.responses.delete(response_id(finished.request_id))
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(response_id(finished.request_id))


async def test_a_deleted_response_does_not_come_back_from_the_buffer(store: RequestStore) -> None:
    finished = response_record(created_by=OWNER)
    async with RequestsWriter(store, linger=60) as writer:
        await writer.send(finished)
        async with plain_client(responses_app(store, writer=writer, attribute=owners)) as client:
            url = f"/v1/responses/{response_id(finished.request_id)}"
            assert (await client.delete(url)).status_code == 200
            assert (await client.get(url)).status_code == 404
        assert writer.stats.persisted == 1
    assert await rows(store._connections.write, requests) == []


async def test_a_record_that_is_only_in_the_spool_cannot_be_deleted_yet(tmp_path: Path) -> None:
    finished = response_record(created_by=OWNER)
    async with database_away() as engine:
        store = RequestStore(engine)
        spool = Spool(tmp_path)
        async with RequestsWriter(store, spool=spool, max_retries=0, check_schema=False) as writer:
            await writer.send(finished)
            await writer.flush(timeout=20)
            app = responses_app(store, writer=writer, attribute=owners, settle_timeout=0.2)
            async with official_client(app) as client:
                asked = response_id(finished.request_id)
                assert (await client.responses.retrieve(asked)).output_text == "hi there"
                with pytest.raises(InternalServerError) as refused:
                    await client.responses.delete(asked)
                assert (refused.value.status_code, refused.value.response.headers["retry-after"]) == (503, "5")
                assert (await client.responses.retrieve(asked)).output_text == "hi there"


async def test_the_official_client_cancels_a_background_response(store: RequestStore) -> None:
    new = begun()
    await store.create_realtime(new)
    async with official_client(responses_app(store, attribute=owners)) as client:
        response = await client.responses.cancel(response_id(new.request_id))
        assert (response.id, response.status, response.background) == (response_id(new.request_id), "cancelled", True)
        assert response == await client.responses.retrieve(response_id(new.request_id))
        assert response == await client.responses.cancel(response_id(new.request_id))
    row = await one(store._connections.write, requests)
    assert (row["state"], row["response_status"], row["created_by"]) == ("failed", 499, OWNER)
    # what was asked stays as it was
    assert (await one(store._connections.write, request_templates))["body"] == new.body


async def test_what_a_cancelled_response_still_answers_comes_too_late(store: RequestStore) -> None:
    new = begun()
    await store.create_realtime(new)
    async with plain_client(responses_app(store, attribute=owners)) as client:
        url = f"/v1/responses/{response_id(new.request_id)}"
        await client.post(f"{url}/cancel")
        result = await store.persist_completed([response_record(request_id=new.request_id, created_by=OWNER)])
        assert result.skipped == 1
        assert (await client.get(url)).json()["status"] == "cancelled"


async def test_a_finished_background_response_is_answered_as_it_is(store: RequestStore) -> None:
    new = begun()
    await store.create_realtime(new)
    await store.persist_completed([response_record(request_id=new.request_id, created_by=OWNER)])
    async with official_client(responses_app(store, attribute=owners)) as client:
        response = await client.responses.cancel(response_id(new.request_id))
    assert (response.status, response.output_text, response.background) == ("completed", "hi there", True)


async def test_one_that_finished_while_its_row_waits_is_not_cancelled_any_more(store: RequestStore) -> None:
    new = begun()
    await store.create_realtime(new)
    async with RequestsWriter(store, linger=60) as writer:
        await writer.send(response_record(request_id=new.request_id, created_by=OWNER, request_body=new.body))
        async with official_client(responses_app(store, writer=writer, attribute=owners)) as client:
            response = await client.responses.cancel(response_id(new.request_id))
    assert (response.status, response.output_text) == ("completed", "hi there")
    assert (await one(store._connections.write, requests))["state"] == "completed"


async def test_only_background_responses_can_be_cancelled(store: RequestStore) -> None:
    new, finished = begun(body='{"input":"hello"}'), response_record(created_by=OWNER)
    await store.create_realtime(new)
    await store.persist_completed([finished])
    async with official_client(responses_app(store, attribute=owners)) as client:
        for request_id in (new.request_id, finished.request_id):
            with pytest.raises(BadRequestError) as refused:
                await client.responses.cancel(response_id(request_id))
            assert refused.value.type == "invalid_request_error"
    assert (await one(store._connections.write, requests, new.request_id))["state"] == "processing"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_the_task_that_works_on_it_here_is_stopped(
    store: RequestStore, writer: RequestsWriter, method: str
) -> None:
    new = begun()
    await store.create_realtime(new)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # as the middleware records the end of a call
            await writer.send(response_record("", request_id=new.request_id, created_by=OWNER, status_code=499))

    task = asyncio.create_task(work())
    writer.in_flight.add_response(new.request_id, task)
    await asyncio.sleep(0)
    url = f"/v1/responses/{response_id(new.request_id)}"
    async with plain_client(responses_app(store, writer=writer, attribute=owners)) as client:
        answer = await client.request(method, url + ("/cancel" if method == "POST" else ""))
        assert answer.status_code == 200
        assert task.cancelled()
        await writer.flush(timeout=20)
        after = await client.get(url)
    if method == "POST":
        assert after.json()["status"] == "cancelled"
    else:
        assert after.status_code == 404
        # a blanked row stays, or what the task says of its end would come back as a row
        (left,) = await rows(store._connections.write, requests)
        assert (left["state"], left["response_body"], left["created_by"]) == ("canceled", None, "")
