"""``responses_app``: HTTP routes that read captured requests back the way the official clients ask for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import ExceptionHandler, Scope

from rwriter._validation import at_least
from rwriter.asgi import _json
from rwriter.asgi._attribution import Attribute, Attribution
from rwriter.asgi._reader.openapi import document
from rwriter.asgi._reader.problems import Problem, database_or_503, not_found, unauthenticated, unavailable
from rwriter.asgi._reader.query import starting_after_in, stream_in
from rwriter.asgi._reader.reader import PIECE_BYTES, Reader
from rwriter.store import RequestDetail, RequestStore
from rwriter.writer import RequestsWriter

if TYPE_CHECKING:
    from rwriter.archive import ArchiveStore

_Endpoint = Callable[[Request], Awaitable[Response]]

CHAIN_BYTES: Final = 64 * 1024 * 1024
OPENAPI: Final = "/openapi.json"

log = logging.getLogger("rwriter")


def responses_app(  # noqa: PLR0913 -- the options described below, keyword-only
    store: RequestStore,
    *,
    writer: RequestsWriter | None = None,
    archive: ArchiveStore | None = None,
    attribute: Attribute,
    prefix: str = "/v1",
    attribution_ttl: float = 300.0,
    lookup_timeout: float = 10.0,
    settle_timeout: float = 5.0,
    stream_timeout: float = 300.0,
) -> ResponsesApp:
    """Make an app that reads captured requests back. Mount it at "/", after the service's own routes.

    ======================================== ==========================================================================
    ``GET {prefix}/responses/{id}``          the Response object; ``?stream=true`` its events, ``starting_after`` one
    ``DELETE {prefix}/responses/{id}``       ``{"id", "object": "response", "deleted": true}``
    ``POST {prefix}/responses/{id}/cancel``  cancels a background response
    ``GET .../responses/{id}/input_items``   what it was given: ``limit``, ``order``, ``after``
    ``GET {prefix}/responses``               the owner's, newest first: ``limit``, ``after``, ``model``, ``status``
    ``GET {prefix}/chat/completions/{id}``   the chat completion as it was answered (404 for one that failed)
    ``GET /openapi.json``                    these routes, for tools; the only one that asks for no key
    ======================================== ==========================================================================

    ``attribute`` says whose a key is, as for ``CaptureMiddleware``, and is remembered for ``attribution_ttl`` seconds;
    one answer of it may take ``lookup_timeout`` seconds (then 503).
    401 comes before anything is looked at, then 404 for a bad, an unknown and a foreign id alike. With the ``writer``
    a response is found before it is stored, a background response of this process is stopped when it is cancelled, and
    a deletion waits up to ``settle_timeout`` seconds for a record that is still on its way (then 503). A stream waits
    up to ``stream_timeout`` seconds for its response to finish. 503 with Retry-After while the database is away.

    With an ``archive`` what is not in the database is looked for there, and listed. What is archived is not deleted by
    itself: 409.

    A path may end with a slash. ``app.chain(id, created_by)`` gives the service itself a response and those before it.

    Raises ``ValueError`` naming an option that cannot be used.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        msg = f"prefix must begin with / and not end with it, or be empty, not {prefix!r}"
        raise ValueError(msg)
    for option, value in (("settle_timeout", settle_timeout), ("stream_timeout", stream_timeout)):
        at_least(option, value, 0)
    reader = Reader(store, writer, archive, settle_timeout=settle_timeout, stream_timeout=stream_timeout)
    return _Routes(reader, Attribution(attribute, ttl=attribution_ttl, timeout=lookup_timeout), prefix).app()


class ResponsesApp(Starlette):
    """The app that ``responses_app`` makes: its routes, and ``chain`` for the service itself."""

    def __init__(
        self, reader: Reader, routes: Sequence[Route], exception_handlers: Mapping[type[Exception], ExceptionHandler]
    ) -> None:
        super().__init__(routes=routes, exception_handlers=exception_handlers)
        self._reader: Final = reader

    def takes(self, scope: Scope) -> bool:
        """Return True if one of the routes answers this request, ``/openapi.json`` aside, which a service may have."""
        return scope["path"] != OPENAPI and any(route.matches(scope)[0] is Match.FULL for route in self.routes)

    async def chain(
        self, response_id: str, created_by: str, *, limit: int = 100, max_bytes: int = CHAIN_BYTES
    ) -> list[RequestDetail]:
        """Return a response and those before it by ``previous_response_id``, the latest first.

        Each is looked up as ``GET`` does and only among ``created_by``'s: the list ends where one is missing, is
        another owner's or has come before, after ``limit`` of them, or before the one that would bring their bodies
        over ``max_bytes`` characters. It is empty if ``response_id`` itself is bad, unknown or foreign.

        Raises ``ValueError`` for a ``limit`` or ``max_bytes`` below 1, and what the database raises.
        """
        at_least("limit", limit, 1)
        at_least("max_bytes", max_bytes, 1)
        return await self._reader.chain(response_id, created_by, limit=limit, max_bytes=max_bytes)


