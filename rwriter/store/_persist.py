"""Finished requests to their rows: one statement for a batch of any size."""

from __future__ import annotations

import logging
import operator
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ARRAY,
    CTE,
    Case,
    ColumnElement,
    Integer,
    ScalarSelect,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    false,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.sql.expression import Select
from sqlalchemy.types import TypeEngine

from rwriter._chain.entries import NOTHING_ODD, Entry, Outcome
from rwriter._chain.statement import outcome_of, parameters_of, stored_entry
from rwriter.records import CompletedRequest, first_id_of, succeeded
from rwriter.schema import ACTIVE_STATES, NIL_DAEMON, REALTIME_TIER, request_templates, requests
from rwriter.store._connections import Compiled, Connections
from rwriter.store._predicates import (
    AWARE,
    among_ids,
    constant,
    in_states,
    json_of,
    not_erased,
    of_this_library,
    realtime_in_flight,
)
from rwriter.store._results import PersistResult, failure_envelope

log = logging.getLogger("rwriter")

_NAMED: Final = 5

_Value = TypeVar("_Value")

# One array parameter for each, in this order; `arrays_of` fills them.
_ARRAYS: Final[dict[str, TypeEngine[Any]]] = {
    "id": Uuid(),
    "custom_id": Text(),
    "model": Text(),
    "path": Text(),
    "api_key": Text(),
    "created_by": Text(),
    "request_body": Text(),
    "status": SmallInteger(),
    "response_body": Text(),
    "error": Text(),
    "started_at": AWARE,
    "finished_at": AWARE,
}
_TOKENS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
# As many again, for a batch in which any record has one of them: an array costs a flush even if it is empty.
_OWN_FACTS: Final[dict[str, TypeEngine[Any]]] = {
    **dict.fromkeys(_TOKENS, Integer()),
    "first_token_at": AWARE,
    # JSON as text: the driver's own encoder for jsonb is Python's
    "metadata": Text(),
}
_FACTS: Final = _OWN_FACTS | {"first_id": Text()}

_FINISHED_IDS: Final = select(requests.c.id).where(
    among_ids(requests.c.id), in_states(("completed", "failed")), of_this_library()
)

_facts_of: Final = operator.attrgetter(*_OWN_FACTS)
_NO_FACTS: Final = (None,) * len(_OWN_FACTS)


class Persist:
    """The upsert of finished requests, over one set of connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections: Final = connections
        self._compiled: Final[dict[tuple[bool, bool], Compiled]] = {}

    async def __call__(self, records: Sequence[CompletedRequest]) -> PersistResult:
        """Store ``records`` and return which of them have their row. See ``RequestStore.persist_completed``."""
        return (await self.with_entry(records, None))[0]

    async def with_entry(
        self, records: Sequence[CompletedRequest], entry_of: Callable[[Sequence[CompletedRequest]], Entry] | None
    ) -> tuple[PersistResult, Outcome]:
        """Store ``records`` beside their entry of the ledger, which ``entry_of`` makes of them in id order.

        Raises for a number of the ledger that is taken, and then stores nothing.
        """
        # keyed by the number, which hashes and sorts in C; in reverse, so that of an id given twice the first stays
        unique = {record.request_id.int: record for record in reversed(records)}
        if not unique:
            return PersistResult(0, 0, 0, frozenset()), NOTHING_ODD
        # in id order, so that two writers with the same ids wait for each other instead of deadlocking
        in_order = [unique[key] for key in sorted(unique)]
        arrays = arrays_of(in_order)
        if entry_of is not None:
            arrays |= parameters_of(entry_of(in_order))
        found, inserted, unfinished, *odd = await self._connections.write_row(
            lambda: self._statement(facts="metadata" in arrays, entry=entry_of is not None), arrays
        )
        written = frozenset(found)
        if unfinished:
            _log_unfinished(unfinished)
        result = PersistResult(inserted, len(written) - inserted, len(records) - len(written), written)
        return result, outcome_of(*odd) if odd else NOTHING_ODD

    async def finished_ids(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of ``ids`` that have a finished row of this library's kind. Asks the primary."""
        async with self._connections.query(consistent=True) as connection:
            return set((await connection.execute(_FINISHED_IDS, {"ids": list(ids)})).scalars())

    # Compiled once: on each execution SQLAlchemy would walk the whole statement to find what it compiled before.
    # Not in the constructor: the dialect knows its server only after the first connection.

    def build(self, *, entry: bool) -> None:
        """Build the statements now, on a connected engine: the first flush would, while requests wait for the loop."""
        for facts in (False, True):
            self._statement(facts=facts, entry=entry)

    def _statement(self, *, facts: bool, entry: bool) -> Compiled:
        compiled = self._compiled.get((facts, entry))
        if compiled is None:
            compiled = self._compiled[facts, entry] = self._compile(statement(facts=facts, entry=entry))
        return compiled

    def _compile(self, persist: Select[Any, Any, Any]) -> Compiled:
        engine = self._connections.write
        tables = engine.get_execution_options().get("schema_translate_map")
        compiled = persist.compile(
            dialect=engine.dialect, schema_translate_map=tables, render_schema_translate=tables is not None
        )
        return str(compiled), tuple(compiled.positiontup or ())


