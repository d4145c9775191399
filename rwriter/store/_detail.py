"""One request with its bodies, by its own id or by the id its client knows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Select, bindparam, func, select

from rwriter.records import repair
from rwriter.schema import request_templates, requests
from rwriter.store._connections import Connections
from rwriter.store._predicates import OWNER, visible
from rwriter.store._results import SUMMARY_COLUMNS, TEMPLATE_COLUMNS, RequestDetail, detail_of_row

_DETAIL: Final = (
    select(
        *SUMMARY_COLUMNS,
        *TEMPLATE_COLUMNS,
        func.coalesce(request_templates.c.body, "").label("body"),
        requests.c.response_body,
        requests.c.error,
    )
    .select_from(requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id))
    .where(visible())
)

_BY_ID: Final = _DETAIL.where(requests.c.id == bindparam("request_id"))

_BY_CUSTOM_ID: Final = (
    _DETAIL.where(requests.c.custom_id == bindparam("custom_id"), requests.c.created_by == OWNER)
    .order_by(requests.c.created_at.desc(), requests.c.id.desc())
    .limit(1)
)


async def get(connections: Connections, request_id: uuid.UUID, *, consistent: bool) -> RequestDetail | None:
    """Return the request with that id. See ``RequestStore.get_request``."""
    return await _one(connections, _BY_ID, {"request_id": request_id}, consistent=consistent)


async def find(connections: Connections, custom_id: str, owner: str, *, consistent: bool) -> RequestDetail | None:
    """Return the owner's latest request with that client's id. See ``RequestStore.find_request``."""
    parameters = {"custom_id": repair(custom_id), "owner": repair(owner)}
    return await _one(connections, _BY_CUSTOM_ID, parameters, consistent=consistent)


async def _one(
    connections: Connections, query: Select[Any], parameters: Mapping[str, Any], *, consistent: bool
) -> RequestDetail | None:
    async with connections.query(consistent=consistent) as connection:
        row = (await connection.execute(query, parameters)).mappings().one_or_none()
    return None if row is None else detail_of_row(row)
