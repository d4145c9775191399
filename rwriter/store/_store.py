"""What is asked of the database. No queue, no retry: each call is one transaction that happens or raises."""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import uuid_utils
from sqlalchemy import Column, Executable, MetaData, Select, String, Table, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from uuid_utils.compat import uuid7

from rwriter._database_errors import sqlstate_of
from rwriter.engines import EngineProvider
from rwriter.errors import RequestExists, SchemaOutdated
from rwriter.records import CompletedRequest, NewRequest, repair, utf8_size
from rwriter.schema import HEAD_REVISION, VERSION_TABLE, metadata
from rwriter.store import _listing, _statements
from rwriter.store._connections import Connections
from rwriter.store._listing import RequestFilter
from rwriter.store._results import (
    OK,
    PersistResult,
    RequestDetail,
    RequestPage,
    RequestSummary,
    aware,
    detail_of,
    failure_envelope,
    milliseconds,
    summary_of,
)

COUNT_TIMEOUT_MS: Final = 100
"""How long ``list_requests`` counts before it takes the planner's estimate."""

__all__ = ("PersistResult", "RequestDetail", "RequestPage", "RequestStore", "RequestSummary", "detail_of")

_UNIQUE_VIOLATION = "23505"
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_COLUMN = "42703"
_QUERY_CANCELED = "57014"
_LONGEST = timedelta(days=365_000)  # PostgreSQL reckons no further back than 4713 BC

# a service that lists rwriter's migrations in its own version_locations records them in its own table
_VERSION_TABLES = tuple(
    Table(name, MetaData(), Column("version_num", String)) for name in (VERSION_TABLE, "alembic_version")
)