def _log_unfinished(ids: Sequence[uuid.UUID]) -> None:
    log.warning(
        "%d records were skipped although the rows with their ids are not finished: a batch's, or another tier's. "
        "Their answers are not stored. The first ids: %s",
        len(ids),
        ", ".join(map(str, ids[:_NAMED])),
    )


def arrays_of(records: Sequence[CompletedRequest]) -> dict[str, list[Any]]:
    """Return the array parameters of the statement, by name: those of facts only if a record has any."""
    arrays: dict[str, list[Any]] = {
        "id": [r.request_id for r in records],
        "custom_id": _sparse([r.custom_id for r in records]),
        "model": [r.model for r in records],
        "path": [r.endpoint for r in records],
        "api_key": [r.api_key for r in records],
        "created_by": [r.created_by for r in records],
        "request_body": [r.request_body for r in records],
        "status": [r.status_code for r in records],
        "response_body": [r.response_body for r in records],
        "error": _sparse(
            [None if succeeded(r.status_code) else failure_envelope(r.status_code, r.response_body) for r in records]
        ),
        "started_at": [r.started_at for r in records],
        "finished_at": [r.completed_at for r in records],
    }
    facts = list(map(_facts_of, records))
    first_ids = _sparse(list(map(first_id_of, records)))
    if first_ids or facts.count(_NO_FACTS) < len(facts):
        arrays |= zip(_OWN_FACTS, map(_sparse, map(list, zip(*facts, strict=True))), strict=True)
        arrays["metadata"] = [each and json_of(each) for each in arrays["metadata"]]
        arrays["first_id"] = first_ids
    return arrays


def _sparse(values: list[_Value | None]) -> list[_Value | None]:
    """Return ``values``, or ``[]`` where all are ``None``: unnest() fills a shorter array up with nulls."""
    return values if values.count(None) < len(values) else []


def statement(*, facts: bool, entry: bool = False) -> Select[Any, Any, Any]:
    """Insert or complete a batch, with tokens, the first token's time and metadata if there are ``facts``.

    Returns the ids of the requests written, how many of them were inserted, and the ids of those skipped although
    their row is not finished. With an ``entry`` of the ledger also the ids that got no row, and those whose row was
    begun before.
    """
    batch = _batch(_ARRAYS | _FACTS if facts else _ARRAYS)
    upserted = _upsert(batch)
    templates = _templates(batch, upserted)
    # one array: a row for each id costs the client 7 % of its CPU at batches of 500
    written = select(func.coalesce(func.array_agg(upserted.c.id), _no_ids()).label("written")).subquery("answer")
    answer = select(
        written.c.written,
        select(func.count()).select_from(templates).scalar_subquery().label("inserted"),
        _unfinished(written.c.written).label("unfinished"),
    )
    if entry:
        made = stored_entry(_given("id", _ARRAYS["id"]), upserted, templates)
        answer = answer.add_columns(*(select(each).scalar_subquery().label(each.name) for each in made.c))
    return answer.add_cte(_facts(batch, upserted)) if facts else answer


def _no_ids() -> ColumnElement[Sequence[uuid.UUID]]:
    return literal_column("'{}'::uuid[]", ARRAY(Uuid(), dimensions=1))


def _given(name: str, type_: TypeEngine[Any]) -> ColumnElement[Sequence[Any]]:
    return bindparam(name, type_=ARRAY(type_, dimensions=1))


def _hidden(array: ColumnElement[Sequence[Any]]) -> ScalarSelect[Sequence[Any]]:
    """Hide the length of a parameter from the planner.

    Otherwise a plan for a batch of one looks cheaper than the generic plan, which takes ten elements for granted, and
    the server plans each flush anew: twice its work.
    """
    return select(array).scalar_subquery()


def _unfinished(written: ColumnElement[Sequence[uuid.UUID]]) -> ColumnElement[Sequence[uuid.UUID]]:
    ids = _given("id", _ARRAYS["id"])
    in_flight = select(func.array_agg(requests.c.id)).where(
        # the cast makes an array of it, where ANY would take a subquery for rows
        requests.c.id == func.any(cast(_hidden(ids), ARRAY(Uuid(), dimensions=1))),
        # of those written, the statement sees the rows as they were
        requests.c.id != func.all(written),
        in_states(ACTIVE_STATES),
    )
    # the CASE leaves the look-up out where nothing was skipped, which is nearly always
    return case((func.cardinality(ids) > func.cardinality(written), in_flight.scalar_subquery()))


def _batch(types: Mapping[str, TypeEngine[Any]]) -> CTE:
    first, *others = (_given(name, type_) for name, type_ in types.items())
    arrays = func.unnest(_hidden(first), *others).table_valued(
        *(column(name, type_) for name, type_ in types.items()), name="source"
    )
    source = arrays.render_derived()
    return select(source).where(not_erased(source.c.created_by, source.c.started_at)).cte("v")


