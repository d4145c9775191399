"""Classifies database errors: retry the records, set the bad one aside, or call the operator with advice.

The SQLSTATE and the exception's class decide, never the message text: messages are translated and change between
releases. Everything the library knows of a SQLSTATE stands in the tables of this module.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator
from traceback import clear_frames
from typing import Final

import asyncpg
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InvalidRequestError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from rwriter._values.escape import escape
from rwriter._values.variables import URL_FORM
from rwriter.errors import RwriterError, SinkMisconfigured, SinkRefusedRecord, SinkUnavailable


class Kind(enum.Enum):
    """The reaction an error calls for."""

    TRANSIENT = "transient"
    """The database is down or busy: send the same records again later."""
    DATA = "data"
    """One of the records cannot be stored: find it, keep it in dead_letters, store the others."""
    CONFIGURATION = "configuration"
    """Nothing can be stored until somebody mends the set-up. Treated as an outage: records are not to blame."""


# a sink that is no database says by the class of its error what is to be done
_KIND_BY_SINK: Final = {
    SinkUnavailable: Kind.TRANSIENT,
    SinkRefusedRecord: Kind.DATA,
    SinkMisconfigured: Kind.CONFIGURATION,
}

_KIND_BY_STATE: Final = {
    "0A000": Kind.TRANSIENT,  # a cached plan outlived a migration; the next attempt prepares anew
}

_KIND_BY_CLASS: Final = {
    "08": Kind.TRANSIENT,  # connection
    "25": Kind.TRANSIENT,  # transaction state: a standby (25006), a server-side timeout
    "40": Kind.TRANSIENT,  # serialization, deadlock
    "53": Kind.TRANSIENT,  # out of disk, memory, connections
    "55": Kind.TRANSIENT,  # lock not available, object in use
    "57": Kind.TRANSIENT,  # shutdown, cancelled, starting up
    "58": Kind.TRANSIENT,  # I/O
    "XX": Kind.TRANSIENT,  # internal error
    "22": Kind.DATA,  # data exception
    "23": Kind.DATA,  # constraint
    "44": Kind.DATA,  # WITH CHECK OPTION
    "54": Kind.DATA,  # a value over one of the server's limits, e.g. too long for an index
    "P0": Kind.DATA,  # RAISE in a trigger of the operator's
}

# refusals of the connection itself: a pooler or a server that does not know this service, whatever the class says
_REFUSED_AT_CONNECT: Final = ("08P01", "XX000", "0A000", "28", "3D000", "42501")

_CONNECTING: Final = "rwriter_connecting"
_UNCOMMITTED: Final = "rwriter_uncommitted"

_MIGRATE: Final = "run `rwriter migrate` (or `alembic upgrade head`) on this database and schema"
_IN_THE_WAY: Final = (
    "rwriter did not make it; where the service's own Alembic lists rwriter's versions, run that; "
    "otherwise choose another --schema"
)
_PGBOUNCER: Final = "behind PgBouncer write ?pgbouncer=true in the URL, or DbEngines.from_url(..., pgbouncer=True)"

# keyed by SQLSTATE, or by its class of two characters
_ADVICE: Final = {
    "08P01": f"{_PGBOUNCER}: it refuses what is asked of a session",
    "26000": f"{_PGBOUNCER}: a prepared statement vanished",
    "28": "check the user, the password and pg_hba.conf",
    "3D000": "create the database, then run `rwriter migrate`",
    "3F000": "run `rwriter migrate --schema NAME`, which creates the schema",
    "42": "run `rwriter check`: the schema may not be the one this release needs",
    "42501": (
        "connect as the owner of the schema, or have the owner grant this role what is missing: "
        "SELECT, INSERT, UPDATE, DELETE on rwriter's tables, and CREATE on the schema to migrate it"
    ),
    "42703": f"{_MIGRATE}: a column is missing",
    "42710": _IN_THE_WAY,
    "42723": _IN_THE_WAY,
    "42939": "choose another --schema",
    "42P01": f"{_MIGRATE}: a table is missing",
    "42P05": f"{_PGBOUNCER}: a prepared statement exists already",
    "42P07": _IN_THE_WAY,
    "53300": "the server has no connection left: try again",
    "55P03": "another session holds a lock on the tables: end it, or try again later",
    "57P03": "the server is starting or stopping: try again",
}

# with the driver's own classes, as SQLAlchemy does not wrap what fails while a connection is made
AWAY: Final = (
    SQLAlchemyError,
    OSError,
    TimeoutError,
    RwriterError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""Errors that the store and the writer raise while the database is away."""