class RequestStore:
    """The statements, over an engine provider or a plain ``AsyncEngine``.

    ``schema`` says where the tables are when that is not the first of the search_path; an engine made with
    ``DbEngines.from_url(schema=...)`` knows already.
    """

    def __init__(self, engines: EngineProvider | AsyncEngine, *, schema: str | None = None) -> None:
        self._connections: Final = Connections(engines, schema)

    async def create_realtime(self, new: NewRequest) -> None:
        """Insert a row in ``processing``, to be finished by ``persist_completed``. Raises ``RequestExists``."""
        template_id = uuid7()
        template = {
            "id": template_id,
            "endpoint": new.endpoint,
            "method": new.method,
            "path": new.path,
            "model": new.model,
            "api_key": new.api_key,
            "body": new.body,
            "body_byte_size": utf8_size(new.body),
        }
        request = {
            "id": new.request_id,
            "template_id": template_id,
            "model": new.model,
            "created_by": new.created_by,
        }
        try:
            async with self._connections.transaction() as connection:
                await connection.execute(_statements.INSERT_TEMPLATE, template)
                await connection.execute(_statements.INSERT_PROCESSING, request)
        except IntegrityError as exc:
            if sqlstate_of(exc) != _UNIQUE_VIOLATION:
                raise
            msg = f"a request with id {new.request_id} exists; use a fresh new_request_id()"
            raise RequestExists(msg) from exc

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        """Store finished requests: all of them in one statement in one transaction, or none.

        New ids are inserted; rows of ``create_realtime`` still ``processing`` are finished; every other row is left
        as it is and counted as skipped, so the first terminal state wins and a redelivery changes nothing. Of an id
        given twice the first record counts.
        """
        records = list(records)
        # keyed by the number, which hashes and sorts in C; in reverse, so that of an id given twice the first stays
        unique = {record.request_id.int: record for record in reversed(records)}
        if not unique:
            return PersistResult(0, 0, 0)
        # in id order, so that two writers with the same ids wait for each other instead of deadlocking
        arrays = _arrays([unique[key] for key in sorted(unique)])
        async with self._connections.statement() as connection:
            sql, names = self._persist_sql
            row = (await connection.exec_driver_sql(sql, tuple(arrays[name] for name in names))).one()
        return PersistResult(row.inserted, row.written - row.inserted, len(records) - row.written)

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Which of ``ids`` have a finished row of this library's kind. Asked of the primary."""
        async with self._connections.query(consistent=True) as connection:
            return set((await connection.execute(_statements.SELECT_FINISHED_IDS, {"ids": list(ids)})).scalars())

    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        """Keep a record the database will not take in ``dead_letters``, complete, beside the reason.

        Burying the same record again (lost acknowledgement of a commit) changes nothing.
        """
        payload = msgspec.msgpack.encode(record)
        letter = {
            "id": uuid.uuid5(record.request_id, hashlib.sha256(payload).hexdigest()),
            "request_id": record.request_id,
            "created_by": record.created_by,
            "sqlstate": sqlstate,
            "error": repair(error),
            "payload": payload,
        }
        async with self._connections.transaction() as connection:
            await connection.execute(_statements.INSERT_DEAD_LETTER, letter)

    async def get_request(self, request_id: uuid.UUID, *, consistent: bool = False) -> RequestDetail | None:
        """One request with its bodies, or ``None``. ``consistent=True`` asks the primary instead of the replica."""
        return await self._detail(_statements.SELECT_REQUEST, {"request_id": request_id}, consistent=consistent)

    async def find_request(self, custom_id: str, created_by: str, *, consistent: bool = False) -> RequestDetail | None:
        """The latest of ``created_by``'s requests whose client knows it as ``custom_id``, or ``None``."""
        asked = {"custom_id": repair(custom_id), "owner": repair(created_by)}
        return await self._detail(_statements.SELECT_BY_CUSTOM_ID, asked, consistent=consistent)

    async def list_requests(self, asked: RequestFilter | None = None, *, consistent: bool = False) -> RequestPage:
        """One page of the rows that match ``asked``. See ``RequestFilter`` for the order and the bounds."""
        asked = asked if asked is not None else RequestFilter()
        data, next_cursor = await self.list_page(asked, consistent=consistent)
        total, is_estimate = await _count(self._connections.reader(consistent=consistent), asked)
        return RequestPage(data, total, is_estimate, next_cursor)

    async def list_page(
        self, asked: RequestFilter, *, consistent: bool = False
    ) -> tuple[list[RequestSummary], str | None]:
        """``data`` and ``next_cursor`` of ``list_requests``, without counting how many there are."""
        async with self._connections.query(consistent=consistent) as connection:
            result = await connection.execute(*_listing.page_query(asked))
            # not as mappings: looking their names up takes as long as the query
            names = tuple(result.keys())
            rows = [aware(zip(names, row, strict=True)) for row in result]
        active = [bool(row.pop("is_active")) for row in rows]
        page = [summary_of(row) for row in rows[: asked.limit]]
        if len(rows) <= asked.limit:
            return page, None
        position = _listing.Position(active[len(page) - 1], page[-1].created_at, page[-1].id)
        return page, _listing.encode_cursor(position)

    async def delete_request(self, request_id: uuid.UUID, created_by: str | None = None) -> bool:
        """Delete a request and its template; with ``created_by`` only if it is that owner's. Whether there was one.

        A row whose completion may still come (it is in flight, was cancelled or abandoned) is blanked and left as
        ``canceled``, invisible to readers, so that the completion cannot bring the data back.
        """
        owner = None if created_by is None else repair(created_by)
        async with self._connections.transaction() as connection:
            row = (
                await connection.execute(_statements.LOCK_FOR_DELETE, {"request_id": request_id, "owner": owner})
            ).one_or_none()
            if row is None:
                return False
            statement = _statements.BLANK_REQUESTS if row.unsettled else _statements.DELETE_REQUESTS
            await connection.execute(statement, {"ids": [request_id]})
            if row.template_id is not None:
                await connection.execute(_statements.DELETE_TEMPLATES, {"ids": [row.template_id]})
        return True

    async def erase(self, created_by: str, limit: int = 10_000) -> int:
        """Delete everything of an owner's: requests, their templates and dead letters. How many requests and letters.

        At most ``limit`` of them, the rest at the next call: 0 means that there is nothing left. Rows in flight are
        blanked as by ``delete_request``. What another transaction has locked is passed over.
        """
        owner = {"owner": repair(created_by).strip()}
        return await self._remove(limit, _statements.LOCK_OF_OWNER, _statements.DELETE_LETTERS_OF_OWNER, owner)

    async def purge(self, before: datetime, limit: int = 10_000) -> int:
        """Delete what is older than ``before``: finished requests, their templates and dead letters. How many.

        At most ``limit`` of them, the oldest first, the rest at the next call: 0 means that there is nothing left. Only
        this library's requests and the blanked remains of deletions; rows in flight and the daemon's stay.
        """
        if before.tzinfo is None:
            msg = "before must be timezone-aware, e.g. datetime.now(UTC) - timedelta(days=90)"
            raise ValueError(msg)
        return await self._remove(limit, _statements.LOCK_BEFORE, _statements.DELETE_LETTERS_BEFORE, {"before": before})

    async def _remove(self, limit: int, lock: Executable, letters: Executable, asked: dict[str, Any]) -> int:
        if limit < 1:
            msg = f"limit must be at least 1, not {limit}"
            raise ValueError(msg)
        left = limit
        for chunk in (functools.partial(self._remove_requests, lock), functools.partial(self._remove_letters, letters)):
            while left:
                size = min(left, _statements.ID_CHUNK)
                number = await chunk(asked | {"size": size})
                left -= number
                if number < size:
                    break
        return limit - left

    async def _remove_requests(self, lock: Executable, asked: dict[str, Any]) -> int:
        async with self._connections.transaction() as connection:
            found = (await connection.execute(lock, asked)).all()
            unsettled = [row.id for row in found if row.unsettled]
            settled = [row.id for row in found if not row.unsettled]
            templates = [row.template_id for row in found if row.template_id is not None]
            await connection.execute(_statements.BLANK_REQUESTS, {"ids": unsettled})
            await connection.execute(_statements.DELETE_REQUESTS, {"ids": settled})
            await connection.execute(_statements.DELETE_TEMPLATES, {"ids": templates})
        return len(found)

    async def _remove_letters(self, statement: Executable, asked: dict[str, Any]) -> int:
        async with self._connections.transaction() as connection:
            return (await connection.execute(statement, asked)).rowcount

    async def fail_stale(self, older_than: timedelta) -> int:
        """Fail realtime rows in ``processing`` since longer than ``older_than``: their process died. How many.

        They get status 504 and an error envelope of type ``Abandoned``. Bounded transactions; rows that another
        process has locked are left to it.
        """
        if older_than <= timedelta(0):
            msg = f"older_than must be positive, not {older_than}"
            raise ValueError(msg)
        older_than = min(older_than, _LONGEST)
        seconds = older_than.total_seconds()
        error = msgspec.json.encode({"type": "Abandoned", "details": {"older_than_seconds": seconds}}).decode()
        total = 0
        while True:
            async with self._connections.transaction() as connection:
                result = await connection.execute(_statements.FAIL_STALE, {"older_than": older_than, "error": error})
            total += result.rowcount
            if result.rowcount < _statements.ID_CHUNK:
                return total

    async def check_schema(self) -> None:
        """Raise ``SchemaOutdated`` unless the database is at this release's revision, or at a later one."""
        found = [revision for table in _VERSION_TABLES for revision in await self._revisions(table)]
        ours = [revision for revision in found if revision.startswith("rwriter_")]
        if not ours and found and await self._every_column_is_there():
            return
        if not ours or max(ours) < HEAD_REVISION:
            msg = (
                f"the database is at {max(ours) if ours else 'no revision of rwriter'}, this release needs "
                f"{HEAD_REVISION}: run `rwriter migrate` (or `alembic upgrade head`)"
            )
            raise SchemaOutdated(msg)

    async def _every_column_is_there(self) -> bool:
        # a service's revision that merges ours or depends on it takes its place in the service's version table
        try:
            async with self._connections.write.connect() as connection:
                for table in metadata.sorted_tables:
                    await connection.execute(select(table).limit(0))
        except DBAPIError as exc:
            if sqlstate_of(exc) in {_UNDEFINED_TABLE, _UNDEFINED_COLUMN}:
                return False
            raise
        return True

    async def _revisions(self, table: Table) -> Sequence[str]:
        try:
            async with self._connections.write.connect() as connection:
                return (await connection.execute(select(table.c.version_num))).scalars().all()
        except DBAPIError as exc:
            if sqlstate_of(exc) == _UNDEFINED_TABLE:
                return ()
            raise

    @property
    def has_replica(self) -> bool:
        """Whether reads go elsewhere than writes, where a row just written may be missing."""
        return self._connections.read.sync_engine.pool is not self._connections.write.sync_engine.pool

    @functools.cached_property
    def _persist_sql(self) -> tuple[str, tuple[str, ...]]:
        # compiled once: on each execution SQLAlchemy would walk the whole statement to find what it compiled before.
        # Only when connected the dialect knows its server
        engine = self._connections.write
        tables = engine.get_execution_options().get("schema_translate_map")
        compiled = _statements.PERSIST_COMPLETED.compile(
            dialect=engine.dialect, schema_translate_map=tables, render_schema_translate=tables is not None
        )
        return str(compiled), tuple(compiled.positiontup or ())

    async def _detail(
        self, query: Select[Any], parameters: Mapping[str, Any], *, consistent: bool
    ) -> RequestDetail | None:
        async with self._connections.query(consistent=consistent) as connection:
            row = (await connection.execute(query, parameters)).mappings().one_or_none()
        if row is None:
            return None
        fields = aware(row)
        return RequestDetail(**fields, duration_ms=milliseconds(fields))


