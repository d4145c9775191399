"""The part of the statement that stores rows which writes their entry."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    LargeBinary,
    Select,
    Text,
    Uuid,
    bindparam,
    case,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert

from rwriter._chain.entries import Entry, Outcome, packed
from rwriter.schema import ledger

_IDS: Final = ARRAY(Uuid(), dimensions=1)

_GIVEN: Final[dict[str, Any]] = {
    "writer_id": Uuid(),
    "seq": BigInteger(),
    "kind": Text(),
    "tags": LargeBinary(),
    "digest": LargeBinary(),
    "previous": LargeBinary(),
}
"""Columns whose values the statement that stores rows is given, as parameters with this prefix: ``entry_``."""


def parameters_of(entry: Entry) -> dict[str, Any]:
    """Return the parameters of ``entry`` for a statement with ``stored_entry``."""
    return {
        "entry_writer_id": entry.lane,
        "entry_seq": entry.seq,
        "entry_kind": entry.kind,
        "entry_tags": entry.tags,
        "entry_digest": entry.digest,
        "entry_previous": entry.previous,
    }


def stored_entry(ids: ColumnElement[Sequence[uuid.UUID]], upserted: CTE, inserted: CTE) -> CTE:
    """Insert the entry of a batch beside its rows. A number that is taken raises, and no row is written either."""
    written = select(func.coalesce(func.array_agg(upserted.c.id), _none()).label("ids")).subquery("written")
    fresh = select(func.count()).select_from(inserted).scalar_subquery()
    values: dict[str, ColumnElement[Any]] = {
        name: bindparam(f"entry_{name}", type_=type_) for name, type_ in _GIVEN.items()
    } | {
        "ids": ids,
        "number": func.cardinality(written.c.ids),
        # the CASEs leave the look-ups out where every record was inserted, which is nearly always
        "skipped": case(
            (func.cardinality(ids) > func.cardinality(written.c.ids), _less(ids, select(upserted.c.id))),
        ),
        "begun": case(
            (func.cardinality(written.c.ids) > fresh, _less(written.c.ids, select(inserted.c.id))),
        ),
    }
    source = select(*(value.label(name) for name, value in values.items()))
    insertion = pg_insert(ledger).from_select(list(values), source, include_defaults=False)
    return insertion.returning(ledger.c.skipped, ledger.c.begun).cte("entry")


def _none() -> ColumnElement[Sequence[uuid.UUID]]:
    return literal_column("'{}'::uuid[]", _IDS)


def _less(ids: ColumnElement[Sequence[uuid.UUID]], others: Select[Any]) -> ColumnElement[Any]:
    each = func.unnest(ids).table_valued(column("id", Uuid()), name="each").render_derived()
    rest = select(each.c.id).except_(others).subquery("rest")
    return select(func.array_agg(rest.c.id)).scalar_subquery()


def outcome_of(skipped: Iterable[uuid.UUID] | None, begun: Iterable[uuid.UUID] | None) -> Outcome:
    """Return what the database found, in order."""
    return Outcome(packed(sorted(skipped or ())), packed(sorted(begun or ())))