class _Routes:
    def __init__(self, reader: Reader, attribution: Attribution, prefix: str) -> None:
        self._reader: Final = reader
        self._attribution: Final = attribution
        self._prefix: Final = prefix
        self._document: Final = _json.dumps(document(prefix))

    def app(self) -> ResponsesApp:
        # `:path`, because an id with an encoded slash in it must be a 404 like any other bad id
        all_, one = self._prefix + "/responses", self._prefix + "/responses/{id:path}"
        routes = [
            *_with_and_without_slash(one + "/input_items", self._input_items, "GET"),
            *_with_and_without_slash(one + "/cancel", self._cancel, "POST"),
            *_with_and_without_slash(all_, self._list, "GET"),
            *_with_and_without_slash(one, self._retrieve, "GET"),
            *_with_and_without_slash(one, self._delete, "DELETE"),
            *_with_and_without_slash(self._prefix + "/chat/completions/{id:path}", self._chat_completion, "GET"),
            Route(OPENAPI, self._openapi, methods=["GET"], include_in_schema=False),
        ]
        app = ResponsesApp(self._reader, routes, {HTTPException: self._no_route})
        # with redirects, a request for a route of the service with another method would be redirected to one of these
        app.router.redirect_slashes = False
        return app

    async def _retrieve(self, request: Request) -> Response:
        owner = await self._owner(request)
        streamed, after = stream_in(request.query_params), starting_after_in(request.query_params)
        asked = _id_in(request)
        if not streamed:
            return _json_response(await self._reader.response(asked, owner))
        events = await self._reader.replay(await self._reader.find(asked, owner), asked, after)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _delete(self, request: Request) -> Response:
        owner = await self._owner(request)
        return _json_response(await self._reader.delete(_id_in(request), owner))

    async def _cancel(self, request: Request) -> Response:
        owner = await self._owner(request)
        return _json_response(await self._reader.cancel(_id_in(request), owner))

    async def _input_items(self, request: Request) -> Response:
        owner = await self._owner(request)
        return _json_response(await self._reader.input_items(_id_in(request), owner, request.query_params))

    async def _list(self, request: Request) -> Response:
        owner = await self._owner(request)
        query = request.query_params
        return _json_response(await self._reader.listing(owner, query, query.getlist("model")))

    async def _chat_completion(self, request: Request) -> Response:
        owner = await self._owner(request)
        return _json_response(await self._reader.chat_completion(_id_in(request), owner))

    async def _openapi(self, request: Request) -> Response:  # noqa: ARG002 -- the signature of an endpoint
        return Response(self._document, media_type="application/json")

    async def _owner(self, request: Request) -> str:
        try:
            owner = await self._attribution.owner(request.scope)
        except Exception as exc:  # the service's own code may raise anything
            log.warning("attribute raised %s", type(exc).__name__)
            raise unavailable("cannot tell whose API key this is, try again later") from exc
        if owner is None:
            raise unauthenticated()
        return owner

    async def _no_route(self, request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else HTTPStatus.NOT_FOUND
        if status != HTTPStatus.NOT_FOUND:
            problem = Problem(status, str(getattr(exc, "detail", "")), code="invalid_request")
            return _problem_response(problem, dict(getattr(exc, "headers", None) or {}))
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "")).removeprefix(self._prefix)
        try:
            # an id with a line break matches no route, but needs a key like any other
            if path.startswith(("/responses/", "/chat/completions/")):
                await self._owner(request)
        except Problem as problem:
            return _problem_response(problem)
        return _problem_response(not_found())


def _with_and_without_slash(path: str, endpoint: _Endpoint, method: str) -> list[Route]:
    """Return the route, and the same with a slash behind it, which some clients send."""
    answer = _answering(endpoint)
    return [Route(path + end, answer, methods=[method], include_in_schema=not end) for end in ("/", "")]


def _answering(endpoint: _Endpoint) -> _Endpoint:
    """Wrap ``endpoint`` so that its problems become JSON answers."""

    async def answer(request: Request) -> Response:
        try:
            with database_or_503():
                return await endpoint(request)
        except Problem as problem:
            return _problem_response(problem)

    return answer


def _id_in(request: Request) -> str:
    return str(request.path_params["id"])


def _json_response(content: bytes) -> Response:
    headers = {"cache-control": "no-store"}
    if len(content) <= PIECE_BYTES:
        return Response(content, media_type="application/json", headers=headers)
    headers["content-length"] = str(len(content))
    return StreamingResponse(_pieces(content), media_type="application/json", headers=headers)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    # each is sent when the client has taken those before, and the loop gets its turn between any two
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]
        await asyncio.sleep(0)


def _problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    extra = problem.headers | (headers or {})
    return Response(_json.dumps(problem.body), problem.status, media_type="application/json", headers=extra)