def _upsert(batch: CTE) -> CTE:
    v = batch.c
    completed = v.status.between(literal_column("200"), literal_column("299"))
    values = {
        "id": v.id,
        # a template made by this library has its request's id
        "template_id": v.id,
        "model": v.model,
        "custom_id": v.custom_id,
        "state": case((completed, constant("completed")), else_=constant("failed")),
        "daemon_id": literal_column(f"'{NIL_DAEMON}'::uuid", Uuid()),
        "claimed_at": v.started_at,
        "started_at": v.started_at,
        "completed_at": case((completed, v.finished_at)),
        "failed_at": case((~completed, v.finished_at)),
        "response_status": v.status,
        "response_body": v.response_body,
        # here rather than in an array of its own: an element costs the driver more than it costs the server
        "response_size": func.octet_length(v.response_body),
        "error": v.error,
        "service_tier": constant(REALTIME_TIER),
        "created_by": v.created_by,
        "created_at": v.started_at,
    } | {name: v[name] for name in _FACTS if name in v and name in requests.c}
    # no ORDER BY: the arrays are already in id order, and a sort would copy the bodies
    insertion = pg_insert(requests).from_select(list(values), select(*values.values()), include_defaults=False)
    new = insertion.excluded
    return (
        insertion.on_conflict_do_update(
            index_elements=[requests.c.id],
            set_={
                "state": new.state,
                # a daemon's upkeep takes these away when it puts the row back
                "daemon_id": func.coalesce(requests.c.daemon_id, new.daemon_id),
                "claimed_at": func.coalesce(requests.c.claimed_at, new.claimed_at),
                "started_at": func.coalesce(requests.c.started_at, new.started_at),
                "not_before": null(),
                # the row may have been started later than the record says, by another host's clock
                "completed_at": case(
                    (new.completed_at.is_not(None), func.greatest(new.completed_at, requests.c.started_at))
                ),
                "failed_at": case((new.failed_at.is_not(None), func.greatest(new.failed_at, requests.c.started_at))),
                "response_status": new.response_status,
                "response_body": new.response_body,
                "response_size": new.response_size,
                "error": new.error,
            }
            | {name: func.coalesce(new[name], requests.c[name]) for name in ("custom_id", *_TOKENS) if name in values}
            | ({"first_token_at": _first_token_at(new)} if "first_token_at" in values else {}),
            where=realtime_in_flight(),
        )
        .returning(requests.c.id, requests.c.template_id)
        .cte("up")
    )


def _first_token_at(new: ReadOnlyColumnCollection[str, KeyedColumnElement[Any]]) -> Case[Any]:
    later = func.greatest(new.first_token_at, requests.c.started_at)
    return case((new.first_token_at.is_not(None), later), else_=requests.c.first_token_at)


def _templates(batch: CTE, written: CTE) -> CTE:
    """Insert a template for each inserted request.

    A completed row comes back with the template it had: with the one of its own id, which is there (``DO NOTHING``),
    with another's, or with none, and then the join leaves it out.
    """
    v = batch.c
    values = {
        "id": v.id,
        "endpoint": constant(""),
        "method": constant("POST"),
        "path": v.path,
        "model": v.model,
        "api_key": v.api_key,
        "body": v.request_body,
        "body_byte_size": func.octet_length(v.request_body),
    }
    if "metadata" in v:
        # the id before that of the request is nearly always null, and then in no index
        values |= {"metadata": cast(v.metadata, JSONB()), "custom_id": v.first_id}
    source = select(*values.values()).join_from(batch, written, written.c.template_id == v.id)
    return (
        pg_insert(request_templates)
        .from_select(list(values), source, include_defaults=False)
        .on_conflict_do_nothing(index_elements=[request_templates.c.id])
        .returning(request_templates.c.id)
        .cte("fresh")
    )


def _facts(batch: CTE, written: CTE) -> CTE:
    """Write the metadata and the first ids of records whose row was begun before: their templates are there already.

    A template inserted by the statement is not seen here: it has them.
    """
    v, template = batch.c, request_templates.c
    told = case((v.metadata.is_not(None) | v.first_id.is_not(None), constant("told")), else_=constant(""))
    begun = (
        # the maximum, as several rows may share a template that somebody made for them
        select(written.c.template_id, func.max(v.metadata).label("metadata"), func.max(v.first_id).label("first_id"))
        .join_from(written, batch, written.c.id == v.id)
        # Of an equality the planner expects one row: it looks each template up by its key, also where it made its plan
        # when the table was empty
        .where(told == constant("told"))
        .group_by(written.c.template_id)
        .subquery("begun")
    )
    return (
        update(request_templates)
        .values(
            metadata=func.coalesce(cast(begun.c.metadata, JSONB()), template.metadata),
            custom_id=func.coalesce(begun.c.first_id, template.custom_id),
        )
        .where(
            request_templates.c.id == begun.c.template_id,
            # The template of a file serves other requests too. A CASE, as the planner thinks that a test for null alone
            # leaves one row of a table that it has no statistics of, and reads the whole table for it.
            case((request_templates.c.file_id.is_(None), true()), else_=false()),
        )
        .cte("facts")
    )
