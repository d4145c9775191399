"""The SQL, built once at import in SQLAlchemy Core. ``store.py`` is the only caller."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Interval,
    SmallInteger,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.sql.expression import Select
from sqlalchemy.types import TypeEngine

from rwriter.schema import (
    ACTIVE_STATES,
    FINISHED_STATES,
    NIL_DAEMON,
    REALTIME_TIER,
    TOMBSTONE_OWNER,
    dead_letters,
    request_templates,
    requests,
)

ID_CHUNK: Final = 1_000
"""Rows ``fail_stale`` touches in one transaction."""

_AWARE: Final = DateTime(timezone=True)

# one array parameter for each, in this order; store.py fills them
COMPLETED_ARRAYS: Final[dict[str, TypeEngine[Any]]] = {
    "id": Uuid(),
    "template_id": Uuid(),
    "custom_id": Text(),
    "model": Text(),
    "path": Text(),
    "api_key": Text(),
    "created_by": Text(),
    "request_body": Text(),
    "status": SmallInteger(),
    "response_body": Text(),
    "error": Text(),
    "started_at": _AWARE,
    "finished_at": _AWARE,
}


def _persist_completed() -> Select[int, int]:
    """Insert or finish a batch in one statement; answers how many rows were written, and how many of them new.

    Every row is given a fresh template id. An inserted row comes back with it, an updated one with the id of the
    template it already had: joining on it writes templates for exactly the inserted rows.
    """
    source = func.unnest(
        *(bindparam(name, type_=ARRAY(type_, dimensions=1)) for name, type_ in COMPLETED_ARRAYS.items())
    ).table_valued(*(column(name, type_) for name, type_ in COMPLETED_ARRAYS.items()), name="source")
    v = select(source.render_derived()).cte("v")

    completed = v.c.status.between(literal_column("200"), literal_column("299"))
    insertion = pg_insert(requests).from_select(
        [
            "id",
            "template_id",
            "model",
            "custom_id",
            "state",
            "daemon_id",
            "claimed_at",
            "started_at",
            "completed_at",
            "failed_at",
            "response_status",
            "response_body",
            "response_size",
            "error",
            "service_tier",
            "created_by",
            "created_at",
        ],
        # no ORDER BY: the arrays are already in id order, and a sort would copy the bodies
        select(
            v.c.id,
            v.c.template_id,
            v.c.model,
            v.c.custom_id,
            case((completed, constant("completed")), else_=constant("failed")),
            literal_column(f"'{NIL_DAEMON}'::uuid", Uuid()),
            v.c.started_at,
            v.c.started_at,
            case((completed, v.c.finished_at)),
            case((~completed, v.c.finished_at)),
            v.c.status,
            v.c.response_body,
            # here rather than in arrays of their own: an element costs the driver more than it costs the server
            func.octet_length(v.c.response_body),
            v.c.error,
            constant(REALTIME_TIER),
            v.c.created_by,
            v.c.started_at,
        ),
        include_defaults=False,
    )
    new = insertion.excluded
    upsert = (
        insertion.on_conflict_do_update(
            index_elements=[requests.c.id],
            set_={
                "state": new.state,
                # the row may have been started later than the record says, by another host's clock
                "completed_at": case(
                    (new.completed_at.is_not(None), func.greatest(new.completed_at, requests.c.started_at))
                ),
                "failed_at": case((new.failed_at.is_not(None), func.greatest(new.failed_at, requests.c.started_at))),
                "response_status": new.response_status,
                "response_body": new.response_body,
                "response_size": new.response_size,
                "error": new.error,
                "custom_id": func.coalesce(new.custom_id, requests.c.custom_id),
            },
            where=_realtime_in_flight(),
        )
        .returning(requests.c.template_id)
        .cte("up")
    )
    templates = (
        insert(request_templates)
        .from_select(
            ["id", "custom_id", "endpoint", "method", "path", "model", "api_key", "body", "body_byte_size"],
            select(
                v.c.template_id,
                v.c.custom_id,
                constant(""),
                constant("POST"),
                v.c.path,
                v.c.model,
                v.c.api_key,
                v.c.request_body,
                func.octet_length(v.c.request_body),
            ).join_from(v, upsert, upsert.c.template_id == v.c.template_id),
            include_defaults=False,
        )
        .returning(request_templates.c.id)
        .cte("fresh")
    )
    return select(
        select(func.count()).select_from(upsert).scalar_subquery().label("written"),
        select(func.count()).select_from(templates).scalar_subquery().label("inserted"),
    )


def constant(value: str) -> ColumnElement[str]:
    """One of this package's own words, inlined: a parameter would hide it from the planner's partial indexes."""
    return literal_column(f"'{value}'", Text())


def in_states(states: Sequence[str]) -> ColumnElement[bool]:
    """``state IN (...)`` in the words of the partial indexes."""
    return requests.c.state.in_([constant(state) for state in states])


def _realtime_in_flight() -> ColumnElement[bool]:
    """The only rows of others' making that the writer may finish."""
    return and_(
        requests.c.state == constant("processing"),
        requests.c.service_tier == constant(REALTIME_TIER),
        requests.c.batch_id.is_(None),
    )


def visible() -> ColumnElement[bool]:
    """Rows a reader may see: attributed to somebody, and not the blanked remains of a deletion."""
    return and_(requests.c.created_by.is_not(None), requests.c.created_by != constant(TOMBSTONE_OWNER))


PERSIST_COMPLETED: Final = _persist_completed()

INSERT_TEMPLATE: Final = insert(request_templates)

INSERT_PROCESSING: Final = insert(requests).values(
    state="processing",
    daemon_id=NIL_DAEMON,
    claimed_at=func.now(),
    started_at=func.now(),
    service_tier=REALTIME_TIER,
)

