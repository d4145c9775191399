"""The client receives the bytes and headers that it would without the middleware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest

from examples.gateway.model_server import DIALECTS
from examples.gateway.serving import Serving
from tests.gateway.calls import CLAUDE_TOOLS, FLAT_TOOLS, NESTED_TOOLS
from tests.gateway.watching import Keys

MODELS: Final = ("gpt-5", "error-400", "error-429", "error-500", "error-529", "cut", "stream-error", "slow-0")
QUESTION: Final = "Grüße 🙂 aus dem Süden"
TOOLS: Final = {
    "/v1/responses": FLAT_TOOLS,
    "/v1/chat/completions": NESTED_TOOLS,
    "/v1/messages": CLAUDE_TOOLS,
}
OTHER_BODIES: Final = [
    b"",
    b"{",
    b"[]",
    b'{"model":"gpt-5"}',
    b"\xff\xfe",
    b'{"model":"gpt-5","input":"' + b"x" * 200_000 + b'"}',
]


Received = tuple[int, list[tuple[bytes, bytes]], bytes]
Same = Callable[..., Received]


@pytest.fixture
def both(gateway: Serving, bare_gateway: Serving) -> Iterator[list[httpx.Client]]:
    """Clients of the gateway and of the bare one."""
    with (
        httpx.Client(base_url=gateway.url, timeout=30) as with_it,
        httpx.Client(base_url=bare_gateway.url, timeout=30) as without,
    ):
        yield [with_it, without]


def _received(client: httpx.Client, path: str, **request: Any) -> Received:
    """All of an answer but what may differ: the id, and the second in which it came."""
    with client.stream("POST", path, **request) as answer:
        body = b"".join(answer.iter_raw())
    headers = [(name.lower(), value) for name, value in answer.headers.raw]
    return answer.status_code, [pair for pair in headers if pair[0] not in {b"x-rwriter-id", b"date"}], body


@pytest.fixture
def same(both: list[httpx.Client], keys: Keys) -> Same:
    """Asks both gateways, asserts that they answer the same, and gives what they answer."""

    def ask(path: str, **request: Any) -> Received:
        headers = {"authorization": f"Bearer {keys.amber}", "accept-encoding": "identity"}
        request["headers"] = headers | request.get("headers", {})
        with_it, without = (_received(client, path, **request) for client in both)
        assert with_it == without
        return with_it

    return ask


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("path", DIALECTS)
def test_every_model_answers_the_same(same: Same, path: str, coding: str) -> None:
    question = {"input": QUESTION, "prompt": QUESTION, "messages": [{"role": "user", "content": QUESTION}]}
    statuses = set()
    for model in MODELS:
        for stream in (False, True):
            body = {"model": model, "stream": stream, "max_tokens": 99, **question}
            status, _, _ = same(path, headers={"accept-encoding": coding}, json=body)
            statuses.add(status)
    assert statuses == {200, 400, 429, 500, 529}


def test_a_compressed_answer_stays_compressed(same: Same) -> None:
    body = {"model": "gpt-5", "input": QUESTION}
    _, headers, _ = same("/v1/responses", headers={"accept-encoding": "gzip"}, json=body)
    assert (b"content-encoding", b"gzip") in headers
    _, headers, _ = same("/v1/responses", json=body)
    assert b"content-encoding" not in dict(headers)


@pytest.mark.parametrize("path", TOOLS)
def test_tools_are_called_the_same(same: Same, path: str) -> None:
    for stream in (False, True):
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": "m", "stream": stream, "n": 2, "input": QUESTION, "messages": messages, "tools": TOOLS[path]}
        assert b"weather" in same(path, json=body)[2]


@pytest.mark.parametrize("path", DIALECTS)
def test_bodies_that_are_no_question_get_the_same_refusal(same: Same, path: str) -> None:
    assert {same(path, content=content)[0] for content in OTHER_BODIES} <= {200, 400}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"authorization": ""}, 401), ({"authorization": "Bearer sk-unknown"}, 401), ({"x-api-key": "sk-unknown"}, 200)],
)
def test_keys_open_the_same_doors(same: Same, headers: dict[str, str], status: int) -> None:
    assert same("/v1/responses", headers=headers, json={"model": "gpt-5", "input": "x"})[0] == status


def test_a_question_in_pieces_is_answered_the_same(both: list[httpx.Client], keys: Keys) -> None:
    pieces = [b'{"model":"gpt-5",', b'"input":"', b"a" * 100_000, b'"}']
    answers = [
        _received(client, "/v1/responses", headers={"x-api-key": keys.amber}, content=iter(pieces)) for client in both
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


def test_a_query_reaches_the_model_server(same: Same) -> None:
    assert same("/v1/messages?beta=true", json={"model": "m", "messages": []})[0] == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", DIALECTS)
def test_other_methods_get_no_id(gateway: Serving, keys: Keys, path: str, method: str) -> None:
    answer = httpx.request(method, gateway.url + path, headers={"x-api-key": keys.amber})
    assert answer.status_code in {404, 405}
    assert "x-rwriter-id" not in answer.headers


def test_the_only_header_more_is_the_id(both: list[httpx.Client], keys: Keys) -> None:
    asked: Any = {"headers": {"x-api-key": keys.amber}, "json": {"model": "gpt-5", "input": "x"}}
    with_it, without = (client.post("/v1/responses", **asked) for client in both)
    assert set(with_it.headers) - set(without.headers) == {"x-rwriter-id"}
