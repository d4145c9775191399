"""A row says more than its bodies: paths, models, usage and metadata, as each provider tells them."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any

import pytest

from rwriter import CompletedRequest
from rwriter.asgi import PATHS
from rwriter.asgi._capture.facts import Asked, Said, id_in, metadata_of, model_in_form, read, tokens_of
from rwriter.asgi._capture.paths import Tracked, model_in, stored_path
from rwriter.asgi._types import Message, Receive, Scope, Send
from rwriter.records import METADATA_LIMIT
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import OWNER, Exchange, say
from tests.support.asgi_client import read as read_all

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("path", "tracked"),
    [
        ("/v1/responses/compact", True),
        ("/v1/messages/", True),
        ("/v1/account/gateway/openai/chat/completions", True),
        ("/openai/deployments/any/embeddings", True),
        ("/v1beta/models/g-2:generateContent", True),
        ("/v1/threads/t-1/messages", False),
        ("/api/conversations/7/messages", False),
        ("/v2/surveys/9/responses", False),
        ("/v1/messages/batches", False),
        ("/v1/mychat/completionsx", False),
    ],
)
def test_a_model_call_is_told_from_what_ends_alike(path: str, tracked: bool) -> None:
    assert (path in Tracked(PATHS.default | PATHS.gemini)) is tracked


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("/v1/responses/", "/v1/responses"),
        ("/", "/"),
        ("/p;api-key=abc/v1/responses", "/p;api-key=***/v1/responses"),
        ("/v1/responses?x=1&access_token=abc&y=2", "/v1/responses?x=1&access_token=***&y=2"),
        ("/sk-abcdefghijklmnop/v1/responses", "/***/v1/responses"),
        ("/tenant/own-secret/v1/responses", "/tenant/***/v1/responses"),
        ("/v1/models/key-lime/responses", "/v1/models/key-lime/responses"),
    ],
)
def test_a_key_in_a_path_is_not_stored(path: str, stored: str) -> None:
    assert stored_path(path, ["own-secret", "v1"]) == stored


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/openai/deployments/gpt-eu/chat/completions", "gpt-eu"),
        ("/v1beta/models/g-2.5:streamGenerateContent", "g-2.5"),
        ("/model/maker.model-v2:1/invoke", "maker.model-v2:1"),
        ("/v1/responses", None),
    ],
)
def test_a_path_may_name_the_model(path: str, model: str | None) -> None:
    assert model_in(path) == model


def test_a_form_may_name_the_model() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\nwhisper-2\r\n--b--'
    assert model_in_form(b"", part) == "whisper-2"
    assert model_in_form(part.replace(b'"model"', b'"models"')) is None


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ({"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}}, (3, None, 2, None)),
        ({"usage": {"completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 1}}}, (None, 4, None, 1)),
        ({"usage": {"input_tokens": 3, "output_tokens_details": {"reasoning_tokens": 1}}}, (3, None, None, 1)),
        ({"usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 9}}, (3, 4, 9, None)),
        ({"usage": {"inputTokens": 3, "outputTokens": 4, "cacheReadInputTokens": 1}}, (3, 4, 1, None)),
        ({"usageMetadata": {"promptTokenCount": 3, "thoughtsTokenCount": 5}}, (3, None, None, 5)),
        ({"usageMetadata": {"candidatesTokenCount": 4, "cachedContentTokenCount": 5}}, (None, 4, 5, None)),
        ({"amazon-bedrock-invocationMetrics": {"inputTokenCount": 3, "outputTokenCount": 4}}, (3, 4, None, None)),
        ({"x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, "usage": {}}, (3, 4, None, None)),
        ({"choices": [{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}]}, (3, 4, None, None)),
        ({"prompt_eval_count": 3, "eval_count": 4}, (3, 4, None, None)),
        ({"usage": {"prompt_tokens": 0, "input_tokens": 3}}, (3, None, None, None)),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 2**31, "input_tokens": True}}, (None,) * 4),
        ({"usage": "many"}, (None,) * 4),
    ],
    ids=str,
)  # fmt: skip
def test_usage_is_read_wherever_it_stands(answer: dict[str, Any], counts: tuple[int | None, ...]) -> None:
    found = tokens_of(read(json.dumps(answer), Said))
    fields = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    assert tuple(found.get(field) for field in fields) == counts


@pytest.mark.parametrize("text", ['\ufeff{"id":"x","model":"m"}', '{"id":"x","p":NaN,"q":[-Infinity],"model":"m"}'])
def test_what_a_strict_parser_refuses_costs_neither_id_nor_model(text: str) -> None:
    said = read(text, Said)
    assert (id_in(said), said.model) == ("x", "m")


def test_metadata_are_the_scalars_that_fit_and_a_trace_that_is_one() -> None:
    asked = Asked(metadata={"a": "b", "n": 1, "deep": {}, "traceparent": "forged", "huge": 2**70})
    assert metadata_of(asked, TRACE) == {"traceparent": TRACE, "a": "b", "n": 1}
    assert metadata_of(Asked(metadata=["a"]), "no trace") is None
    many = metadata_of(Asked(metadata={f"name-{number}": "x" * 500 for number in range(100)}), TRACE)
    assert many is not None
    assert METADATA_LIMIT - 1_000 < len(json.dumps(many, separators=(",", ":"))) <= METADATA_LIMIT


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await read_all(receive)
    await say(send, b'{"id":"r","usage":{"input_tokens":7,"output_tokens":2}}')


async def test_the_record_says_tokens_first_byte_and_trace(capture: Capture, rows: Rows) -> None:
    def keep(record: CompletedRequest) -> CompletedRequest:
        seen.append(record)
        return record

    seen: list[CompletedRequest] = []
    middleware = capture(answering, redact=keep)
    headers = [(b"traceparent", TRACE.encode())]
    await Exchange(middleware, b'{"metadata":{"team":"a"}}', headers=headers).run()
    await rows.one(middleware)
    (record,) = seen
    assert (record.input_tokens, record.output_tokens) == (7, 2)
    assert record.first_token_at is not None
    assert record.metadata == {"traceparent": TRACE, "team": "a"}


@pytest.mark.parametrize(("asked", "told"), [(b'{"store":false}', False), (b'{"store":true}', True), (b"{}", None)])
async def test_zero_retention_may_go_by_what_the_request_says(
    capture: Capture, rows: Rows, asked: bytes, told: bool | None
) -> None:
    def zdr(scope: Scope, created_by: str) -> bool:
        seen.append(scope["state"].get("rwriter_store"))
        return seen[-1] is False

    seen: list[bool | None] = []
    middleware = capture(answering, zdr=zdr)
    await Exchange(middleware, asked).run()
    row = await rows.one(middleware)
    assert (seen, row.body == "") == ([told], told is False)


async def test_what_stands_outside_may_write_into_the_messages(capture: Capture, rows: Rows) -> None:
    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        async def packing(message: Message) -> None:
            if "body" in message:
                message["body"] = zlib.compress(message["body"])
            await send(message)

        await middleware(scope, receive, packing)

    middleware = capture(answering)
    await Exchange(outside).run()
    assert (await rows.one(middleware)).response_body == '{"id":"r","usage":{"input_tokens":7,"output_tokens":2}}'


async def test_a_redirect_is_no_model_call(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"", status=307, headers=[(b"location", b"/v1/responses")])

    middleware = capture(app)
    await Exchange(middleware).run()
    assert await rows.all(middleware) == []
    assert middleware.stats.dropped == {"redirected": 1}


async def test_an_exception_that_names_a_status_gives_it_to_the_row(capture: Capture, rows: Rows) -> None:
    class Unavailable(Exception):
        status_code = 503

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise Unavailable

    middleware = capture(app)
    with pytest.raises(Unavailable):
        await Exchange(middleware).run()
    assert (await rows.one(middleware)).response_status == 503


async def test_flush_returns_when_every_answered_call_is_in_the_writer(capture: Capture) -> None:
    async def slow(api_key: str, scope: Scope) -> str:
        await lookup.wait()
        return OWNER

    lookup = asyncio.Event()
    middleware = capture(answering, attribute=slow)
    for _ in range(3):
        await Exchange(middleware, path="/v1/messages").run()
    assert not await middleware.flush(timeout=0.01)
    assert middleware.stats.pending == 3, "nothing is given up"
    lookup.set()
    assert await middleware.flush()
    assert middleware.stats.recorded == 3


async def test_bodies_that_cannot_be_made_into_a_record_leave_one_without(
    capture: Capture, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwriter.asgi._capture import call as call_module

    def broken(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(call_module, "read", broken)
    middleware = capture(answering)
    await Exchange(middleware, path="/v1/messages").run()
    row = await rows.one(middleware)
    assert (row.response_status, json.loads(row.body)["rwriter"]["envelope"]) == (200, "unreadable")
