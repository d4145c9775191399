"""Stands before every route of the page: asks ``authorize``, and puts the security headers on each answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from rwriter._hooks import resolve

Authorize: TypeAlias = Callable[[Request], bool | Response | Awaitable[bool | Response]]
"""Answers ``True`` to let a request in, ``False`` for 403, or with a response of its own; async or not."""

HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # not no-referrer: a form's POST would then name its origin as null
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

log = logging.getLogger("rwriter")


class Guard:
    """Lets requests through to ``app`` for which ``authorize`` answers ``True``."""

    def __init__(self, app: ASGIApp, authorize: Authorize) -> None:
        self._app: Final = app
        self._authorize: Final = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it before any route is looked for."""
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        scope = _with_whole_path(scope)
        refusal = await self._refusal(Request(scope))
        if refusal is None:
            await self._app(scope, receive, _with_headers(send))
        else:
            await refusal(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        try:
            answer = await resolve(self._authorize(request))
        except HTTPException as exc:
            return _plain(str(exc.detail), exc.status_code, exc.headers)
        except Exception as exc:  # noqa: BLE001 -- the service's own code may raise anything
            log.warning("authorize raised %s", type(exc).__name__)
            return _plain("It cannot be told who you are. Try again later.", 503)
        if answer is True:
            return None
        if isinstance(answer, Response):
            return answer
        if answer is not False:
            # a tuple of False and a reason would count as true
            log.warning("authorize answered with %s in place of True or False: refused", type(answer).__name__)
        return _plain("You may not see this page.", 403)


def _with_whole_path(scope: Scope) -> Scope:
    """Return ``scope`` with a path that begins with its root_path, as the routes need it to.

    A proxy that takes a prefix away, with a server or an app that is told of it, leaves it out of the path alone.
    """
    path, root = scope["path"], scope.get("root_path", "")
    return scope if path.startswith(root) else {**scope, "path": scope.get("app_root_path", "") + path}


def _plain(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(text, status, headers={**HEADERS, **(headers or {})})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending
