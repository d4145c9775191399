"""Rows of requests that are running now: begun before their answer, and failed when their process died."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Executable,
    Interval,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from rwriter._database_errors import in_no_partition, sqlstate_of, without_effect
from rwriter._values.texts import utf8_size
from rwriter.errors import NO_PARTITION, IdRefused, RequestExists
from rwriter.records import NewRequest
from rwriter.schema import NEVER, NIL_DAEMON, REALTIME_TIER, request_templates, requests
from rwriter.store._connections import Connections, on_living_connection
from rwriter.store._predicates import CHUNK, GATEWAY_TIMEOUT, constant, realtime_in_flight

_UNIQUE_VIOLATION: Final = "23505"
_LONGEST: Final = timedelta(days=365_000)  # PostgreSQL reckons no further back than 4713 BC


def _begin() -> Executable:
    """Insert a request and its template in one statement.

    The request first, as in the upsert of finished requests: in the other order the two could deadlock on one id.
    """
    request = (
        insert(requests)
        .values(
            id=bindparam("id"),
            # a template made by this library has its request's id
            template_id=bindparam("id"),
            model=bindparam("model"),
            created_by=bindparam("created_by"),
            state="processing",
            daemon_id=NIL_DAEMON,
            claimed_at=func.now(),
            started_at=func.now(),
            not_before=NEVER,
            service_tier=REALTIME_TIER,
        )
        .returning(requests.c.id)
        .cte("request")
    )
    texts = ("endpoint", "method", "path", "model", "api_key", "body")
    values = [bindparam(name, type_=Text()) for name in texts]
    size = bindparam("body_byte_size", type_=BigInteger())
    return insert(request_templates).from_select(
        ["id", *texts, "body_byte_size"], select(request.c.id, *values, size), include_defaults=False
    )


_BEGIN: Final = _begin()


_AS_BEGUN: Final[Executable] = select(literal_column("1")).where(
    requests.c.id == bindparam("id"),
    requests.c.state == constant("processing"),
    requests.c.created_by == bindparam("created_by"),
    request_templates.c.id == requests.c.template_id,
    request_templates.c.api_key == bindparam("api_key"),
    request_templates.c.body == bindparam("body"),
)


async def create_realtime(connections: Connections, new: NewRequest) -> None:
    """Insert ``new`` and its template. See ``RequestStore.create_realtime``."""
    unsure = False

    async def attempt() -> None:
        nonlocal unsure
        try:
            await _insert(connections, new)
        except RequestExists:
            # perhaps inserted by an attempt whose connection died before the answer came
            if not (unsure and await _is_as_begun(connections, new)):
                raise
        except Exception as exc:
            unsure = unsure or not without_effect(exc)
            raise

    await on_living_connection(attempt)


async def _insert(connections: Connections, new: NewRequest) -> None:
    try:
        async with connections.autocommit() as connection:
            await connection.execute(_BEGIN, _parameters(new))
    except IntegrityError as exc:
        if in_no_partition(exc):
            raise IdRefused(f"{new.request_id} {NO_PARTITION}") from exc
        if sqlstate_of(exc) != _UNIQUE_VIOLATION:
            raise
        msg = f"a request with id {new.request_id} exists; use a fresh new_request_id()"
        raise RequestExists(msg) from exc


async def _is_as_begun(connections: Connections, new: NewRequest) -> bool:
    given = _parameters(new)
    async with connections.query(consistent=True) as connection:
        names = ("id", "created_by", "api_key", "body")
        found = await connection.execute(_AS_BEGUN, {name: given[name] for name in names})
        return found.first() is not None


async def fail_stale(connections: Connections, older_than: timedelta) -> int:
    """Fail realtime rows that nobody will finish and return how many. See ``RequestStore.fail_stale``."""
    if older_than <= timedelta(0):
        msg = f"older_than must be positive, not {older_than}"
        raise ValueError(msg)
    older_than = min(older_than, _LONGEST)
    details = {"older_than_seconds": older_than.total_seconds()}
    error = msgspec.json.encode({"type": "Abandoned", "details": details}).decode()
    total = 0
    while True:
        async with connections.transaction() as connection:
            result = await connection.execute(_FAIL_STALE, {"older_than": older_than, "error": error})
        total += result.rowcount
        if result.rowcount < CHUNK:
            return total


def _parameters(new: NewRequest) -> dict[str, Any]:
    return {
        "id": new.request_id,
        "created_by": new.created_by,
        "endpoint": new.endpoint,
        "method": new.method,
        "path": new.path,
        "model": new.model,
        "api_key": new.api_key,
        "body": new.body,
        "body_byte_size": utf8_size(new.body),
    }


def _fail_stale() -> Executable:
    stale = (
        select(requests.c.id)
        .where(
            # says what ix_requests_active says, in its words, so that the planner may use it
            realtime_in_flight(),
            requests.c.created_by.is_not(None),
            or_(requests.c.state == constant("processing"), requests.c.not_before == NEVER),
            func.coalesce(requests.c.started_at, requests.c.created_at)
            < func.now() - bindparam("older_than", type_=Interval()),
        )
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
        .cte("stale")
    )
    return (
        update(requests)
        .where(requests.c.id == stale.c.id)
        .values(state="failed", failed_at=func.now(), response_status=GATEWAY_TIMEOUT, error=bindparam("error"))
    )


_FAIL_STALE: Final = _fail_stale()
