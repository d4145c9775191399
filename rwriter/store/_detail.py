"""One request with its bodies, by its own id or by an id its client knows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, Select, Text, Uuid, bindparam, func, literal_column, select, union_all

from rwriter._validation import at_least
from rwriter._values.texts import repair
from rwriter.schema import request_templates, requests
from rwriter.store._connections import Connections
from rwriter.store._predicates import OWNER, visible
from rwriter.store._results import SUMMARY_COLUMNS, TEMPLATE_COLUMNS, RequestDetail, detail_of_row

_BODIES: Final[dict[str, ColumnElement[Any]]] = {
    "body": func.coalesce(request_templates.c.body, ""),
    "response_body": requests.c.response_body,
    "error": requests.c.error,
}
_BODY_LIMIT: Final = bindparam("body_limit", type_=Integer())


def _select(*, bounded: bool) -> Select[Any]:
    # the server decompresses no more of a text than left() returns
    bodies = {name: func.left(text, _BODY_LIMIT) if bounded else text for name, text in _BODIES.items()}
    return (
        select(*SUMMARY_COLUMNS, *TEMPLATE_COLUMNS, *(text.label(name) for name, text in bodies.items()))
        .select_from(requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id))
        .where(visible())
    )


_CUSTOM_ID: Final = bindparam("custom_id", type_=Text())


def _latest(rank: str, rows: Select[Any]) -> Select[Any]:
    """Select the id of the owner's latest request among ``rows``, with its rank."""
    owned = rows.where(requests.c.created_by == OWNER, visible())
    latest = owned.order_by(requests.c.created_at.desc(), requests.c.id.desc()).limit(1).subquery()
    return select(latest.c.id, literal_column(rank).label("rank"))


# one statement for all ids, each through its own index: its time does not tell which of them another owner has
_CHOSEN: Final = union_all(
    select(requests.c.id, literal_column("0").label("rank")).where(
        requests.c.id == bindparam("request_id", type_=Uuid()), requests.c.created_by == OWNER, visible()
    ),
    _latest("1", select(requests.c.id).where(requests.c.custom_id == _CUSTOM_ID)),
    # an id that the client saw before; the templates of a daemon's batches have ids of their lines there
    _latest(
        "2",
        select(requests.c.id)
        .join(request_templates, requests.c.template_id == request_templates.c.id)
        .where(request_templates.c.custom_id == _CUSTOM_ID, request_templates.c.file_id.is_(None)),
    ),
).subquery()
_IS_CHOSEN: Final = requests.c.id == select(_CHOSEN.c.id).order_by(_CHOSEN.c.rank).limit(1).scalar_subquery()

_BY_ID: Final = {
    bounded: _select(bounded=bounded).where(requests.c.id == bindparam("request_id")) for bounded in (False, True)
}
_BY_EITHER_ID: Final = {bounded: _select(bounded=bounded).where(_IS_CHOSEN) for bounded in (False, True)}
"""The statements, by whether they bound the bodies."""


async def get(
    connections: Connections, request_id: uuid.UUID, *, body_limit: int | None, consistent: bool
) -> RequestDetail | None:
    """Return the request with that id. See ``RequestStore.get_request``."""
    return await _one(connections, _BY_ID, {"request_id": request_id}, body_limit, consistent=consistent)


async def find(
    connections: Connections,
    custom_id: str,
    owner: str,
    request_id: uuid.UUID | None,
    *,
    body_limit: int | None,
    consistent: bool,
) -> RequestDetail | None:
    """Return the owner's request with that id, else its latest with that client's id. See ``find_request``."""
    parameters = {"custom_id": repair(custom_id), "owner": repair(owner), "request_id": request_id}
    return await _one(connections, _BY_EITHER_ID, parameters, body_limit, consistent=consistent)


async def _one(
    connections: Connections,
    queries: Mapping[bool, Select[Any]],
    parameters: dict[str, Any],
    body_limit: int | None,
    *,
    consistent: bool,
) -> RequestDetail | None:
    query = queries[body_limit is not None]
    if body_limit is not None:
        # left() takes a negative number for characters to leave out
        at_least("body_limit", body_limit, 0)
        parameters |= {"body_limit": body_limit}
    async with connections.query(consistent=consistent) as connection:
        row = (await connection.execute(query, parameters)).mappings().one_or_none()
    return None if row is None else detail_of_row(row)
