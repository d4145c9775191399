"""Look at the model server from inside, at what a client saw, and at rows as they are stored."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

from examples.gateway import model_server
from rwriter import RequestDetail, RequestFilter, RequestStore
from tests.support.driving import eventually

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Keys(NamedTuple):
    """The API keys of a test's two tenants, who are called as their keys are, without ``sk-``."""

    amber: str
    birch: str


class Watched:
    """The model server, with what has reached it: headers, questions, and those whose asker did not wait."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.questions: list[bytes] = []
        self.given_up: list[bytes] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        asked = b""

        async def heard() -> Message:
            nonlocal asked
            message = await receive()
            if message["type"] == "http.disconnect":
                self.given_up.append(asked)
            elif message.get("body"):
                asked += message["body"]
                self.questions.append(asked)
            return message

        self.headers += scope.get("headers", ())
        await model_server.app(scope, heard if scope["type"] == "http" else receive, send)

    async def has_heard(self, words: str) -> None:
        """Wait until a question with these words is there."""
        await eventually(lambda: any(words.encode() in question for question in self.questions))

    async def is_rid_of(self, words: str) -> None:
        """Wait until nobody waits for the answer to a question with these words."""
        await eventually(lambda: any(words.encode() in question for question in self.given_up))


class Seen(NamedTuple):
    """A call as a client saw it. ``usage`` is tokens in, out and together; ``calls`` are tools with arguments."""

    row: uuid.UUID
    upstream: str | None
    text: str
    usage: tuple[int, int, int]
    calls: tuple[tuple[str, Any], ...] = ()


async def done(value: Any) -> Any:
    """The value itself, or what awaiting it gives: calls of both kinds of client read the same."""
    return await value if inspect.isawaitable(value) else value


async def listed(stream: Any) -> list[Any]:
    """All that a stream, or a paginated list, of either kind gives."""
    if hasattr(stream, "__aiter__"):
        return [event async for event in stream]
    return list(stream)


def owner_of(key: str) -> str:
    """Return the owner of a key."""
    return key.removeprefix("sk-")


def row_of(raw: Any) -> uuid.UUID:
    """The row's id, which the gateway puts into every answer's headers."""
    given = raw.headers["x-rwriter-id"]
    assert given.startswith("resp_")
    return uuid.UUID(given.removeprefix("resp_"))


def seen_in_response(row: uuid.UUID, response: Any) -> Seen:
    """Return the call that OpenAI's ``Response`` tells of."""
    calls = tuple((item.name, item.arguments) for item in response.output if item.type == "function_call")
    usage = response.usage
    tokens = (usage.input_tokens, usage.output_tokens, usage.total_tokens)
    return Seen(row, response.id, response.output_text, tokens, calls)


async def stored(store: RequestStore, row: uuid.UUID, *, within: float = 20) -> RequestDetail:
    """The row, as soon as it is there and finished."""
    found: list[RequestDetail] = []

    async def look() -> bool:
        detail = await store.get_request(row, consistent=True)
        found[:] = [detail] if detail is not None and detail.status in {"completed", "failed"} else []
        return bool(found)

    await eventually(look, within=within)
    return found[0]


async def rows_of(store: RequestStore, key: str, count: int = 1) -> list[RequestDetail]:
    """All rows of a tenant, the latest first, as soon as there are ``count`` of them and all are finished."""
    ids: list[uuid.UUID] = []

    async def look() -> bool:
        page = await store.list_requests(RequestFilter(created_by=owner_of(key)), consistent=True)
        ids[:] = [row.id for row in page.data]
        return len(ids) >= count

    await eventually(look)
    return [await stored(store, row) for row in ids]


def body_of(detail: RequestDetail) -> dict[str, Any]:
    """The stored answer; a row without one fails the test."""
    assert detail.response_body is not None
    body: dict[str, Any] = json.loads(detail.response_body)
    return body