# OSError: refused, reset, no such host. InterfaceError: the driver saw the connection close. InternalClientError: no
# host has the role asked for. A value the driver cannot encode is none of these: it comes with SQLSTATE 22000.
_LOST: Final = (OSError, TimeoutError, PoolTimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def mark_connecting(exc: BaseException) -> None:
    """Note on ``exc`` that it came while a connection was acquired: no statement had been sent."""
    vars(exc)[_CONNECTING] = True


def mark_uncommitted(exc: BaseException) -> None:
    """Note on ``exc`` that it came in a transaction before its COMMIT was sent: it can have had no effect."""
    vars(exc)[_UNCOMMITTED] = True


def met_connecting(exc: BaseException) -> bool:
    """Return True if ``exc`` came while a connection was acquired, or from a sink that is away."""
    return isinstance(exc, SinkUnavailable) or any(_CONNECTING in vars(cause) for cause in _chain(exc))


def lost_connection(exc: BaseException) -> bool:
    """Return True if the server was reached, and the connection was dead or died: another may live.

    A server that is not reached is no lost connection, but an outage.
    """
    sqlstate = sqlstate_of(exc)
    ended = sqlstate is not None and sqlstate.startswith(("08003", "08006", "57P01", "57P02", "57P05"))
    # the driver's own word, for an error of use as well: on a dead connection it is one or the other
    connecting = met_connecting(exc)
    # SQLAlchemy's pool met dead connections only, and made none that lived
    exhausted = connecting and any(isinstance(cause, InvalidRequestError) for cause in _chain(exc))
    invalidated = isinstance(exc, DBAPIError) and exc.connection_invalidated and not connecting
    return ended or exhausted or invalidated or any(_says_closed(cause) for cause in _chain(exc))


def without_effect(exc: BaseException) -> bool:
    """Return True for a lost connection on which nothing can have happened.

    The driver knew that it was dead, or what it had taken was not committed.
    """
    return lost_connection(exc) and (
        met_connecting(exc) or any(_says_closed(cause) or _UNCOMMITTED in vars(cause) for cause in _chain(exc))
    )


def _says_closed(cause: BaseException) -> bool:
    if isinstance(cause, asyncpg.InternalClientError):
        # the connection died in the middle of a dialogue, and asyncpg will not begin another
        return not isinstance(cause, asyncpg.TargetServerAttributeNotMatched)
    return isinstance(cause, asyncpg.InterfaceError) and not isinstance(cause, ValueError)


def failure_of(exc: BaseException) -> Kind:
    """Return the kind of an error. An unknown one is the operator's to mend: an outage, never a bad record."""
    for error, kind in _KIND_BY_SINK.items():
        if isinstance(exc, error):
            return kind
    sqlstate = sqlstate_of(exc)
    if sqlstate is not None:
        if met_connecting(exc) and sqlstate.startswith(_REFUSED_AT_CONNECT):
            return Kind.CONFIGURATION
        by_class = _KIND_BY_CLASS.get(sqlstate[:2], Kind.CONFIGURATION)
        kind = _KIND_BY_STATE.get(sqlstate, by_class)
        # no record has been sent yet
        return Kind.CONFIGURATION if kind is Kind.DATA and met_connecting(exc) else kind
    for cause in _chain(exc):
        if isinstance(cause, _LOST):
            # a ValueError too: a certificate that cannot be trusted, or an argument of connect() that cannot be used
            return Kind.CONFIGURATION if isinstance(cause, ValueError) else Kind.TRANSIENT
        no_living_one = isinstance(cause, InvalidRequestError) and met_connecting(exc)
        if no_living_one or (isinstance(cause, DBAPIError) and cause.connection_invalidated):
            return Kind.TRANSIENT
        # psycopg's: libpq tells no SQLSTATE of a connection that was not made, nor of a value that it cannot send
        if isinstance(cause, OperationalError):
            return Kind.TRANSIENT
        if isinstance(cause, DataError):
            return Kind.DATA
    return Kind.CONFIGURATION


def sqlstate_of(exc: BaseException) -> str | None:
    """Return the five-character SQLSTATE of an exception or its causes, or ``None`` if there is none."""
    for cause in _chain(exc):
        sqlstate = getattr(cause, "sqlstate", None)
        if isinstance(sqlstate, str):
            return sqlstate
    return None


def in_no_partition(exc: BaseException) -> bool:
    """Return True for a row that no partition takes: a violated check that, unlike every other, has no name."""
    error = _postgres_error(exc)
    named = getattr(error, "constraint_name", None) or getattr(getattr(error, "diag", None), "constraint_name", None)
    return sqlstate_of(exc) == "23514" and named is None


def out_of_connections(exc: BaseException) -> bool:
    """Return True if the server or the pool had no connection left: somebody else holds them, perhaps this writer."""
    return sqlstate_of(exc) == "53300" or any(isinstance(cause, PoolTimeoutError) for cause in _chain(exc))


def advice(exc: BaseException) -> str:
    """Return what the operator can do about an error that keeps the writer from writing."""
    if isinstance(exc, RwriterError):
        return "the writer tries again by itself"
    sqlstate = sqlstate_of(exc)
    known = _advice_for(sqlstate)
    if known is not None:
        return known
    if sqlstate is not None:
        return f"the server's log has the words to SQLSTATE {sqlstate}"
    return "check the URL of the database and its options"


def explain(exc: BaseException) -> str | None:
    """Return one line for a terminal, the reason and what to do about it, or ``None`` for an unforeseen exception.

    The line never quotes a password, nor a statement with its parameters.
    """
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, RwriterError):
        return str(exc)
    if isinstance(exc, ArgumentError):
        # SQLAlchemy's message may quote a part of the URL, and that part may be the password
        return f"cannot use this database URL: write {URL_FORM}, with %XX for special characters"
    if isinstance(exc, ValueError):
        return f"cannot use this database URL: {escape(str(exc))}"
    return _explain_refusal(exc) if sqlstate_of(exc) is not None else _explain_loss(exc)