INSERT_DEAD_LETTER: Final = pg_insert(dead_letters).on_conflict_do_nothing(index_elements=[dead_letters.c.id])

SUMMARY_COLUMNS: Final = (
    requests.c.id,
    requests.c.batch_id,
    requests.c.model,
    requests.c.state.label("status"),
    requests.c.created_at,
    requests.c.started_at,
    requests.c.completed_at,
    requests.c.failed_at,
    requests.c.response_status,
    requests.c.service_tier,
    requests.c.created_by,
)

_DETAIL: Final = (
    select(
        *SUMMARY_COLUMNS,
        func.coalesce(request_templates.c.path, "").label("path"),
        func.coalesce(request_templates.c.body, "").label("body"),
        requests.c.response_body,
        requests.c.error,
    )
    .select_from(requests.outerjoin(request_templates, requests.c.template_id == request_templates.c.id))
    .where(visible())
)

SELECT_REQUEST: Final = _DETAIL.where(requests.c.id == bindparam("request_id"))

SELECT_BY_CUSTOM_ID: Final = (
    _DETAIL.where(requests.c.custom_id == bindparam("custom_id"), requests.c.created_by == bindparam("owner"))
    .order_by(requests.c.created_at.desc(), requests.c.id.desc())
    .limit(1)
)

SELECT_FINISHED_IDS: Final = select(requests.c.id).where(
    requests.c.id == func.any(bindparam("ids", type_=ARRAY(Uuid(), dimensions=1))),
    in_states(("completed", "failed")),
    requests.c.service_tier == constant(REALTIME_TIER),
    requests.c.batch_id.is_(None),
)


def _unsettled() -> ColumnElement[bool]:
    """A completion may still come: of a row in flight, and of one that was failed while its app may have gone on.

    Cancelled rows and disconnected ones are 499, abandoned ones 504.
    """
    given_up = and_(
        requests.c.state == constant("failed"),
        requests.c.service_tier == constant(REALTIME_TIER),
        requests.c.response_status.in_((literal_column("499"), literal_column("504"))),
    )
    return or_(in_states(ACTIVE_STATES), given_up)


_TO_DELETE: Final = (requests.c.id, requests.c.template_id, _unsettled().label("unsettled"))

LOCK_FOR_DELETE: Final = (
    select(*_TO_DELETE)
    .where(
        requests.c.id == bindparam("request_id"),
        visible(),
        or_(bindparam("owner", type_=Text()).is_(None), requests.c.created_by == bindparam("owner", type_=Text())),
    )
    .with_for_update()
)


def _among(identity: ColumnElement[uuid.UUID]) -> ColumnElement[bool]:
    return identity == func.any(bindparam("ids", type_=ARRAY(Uuid(), dimensions=1)))


DELETE_REQUESTS: Final = delete(requests).where(_among(requests.c.id))

# the daemon's batches share the templates of their file, which is the file's to delete
DELETE_TEMPLATES: Final = delete(request_templates).where(
    _among(request_templates.c.id),
    request_templates.c.file_id.is_(None),
    ~exists().where(requests.c.template_id == request_templates.c.id),
)

BLANK_REQUESTS: Final = (
    update(requests)
    .where(_among(requests.c.id))
    .values(
        state="canceled",
        canceled_at=func.now(),
        template_id=null(),
        model="",
        custom_id=null(),
        response_status=null(),
        response_body=null(),
        response_size=0,
        error=null(),
        routed_model=null(),
        created_by=TOMBSTONE_OWNER,
    )
)

_OWNER: Final = bindparam("owner", type_=Text())
_BEFORE: Final = bindparam("before", type_=_AWARE)
_SIZE: Final = bindparam("size", type_=Integer())

LOCK_OF_OWNER: Final = (
    select(*_TO_DELETE).where(requests.c.created_by == _OWNER, visible()).limit(_SIZE).with_for_update(skip_locked=True)
)

LOCK_BEFORE: Final = (
    # nothing comes that late
    select(requests.c.id, requests.c.template_id, false().label("unsettled"))
    .where(
        requests.c.created_by.is_not(None),
        requests.c.created_at < _BEFORE,
        in_states(FINISHED_STATES),
        requests.c.service_tier == constant(REALTIME_TIER),
        requests.c.batch_id.is_(None),
    )
    # through the index, oldest first: without an order the planner may begin a scan of the whole table for each chunk
    .order_by(requests.c.created_at, requests.c.id)
    .limit(_SIZE)
    .with_for_update(skip_locked=True)
)


def _delete_letters(condition: ColumnElement[bool]) -> Executable:
    chosen = select(dead_letters.c.id).where(condition).limit(_SIZE).with_for_update(skip_locked=True).cte("chosen")
    return delete(dead_letters).where(dead_letters.c.id == chosen.c.id)


DELETE_LETTERS_OF_OWNER: Final = _delete_letters(dead_letters.c.created_by == _OWNER)
DELETE_LETTERS_BEFORE: Final = _delete_letters(dead_letters.c.created_at < _BEFORE)


def _fail_stale() -> Executable:
    stale = (
        select(requests.c.id)
        .where(
            _realtime_in_flight(),
            requests.c.created_by.is_not(None),
            # implied by the line above; said again in the words of ix_requests_active, so that the planner may use it
            in_states(ACTIVE_STATES),
            requests.c.started_at < func.now() - bindparam("older_than", type_=Interval()),
        )
        .limit(ID_CHUNK)
        .with_for_update(skip_locked=True)
        .cte("stale")
    )
    return (
        update(requests)
        .where(requests.c.id == stale.c.id)
        .values(
            state="failed",
            failed_at=func.now(),
            response_status=504,
            error=bindparam("error"),
        )
    )


FAIL_STALE: Final = _fail_stale()
