"""The pages: each asks the store once, and renders a template."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rwriter.admin._charts import WIDTH, chart
from rwriter.admin._csrf import FIELD, check, cookie_of, keep_cookie, token_for
from rwriter.admin._query import (
    GROUPS,
    LIMITS,
    TIERS,
    Invalid,
    filter_in,
    first_page,
    next_page,
    request_id_in,
    usage_in,
)
from rwriter.admin._templates import render
from rwriter.admin._texts import SHOWN
from rwriter.schema import STATES
from rwriter.store import DeadLetters, RequestStore, RequestSummary, cursor_after

LETTERS: Final = 50
"""Dead letters on a page."""

LARGEST_LETTER: Final = 16 * 1024 * 1024
"""Bytes of a dead letter's record that is read for a page: it is one value, which the server cannot cut."""

_TOLD: Final = {
    "stored": "The record is stored, and its letter is gone.",
    "refused": "The database still refuses the record. Its letter stays.",
    "gone": "There was no such letter any more.",
}


class Pages:
    """Answers the routes of the page."""

    def __init__(self, store: RequestStore, letters: DeadLetters) -> None:
        self._store: Final = store
        self._letters: Final = letters

    async def requests(self, request: Request) -> Response:
        """Show the search, the filters, and a page of the rows that match."""
        query, rows, cursor, problem = request.query_params, list[RequestSummary](), None, ""
        try:
            rows, cursor = await self._store.list_page(filter_in(query))
        except Invalid as exc:
            problem = str(exc)
        status = HTTPStatus.BAD_REQUEST if problem else HTTPStatus.OK
        choices = {"states": STATES, "tiers": TIERS, "limits": LIMITS}
        return page(
            request, "requests.html", status,
            query=query, chosen_tiers=query.getlist("tier"), rows=rows, first_page=first_page(query),
            next_page=next_page(query, cursor), problem=problem, **choices,
        )  # fmt: skip

    async def find(self, request: Request) -> Response:
        """Go to the request of an id: of its own, or of the one that its owner's client knows."""
        asked, owner = request.query_params.get("id", "").strip(), request.query_params.get("owner", "").strip()
        found = request_id_in(asked)
        if owner:
            # the client's own id may look like one of ours
            detail = await self._store.find_request(asked, owner, request_id=found, body_limit=0)
            found = None if detail is None else detail.id
        if found is None:
            hint = "" if owner else "An id that the client's upstream gave is found together with its owner."
            return message(request, f"There is no request {asked!r}.", HTTPStatus.NOT_FOUND, hint=hint)
        return RedirectResponse(f"{root_of(request)}/requests/{found}", HTTPStatus.SEE_OTHER)

    async def request(self, request: Request) -> Response:
        """Show one request without its bodies."""
        return await self._request(request, 0)

    async def bodies(self, request: Request) -> Response:
        """Show one request and the beginnings of its bodies."""
        return await self._request(request, SHOWN + 1)

    async def _request(self, request: Request, body_limit: int) -> Response:
        row = await self._store.get_request(_id_in(request), body_limit=body_limit)
        if row is None:
            raise _no("request")
        bodies = {"Request": row.body, "Response": row.response_body, "Error": row.error} if body_limit else {}
        # large bodies take milliseconds to lay out
        return await asyncio.to_thread(page, request, "request.html", row=row, bodies=bodies, most=SHOWN)

    async def letters(self, request: Request) -> Response:
        """Show a page of dead letters, the oldest first."""
        query = request.query_params
        found = await self._letters.listing(LETTERS + 1, cursor=query.get("cursor") or None, consistent=False)
        shown, more = found[:LETTERS], len(found) > LETTERS
        after = next_page(query, cursor_after(shown[-1])) if more else None
        told = _TOLD.get(query.get("told", ""), "")
        values = {"letters": shown, "cursor": query.get("cursor"), "next_page": after, "told": told}
        return _with_form(request, "letters.html", **values)

    async def letter(self, request: Request) -> Response:
        """Show one dead letter and the reason, without its record."""
        found = await self._letters.get(_id_in(request), consistent=False)
        if found is None:
            raise _no("letter")
        return _with_form(request, "letter.html", letter=found)

    async def record(self, request: Request) -> Response:
        """Show the record in one dead letter."""
        letter_id = _id_in(request)
        found = await self._letters.show(letter_id, most_bytes=LARGEST_LETTER, consistent=False)
        if found is None:
            hint = f"It is gone, or larger than {LARGEST_LETTER >> 20} MiB: rwriter dead-letters show {letter_id}"
            return message(request, "There is no record to show.", HTTPStatus.NOT_FOUND, hint=hint)
        bodies = {"Request": found.request_body, "Response": found.response_body}
        return await asyncio.to_thread(
            page, request, "record.html", record=found, letter_id=letter_id, bodies=bodies, most=SHOWN
        )

    async def replay(self, request: Request) -> Response:
        """Store the record of one dead letter again, and go back to the letters."""
        await check(request)
        stored, refused = await self._letters.replay(_id_in(request))
        told = "stored" if stored else "refused" if refused else "gone"
        return RedirectResponse(f"{root_of(request)}/dead-letters?told={told}", HTTPStatus.SEE_OTHER)

    async def usage(self, request: Request) -> Response:
        """Show requests, tokens and times by groups."""
        query, found, problem = request.query_params, None, ""
        by: Sequence[str] = ("day",)
        try:
            created_by, since, until, by = usage_in(query)
            found = chart(await self._store.usage(created_by=created_by, since=since, until=until, by=by), by)
        except Invalid as exc:
            problem = str(exc)
        status = HTTPStatus.BAD_REQUEST if problem else HTTPStatus.OK
        return page(
            request, "usage.html", status, query=query, by=by, chart=found, groups=GROUPS, width=WIDTH, problem=problem
        )


def root_of(request: Request) -> str:
    """Return the path under which the page is mounted, for links."""
    return quote(str(request.scope.get("root_path", "")).rstrip("/"))


def page(request: Request, name: str, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    """Return the answer that template ``name`` makes of ``values``."""
    return HTMLResponse(render(name, root=root_of(request), **values), status)


def message(request: Request, text: str, status: int, *, hint: str = "") -> HTMLResponse:
    """Return an answer of a sentence or two."""
    return page(request, "message.html", status, text=text, hint=hint)


def _with_form(request: Request, name: str, **values: Any) -> HTMLResponse:
    cookie = cookie_of(request)
    response = page(request, name, csrf_field=FIELD, csrf_token=token_for(cookie), **values)
    keep_cookie(request, response, cookie)
    return response


def _id_in(request: Request) -> uuid.UUID:
    found = request_id_in(request.path_params["id"])
    if found is None:
        raise _no("id")
    return found


def _no(thing: str) -> HTTPException:
    return HTTPException(HTTPStatus.NOT_FOUND, f"There is no such {thing}.")