def _explain_refusal(exc: BaseException) -> str:
    known, words = _advice_for(sqlstate_of(exc)), _first_line(_driver_error(exc))
    return f"PostgreSQL says: {words}: {known}" if known else f"PostgreSQL says: {words} (SQLSTATE {sqlstate_of(exc)})"


def _explain_loss(exc: BaseException) -> str | None:
    error = _driver_error(exc)
    words = f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")
    if isinstance(exc, OSError) and exc.filename is None:
        return f"cannot reach the database, {words}: is it running, and is its URL right?"
    return words if isinstance(exc, (SQLAlchemyError, *_LOST)) else None


def describe(exc: BaseException) -> str:
    """Return class and SQLSTATE of the driver's own error, without the statement and never with its parameters.

    An error that came while connecting quotes no row: the server's own words are added to it. An error of this library
    is its own words.
    """
    if isinstance(exc, RwriterError):
        return str(exc)
    driver_error = _postgres_error(exc)
    sqlstate = sqlstate_of(exc)
    name = type(driver_error if driver_error is not None else exc).__name__
    words = f": {_first_line(driver_error)}" if driver_error is not None and met_connecting(exc) else ""
    return name + (f" (SQLSTATE {sqlstate})" if sqlstate is not None else "") + words


def server_message(exc: BaseException) -> str:
    """Return the server's message with its DETAIL, for ``dead_letters`` alone: the DETAIL can quote the whole row."""
    driver_error = _postgres_error(exc)
    if driver_error is None:
        return f"{type(exc).__name__}: {exc}"
    # psycopg's own words are the whole report, over several lines
    report = getattr(driver_error, "diag", None)
    detail = getattr(driver_error, "detail", None) or getattr(report, "message_detail", None)
    primary = getattr(report, "message_primary", None) or next(iter(driver_error.args), "")
    message = f"{type(driver_error).__name__}: {primary}"
    return f"{message}\nDETAIL: {detail}" if detail else message


def backoff(attempt: int, *, base: float, maximum: float) -> float:
    """Return seconds to wait before retry number ``attempt`` (from 0): doubling from ``base`` up to ``maximum``.

    Times a random 1 to 1.5, so that the processes of a fleet do not try in step.
    """
    # the exponent is capped too: 2.0**1024 overflows
    return min(maximum, base * 2.0 ** min(attempt, 64)) * random.uniform(1.0, 1.5)  # noqa: S311 -- jitter, not a secret


def forget_locals(exc: BaseException) -> None:
    """Clear the local variables in the tracebacks of ``exc`` and its causes, of every frame that has ended.

    They are the parameters of the statement, which are bodies: whoever prints a traceback with local variables would
    print them, and whoever keeps the exception would keep them in memory.
    """
    for cause in _chain(exc):
        clear_frames(cause.__traceback__)


def _advice_for(sqlstate: str | None) -> str | None:
    if sqlstate is None:
        return None
    return _ADVICE.get(sqlstate, _ADVICE.get(sqlstate[:2]))


def _driver_error(exc: BaseException) -> BaseException:
    # SQLAlchemy wraps twice, and its own words carry the statement
    wrapped = getattr(exc, "orig", None)
    return exc if wrapped is None else wrapped.__cause__ or wrapped


def _first_line(exc: BaseException) -> str:
    # it may quote what a client sent, and goes to a terminal or a log
    return escape(next(iter(str(exc).splitlines()), ""))


def _postgres_error(exc: BaseException) -> BaseException | None:
    """Return asyncpg's or psycopg's own error; the latter need not be installed, and is known by its ``diag``."""
    return next(
        (cause for cause in _chain(exc) if isinstance(cause, asyncpg.PostgresError) or hasattr(cause, "diag")), None
    )


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        orig = getattr(exc, "orig", None)
        exc = orig if isinstance(orig, BaseException) else exc.__cause__