def _arrays(records: Sequence[CompletedRequest]) -> dict[str, list[Any]]:
    return {
        "id": [r.request_id for r in records],
        # not the standard library's: they are made in a tenth of the time, and the driver asks only for their bytes
        "template_id": [uuid_utils.uuid7() for _ in records],
        "custom_id": _sparse([r.custom_id for r in records]),
        "model": [r.model for r in records],
        "path": [r.endpoint for r in records],
        "api_key": [r.api_key for r in records],
        "created_by": [r.created_by for r in records],
        "request_body": [r.request_body for r in records],
        "status": [r.status_code for r in records],
        "response_body": [r.response_body for r in records],
        "error": _sparse(
            [None if r.status_code in OK else failure_envelope(r.status_code, r.response_body) for r in records]
        ),
        "started_at": [r.started_at for r in records],
        "finished_at": [r.completed_at for r in records],
    }


def _sparse(values: list[str | None]) -> list[str | None]:
    """``values``, or ``[]`` where all are ``None``: unnest() fills a shorter array up with nulls."""
    return values if any(value is not None for value in values) else []


async def _count(engine: AsyncEngine, asked: RequestFilter) -> tuple[int, bool]:
    count: int | None = None
    try:
        # a transaction of its own: the timeout bounds whatever comes after it too, be it the end of a savepoint
        async with engine.connect() as connection:
            await connection.execute(text(f"SET LOCAL statement_timeout = {COUNT_TIMEOUT_MS}"))
            count = (await connection.execute(*_listing.count_query(asked))).scalar_one()
    except DBAPIError as exc:
        if sqlstate_of(exc) != _QUERY_CANCELED:
            raise
    if count is not None:
        return count, False
    async with engine.connect() as connection:
        return await _estimate(connection, *_listing.matching_query(asked)), True


async def _estimate(connection: AsyncConnection, query: Select[Any], parameters: Mapping[str, Any]) -> int:
    plan = (await connection.execute(_listing.Explain(query), parameters)).scalar_one()
    parsed = msgspec.json.decode(plan) if isinstance(plan, str) else plan
    return int(parsed[0]["Plan"]["Plan Rows"])
