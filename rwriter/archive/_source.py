"""Asks the database for a partition: its facts, its rows in bounded chunks, and the digest that Parquet must have.

All in one snapshot, so that the digest is of what was written.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import BIT
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter.archive._layout import DIGESTED, NAMES, digest_text
from rwriter.schema import ACTIVE_STATES, TOMBSTONE_OWNER, request_templates, requests
from rwriter.store._predicates import among_ids, constant, in_states_of, not_erased
from rwriter.store._results import with_utc_times

CHUNK_ROWS: Final = 500
CHUNK_BYTES: Final = 8 * 1024 * 1024

_UTF8: Final = constant("UTF8")
_TABLE_ID: Final = text("SELECT CAST(CAST(CAST(:name AS text) AS regclass) AS oid)::bigint")
_NOTHING: Final[ColumnElement[bytes]] = literal_column("decode(repeat('00', 32), 'hex')")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a partition before it is written. ``hindrance`` says in words why it cannot be, if it cannot."""

    table: int
    fingerprint: str
    rows: int
    left_out: int
    in_flight: int
    unowned: int
    elsewhere: int

    @property
    def hindrance(self) -> str | None:
        """Return what must be mended before the partition can be archived."""
        if self.in_flight:
            return f"{self.in_flight} requests are in flight: `rwriter reap --older-than 1d` fails the abandoned ones"
        if self.unowned:
            return f"{self.unowned} rows have no created_by: they are not this library's, move them yourself"
        if self.elsewhere:
            return f"{self.elsewhere} requests have their template in another partition: it would not come along"
        return None


class Source(NamedTuple):
    """The two tables of one partition, attached or set aside."""

    requests: Table
    templates: Table

    @classmethod
    def of(cls, schema: str, requests_name: str, templates_name: str) -> Source:
        """Return the tables with these names."""
        named = MetaData()
        return cls(
            requests.to_metadata(named, schema=schema, name=requests_name),
            request_templates.to_metadata(named, schema=schema, name=templates_name),
        )


