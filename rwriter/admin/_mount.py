"""``mount``: the page as an app, put under a path of the service's own."""

from __future__ import annotations

import importlib.resources
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from rwriter._database_errors import AWAY, describe
from rwriter.admin._guard import Authorize, Guard
from rwriter.admin._pages import Pages, message
from rwriter.engines import EngineProvider
from rwriter.errors import InvalidCursor
from rwriter.store import DeadLetters, RequestStore

RETRY_AFTER: Final = 5
"""Seconds after which a page that could not be made is to be asked for again."""

_Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("rwriter")


def mount(
    app: Starlette,
    engines: EngineProvider | AsyncEngine,
    *,
    authorize: Authorize | None = None,
    path: str = "/admin",
    schema: str | None = None,
) -> None:
    """Mount the page in ``app``, a Starlette or FastAPI application, under ``path``.

    It shows everybody's requests, so it needs ``authorize(request)``: async or not, it answers ``True`` to let a
    request in, ``False`` for 403, or with a response of its own, such as a redirect to the service's sign-in. It is
    asked before every answer and cannot read the request's body. Reads go to ``engines.read``, a replay goes to
    ``engines.write``.

    Mount it before anything that is mounted at "/". Raises ``TypeError`` without a callable ``authorize``, and
    ``ValueError`` for a path that cannot be used.
    """
    if not callable(authorize):
        raise TypeError(
            "authorize must be a function of the request that answers True for those who may read every owner's "
            f"requests, e.g. authorize=lambda request: request.session.get('admin') is True, not {authorize!r}"
        )
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"path must begin with / and not end with it, not {path!r}")
    if any(getattr(route, "path", None) == "" for route in app.routes):
        raise ValueError(f"something is mounted at '/', and would answer for {path} too: mount the page before it")
    pages = Pages(RequestStore(engines, schema=schema), DeadLetters(engines, schema=schema))
    # the mount itself wants a slash behind the path
    app.add_route(path, _to_front, methods=["GET"], include_in_schema=False)
    app.mount(path, Guard(_app(pages), authorize), name="rwriter-admin")


async def _to_front(request: Request) -> Response:
    # relative: the path that the browser asked for may be longer than the one that a proxy passed on
    return RedirectResponse(f"{request.scope['path'].rpartition('/')[2]}/")


def _app(pages: Pages) -> Starlette:
    routes = {
        "/": pages.requests,
        "/find": pages.find,
        "/requests/{id}": pages.request,
        "/requests/{id}/bodies": pages.bodies,
        "/dead-letters": pages.letters,
        "/dead-letters/{id}": pages.letter,
        "/dead-letters/{id}/record": pages.record,
        "/usage": pages.usage,
        "/admin.css": _style(),
    }
    replay = Route("/dead-letters/{id}/replay", _or_503(pages.replay), methods=["POST"])
    return Starlette(
        routes=[*(Route(route, _or_503(endpoint), methods=["GET"]) for route, endpoint in routes.items()), replay],
        exception_handlers={HTTPException: _refused},
    )


def _or_503(endpoint: _Endpoint) -> _Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except InvalidCursor as exc:
            return message(request, str(exc), HTTPStatus.BAD_REQUEST)
        except AWAY as exc:
            log.warning("the admin page cannot use the database: %s", describe(exc))
            response = message(request, "The database does not answer.", 503, hint=describe(exc))
            response.headers["retry-after"] = str(RETRY_AFTER)
            return response

    return answer


async def _refused(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    response = message(request, exc.detail, exc.status_code)
    response.headers.update(exc.headers or {})
    return response


def _style() -> _Endpoint:
    css = importlib.resources.files("rwriter.admin").joinpath("admin.css").read_bytes()

    async def style(_request: Request) -> Response:
        return Response(css, media_type="text/css")

    return style
