"""A fake model server: OpenAI's and Anthropic's endpoints, byte for byte in their formats, always the same answers.

Answers repeat the question, or call every tool they are given. What a model does is in its name:

================= ====================================================================================================
``error-429``     answers with that status; any other from 400 to 599 likewise
``slow``          waits 2 seconds before a plain answer, and in the middle of a streamed one; ``slow-60`` for 60
``cut``           a stream stops in the middle, without its end marker
``stream-error``  a stream stops in the middle, with an error
``linger-60``     a stream stays open for 60 seconds after its end marker
anything else     answers
================= ====================================================================================================
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from examples.gateway import wire_chat, wire_messages, wire_responses
from examples.gateway.answers import Answer, compact, make_answer

Json = dict[str, Any]

KEY: Final = "sk-models-own"
"""The key this server wants; no client of the gateway has it."""

STEP: Final = 0.05
"""Seconds between two looks at whether the client of a slow model is still there."""

_COMPRESS_FROM: Final = 600
_SPECIAL: Final = re.compile(r"(error|slow|linger)(?:-(\d+))?")


class Dialect(NamedTuple):
    """The format of one endpoint. ``turns`` and ``limit`` are its names for the question and the longest answer."""

    turns: str
    limit: str
    whole: Callable[[Json, Answer], Json]
    pieces: Callable[[Json, Answer], Iterator[Json]]
    frame: Callable[[Json], bytes]
    broken: Callable[[int], Json]
    end: bytes
    error: Callable[[int, str], Json]


class Refusal(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _openai_error(status: int, text: str) -> Json:
    too_many = status == HTTPStatus.TOO_MANY_REQUESTS
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    code = "rate_limit_exceeded" if too_many else None
    return {"error": {"message": text, "type": "requests" if too_many else kind, "param": None, "code": code}}


def _only_whole(body: Json, _answer: Answer) -> Iterator[Json]:
    raise Refusal(HTTPStatus.BAD_REQUEST, f"{body['model']} does not stream embeddings.")


DIALECTS: Final = {
    "/v1/responses": Dialect(
        "input", "max_output_tokens", wire_responses.response, wire_responses.events,
        wire_responses.frame, wire_responses.error_event, b"", _openai_error,
    ),
    "/v1/chat/completions": Dialect(
        "messages", "max_completion_tokens", wire_chat.chat_completion, wire_chat.chat_chunks,
        wire_chat.frame, wire_chat.error_chunk, wire_chat.DONE, _openai_error,
    ),
    "/v1/completions": Dialect(
        "prompt", "max_tokens", wire_chat.text_completion, wire_chat.text_chunks,
        wire_chat.frame, wire_chat.error_chunk, wire_chat.DONE, _openai_error,
    ),
    "/v1/embeddings": Dialect(
        "input", "", lambda body, _: wire_chat.embeddings(body), _only_whole,
        wire_chat.frame, wire_chat.error_chunk, b"", _openai_error,
    ),
    "/v1/messages": Dialect(
        "messages", "max_tokens", wire_messages.message, wire_messages.events,
        wire_messages.frame, wire_messages.error_event, b"", wire_messages.error,
    ),
}  # fmt: skip


async def _handle(request: Request) -> Response:
    dialect = DIALECTS[request.url.path]
    try:
        _check_key(request)
        body = _checked(await request.body(), dialect)
        answer = make_answer(body, turns=body[dialect.turns], limit=body.get(dialect.limit))
        headers = {"x-request-id": f"req_{answer.key[:32]}"}
        if body.get("stream"):
            pieces = list(dialect.pieces(body, answer))
            return StreamingResponse(_stream(body, dialect, pieces), media_type="text/event-stream", headers=headers)
        await _wait(request, _seconds(body, "slow"))
        return _json(request, dialect.whole(body, answer), headers=headers)
    except Refusal as refusal:
        headers = {"retry-after": "1"} if refusal.status == HTTPStatus.TOO_MANY_REQUESTS else {}
        error = dialect.error(refusal.status, str(refusal))
        return _json(request, error, status=refusal.status, headers=headers)


app: Final = Starlette(routes=[Route(path, _handle, methods=["POST"]) for path in DIALECTS])


def _check_key(request: Request) -> None:
    given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    if given != KEY:
        raise Refusal(HTTPStatus.UNAUTHORIZED, "Incorrect API key provided.")


def _checked(raw: bytes, dialect: Dialect) -> Json:
    try:
        body = json.loads(raw)
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST, "We could not parse the JSON body of your request.") from None
    for name in ("model", dialect.turns):
        if not isinstance(body, dict) or name not in body:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"Missing required parameter: '{name}'.")
    special = _SPECIAL.fullmatch(body["model"])
    if special is not None and special[1] == "error":
        raise Refusal(int(special[2] or 500), f"The model {body['model']} always fails.")
    checked: Json = body
    return checked


async def _stream(body: Json, dialect: Dialect, pieces: list[Json]) -> AsyncIterator[bytes]:
    middle = len(pieces) // 2
    for piece in pieces[:middle]:
        yield dialect.frame(piece)
    if body["model"] == "cut":
        return
    if body["model"] == "stream-error":
        yield dialect.frame(dialect.broken(middle))
        return
    # where the client leaves meanwhile, the server ends it
    await asyncio.sleep(_seconds(body, "slow"))
    for piece in pieces[middle:]:
        yield dialect.frame(piece)
    yield dialect.end
    await asyncio.sleep(_seconds(body, "linger"))


async def _wait(request: Request, seconds: float) -> None:
    for _ in range(round(seconds / STEP)):
        if await request.is_disconnected():
            return
        await asyncio.sleep(STEP)


def _seconds(body: Json, kind: str) -> float:
    special = _SPECIAL.fullmatch(body["model"])
    return float(special[2] or 2) if special is not None and special[1] == kind else 0


def _json(request: Request, value: Json, *, status: int = 200, headers: dict[str, str]) -> Response:
    content = compact(value).encode()
    if len(content) >= _COMPRESS_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        # without a time in it: the same request is to get the same bytes
        content = gzip.compress(content, mtime=0)
        headers = headers | {"content-encoding": "gzip", "vary": "Accept-Encoding"}
    return Response(content, status, headers, media_type="application/json")