@contextlib.asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a connection that sees the database as it is now, however long the reading takes."""
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    async with reading.connect() as connection, connection.begin():
        for setting in ("idle_in_transaction_session_timeout", "statement_timeout"):
            await connection.exec_driver_sql(f"SET LOCAL {setting} = 0")
        yield connection


async def facts(connection: AsyncConnection, source: Source) -> Facts:
    """Return the facts of a partition."""
    rows, templates = source
    active = in_states_of(rows.c.state, ACTIVE_STATES)
    is_blank = rows.c.created_by == constant(TOMBSTONE_OWNER)
    lost = and_(rows.c.template_id.is_not(None), templates.c.id.is_(None), _exists_elsewhere(rows))
    counts = {
        "rows": _taken(rows),
        "left_out": or_(is_blank, ~_not_erased(rows)),
        "in_flight": and_(active, ~is_blank),
        "unowned": rows.c.created_by.is_(None),
        "elsewhere": lost,
    }
    query = select(*(func.count().filter(condition).label(name) for name, condition in counts.items()))
    found = (await connection.execute(query.select_from(_joined(source)))).mappings().one()
    return Facts(**found, table=await table_id(connection, source), fingerprint=await fingerprint(connection, source))


async def table_id(connection: AsyncConnection, source: Source) -> int:
    """Return the number that tells the table of requests from one that is made later under its name."""
    name = connection.dialect.identifier_preparer.format_table(source.requests)
    return int((await connection.execute(_TABLE_ID, {"name": name})).scalar_one())


async def fingerprint(connection: AsyncConnection, source: Source) -> str:
    """Return a text that changes with every row that is written, changed or deleted in the two tables."""
    parts = []
    for table in source:
        changed = cast(table.c.id, Text) + cast(func.date_part(constant("epoch"), table.c.updated_at), Text)
        row = func.hashtextextended(changed, literal_column("0"))
        query = select(func.count(), func.coalesce(func.sum(row), literal_column("0")))
        parts += list((await connection.execute(query.select_from(table))).one())
    return ":".join(map(str, parts))


async def digest(connection: AsyncConnection, source: Source) -> str:
    """Return the digest of the rows that are archived, computed by the server. ``row_digest`` computes the same."""
    columns = _columns(source)
    parts: list[ColumnElement[Any]] = [func.uuid_send(columns["id"])]
    parts += [func.coalesce(_sha256(columns[name]), _NOTHING) for name in DIGESTED[1:]]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.op("||")(part)
    first = func.encode(func.substr(func.sha256(whole), 1, 8), constant("hex"))
    number = cast(cast(constant("x") + first, BIT(64)), BigInteger)
    query = select(func.coalesce(func.sum(number), literal_column("0"))).select_from(_joined(source))
    return digest_text([int((await connection.execute(query.where(_taken(source.requests)))).scalar_one())])


async def chunks(
    connection: AsyncConnection, source: Source, cuts: int
) -> AsyncGenerator[tuple[int, list[tuple[Any, ...]]]]:
    """Yield the rows in order, each time a cut and some of its rows, as many as ``CHUNK_BYTES`` hold.

    Rows are tuples in the order of ``NAMES``. A row that is larger comes alone.
    """
    # the sizes first: what is sorted is small then, and nothing is fetched that does not fit
    wanted: list[Any] = []
    cut = size = 0
    async with connection.stream(_heads(source, cuts), execution_options={"yield_per": CHUNK_ROWS}) as heads:
        async for head in heads:
            if wanted and (head.cut != cut or len(wanted) == CHUNK_ROWS or size + head.size > CHUNK_BYTES):
                yield cut, await _rows(connection, source, wanted)
                wanted, size = [], 0
            wanted.append(head.id)
            cut, size = head.cut, size + head.size
        if wanted:
            yield cut, await _rows(connection, source, wanted)


async def _rows(connection: AsyncConnection, source: Source, ids: Sequence[Any]) -> list[tuple[Any, ...]]:
    query = select(*(column.label(name) for name, column in _columns(source).items())).select_from(_joined(source))
    found = (await connection.execute(query.where(among_ids(source.requests.c.id)), {"ids": list(ids)})).mappings()
    rows = {row["id"]: with_utc_times(row, _TIMES) | {"id": row["id"].bytes} for row in found}
    return [tuple(rows[each].values()) for each in ids]


def _heads(source: Source, cuts: int) -> Select[Any]:
    rows, templates = source
    owner = func.sha256(func.convert_to(rows.c.created_by, _UTF8))
    number = func.get_byte(owner, literal_column("0")) * literal_column("256") + func.get_byte(
        owner, literal_column("1")
    )
    size: ColumnElement[int] = literal_column("0")
    for column in (templates.c.body, rows.c.response_body, rows.c.error):
        size = size + func.coalesce(func.octet_length(column), literal_column("0"))
    cut = (number % literal_column(str(cuts))).label("cut")
    return (
        select(rows.c.id, cut, size.label("size"))
        .select_from(_joined(source))
        .where(_taken(rows))
        .order_by(literal_column("2"), rows.c.created_by, rows.c.created_at.desc(), rows.c.id.desc())
    )


def _columns(source: Source) -> dict[str, ColumnElement[Any]]:
    """Return the columns of ``NAMES``, in their order."""
    rows, templates = source
    given: dict[str, ColumnElement[Any]] = {
        "status": rows.c.state,
        "first_id": templates.c.custom_id,
        "metadata": cast(templates.c.metadata, Text),
        **{name: func.coalesce(templates.c[name], "") for name in ("endpoint", "method", "path", "api_key", "body")},
    }
    return {name: given[name] if name in given else rows.c[name] for name in NAMES}


_TIMES: Final = tuple(name for name in NAMES if name.endswith("_at"))


def _joined(source: Source) -> Any:
    rows, templates = source
    return rows.outerjoin(templates, rows.c.template_id == templates.c.id)


def _taken(rows: Table) -> ColumnElement[bool]:
    return and_(rows.c.created_by != constant(TOMBSTONE_OWNER), _not_erased(rows))


def _not_erased(rows: Table) -> ColumnElement[bool]:
    return not_erased(rows.c.created_by, rows.c.started_at)


def _exists_elsewhere(rows: Table) -> ColumnElement[bool]:
    return exists().where(request_templates.c.id == rows.c.template_id)


def _sha256(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.sha256(func.convert_to(column, _UTF8))
