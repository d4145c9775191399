"""What a failed statement means for the records in it: try again, set the bad one aside, or call the operator.

Decided by SQLSTATE and exception class, never by message text: messages are translated and change between releases.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class Kind(enum.Enum):
    """What to do about a failure."""

    TRANSIENT = "transient"
    """The database is away or busy: the same records, later."""
    DATA = "data"
    """One of the records cannot be stored: find it, keep it in dead_letters, store the others."""
    CONFIGURATION = "configuration"
    """Nothing can be stored until somebody mends the set-up. Treated as an outage: records are not to blame."""


_BY_STATE = {
    "0A000": Kind.TRANSIENT,  # a cached plan outlived a migration; the next attempt prepares anew
}

_BY_CLASS = {
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

_FIXES = {
    "42P01": "a table is missing: run `rwriter migrate` (or `alembic upgrade head`) on this database and schema",
    "42703": "a column is missing: run `rwriter migrate` (or `alembic upgrade head`) on this database and schema",
    "3F000": "the schema does not exist: run `rwriter migrate --schema NAME`",
    "3D000": "the database does not exist: create it, then run `rwriter migrate`",
    "42501": "the role lacks privileges: grant SELECT, INSERT, UPDATE, DELETE on rwriter's tables",
    "26000": "a prepared statement vanished: behind PgBouncer use DbEngines.from_url(..., pgbouncer=True)",
    "42P05": "a prepared statement exists already: behind PgBouncer use DbEngines.from_url(..., pgbouncer=True)",
}
_FIXES_BY_CLASS = {
    "28": "the server refuses the credentials: check user, password and pg_hba.conf",
    "42": "the schema is not the one this release needs: run `rwriter check`",
}

# OSError: refused, reset, no such host. InterfaceError: the driver saw the connection close. InternalClientError: no
# host is in the role asked for. A value the driver cannot encode is none of these: it comes with SQLSTATE 22000.
_LOST = (OSError, TimeoutError, PoolTimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def failure_of(exc: BaseException) -> Kind:
    """The kind of a failure. What is in no list is the operator's: treated as an outage, never as a bad record."""
    sqlstate = sqlstate_of(exc)
    if sqlstate is not None:
        by_class = _BY_CLASS.get(sqlstate[:2], Kind.CONFIGURATION)
        return _BY_STATE.get(sqlstate, by_class)
    for cause in _chain(exc):
        if isinstance(cause, _LOST):
            # a ValueError too: a certificate that cannot be trusted, or an argument of connect() that cannot be used
            return Kind.CONFIGURATION if isinstance(cause, ValueError) else Kind.TRANSIENT
        if isinstance(cause, DBAPIError) and cause.connection_invalidated:
            return Kind.TRANSIENT
    return Kind.CONFIGURATION


def sqlstate_of(exc: BaseException) -> str | None:
    """The five-character SQLSTATE in an exception or its causes, if the server (or the driver for it) gave one."""
    for cause in _chain(exc):
        sqlstate = getattr(cause, "sqlstate", None)
        if isinstance(sqlstate, str):
            return sqlstate
    return None


def fix_for(exc: BaseException) -> str:
    """What the operator can do about a configuration failure."""
    sqlstate = sqlstate_of(exc) or ""
    general = _FIXES_BY_CLASS.get(sqlstate[:2], "see the error; records wait as in an outage until it is mended")
    return _FIXES.get(sqlstate, general)


def describe(exc: BaseException) -> str:
    """Class and SQLSTATE of the driver's own error, without the statement and never with its parameters."""
    driver_error = next((c for c in _chain(exc) if isinstance(c, asyncpg.PostgresError)), None)
    sqlstate = sqlstate_of(exc)
    name = type(driver_error if driver_error is not None else exc).__name__
    return f"{name} (SQLSTATE {sqlstate})" if sqlstate is not None else name


def server_message(exc: BaseException) -> str:
    """The driver's own words, for ``dead_letters`` alone: PostgreSQL's DETAIL can quote the whole row."""
    driver_error = next((c for c in _chain(exc) if isinstance(c, asyncpg.PostgresError)), None)
    if driver_error is None:
        return f"{type(exc).__name__}: {exc}"
    detail = getattr(driver_error, "detail", None)
    message = f"{type(driver_error).__name__}: {driver_error.args[0] if driver_error.args else ''}"
    return f"{message}\nDETAIL: {detail}" if detail else message


def backoff(attempt: int, *, base: float, maximum: float) -> float:
    """Seconds to wait before retry number ``attempt`` (from 0): full jitter under a doubling, capped bound."""
    # the exponent is capped too: 2.0**1024 overflows
    return random.uniform(0, min(maximum, base * 2.0 ** min(attempt, 64)))  # noqa: S311 -- jitter, not a secret


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        orig = getattr(exc, "orig", None)
        exc = orig if isinstance(orig, BaseException) else exc.__cause__
