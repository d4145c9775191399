"""Refuses forms that another site had the browser send.

The cookie is SameSite=Strict, HttpOnly and random; a form holds its HMAC, so that no page shows the cookie itself. A
site that can set cookies here (a sister host) still fails by where its form comes from: browsers say it in
Sec-Fetch-Site, or in Origin.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

COOKIE: Final = "rwriter_admin"
FIELD: Final = "csrf_token"
FORM_BYTES: Final = 4 * 1024

_RANDOM: Final = re.compile(r"[0-9A-Za-z_-]{43}")


def cookie_of(request: Request) -> str:
    """Return the browser's cookie, or a fresh one where it has none that this page made."""
    found = request.cookies.get(COOKIE, "")
    return found if _RANDOM.fullmatch(found) else secrets.token_urlsafe(32)


def token_for(cookie: str) -> str:
    """Return what a form holds for a browser with ``cookie``."""
    return hmac.new(cookie.encode(), b"rwriter.admin form", hashlib.sha256).hexdigest()


def keep_cookie(request: Request, response: Response, cookie: str) -> None:
    """Have the browser keep ``cookie`` for this page."""
    path, secure = request.scope.get("root_path") or "/", request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, path=path, secure=secure, httponly=True, samesite="strict")


async def check(request: Request) -> None:
    """Raise ``HTTPException`` unless the form was sent by a page of this browser's own."""
    if not _is_of_this_site(request):
        raise HTTPException(HTTPStatus.FORBIDDEN, "This form was sent by another site.")
    cookie, given = request.cookies.get(COOKIE, ""), (await _form(request)).get(FIELD, "")
    if not _RANDOM.fullmatch(cookie) or not hmac.compare_digest(token_for(cookie).encode(), given.encode()):
        raise HTTPException(HTTPStatus.FORBIDDEN, "This form is stale, or of another site. Load its page again.")


def _is_of_this_site(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    # an older browser, or http; a program says neither, and has no browser's cookies to be misused
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This form is too large.")
    return dict(parse_qsl(body.decode("utf-8", "replace")))
