"""Checks of the server and of the way to it: version, encoding, log, pooler, time-outs, clock, room, replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from sqlalchemy import RowMapping, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rwriter._database_errors import sqlstate_of
from rwriter.cli._doctor._findings import Finding, Patient, judged
from rwriter.store import encoding_refusal

OLDEST_SERVER: Final = 15
"""The first major release of PostgreSQL that the suite runs on."""
SKEW: Final = 5.0
"""Seconds by which clocks may differ: ids, retention and the partitions go by the time of whoever makes them."""
LAG: Final = 30.0
"""Seconds that a replica may be behind."""
FEW_CONNECTIONS: Final = 10
"""Connections that one service opens by default: five to write and five to read."""
_POOLER_TIMEOUT: Final = 3.0
_UNKNOWN_STATEMENT: Final = ("26000", "42P05")

_SERVER: Final = """
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
        current_setting('default_transaction_read_only') = 'on' AS read_only,
        EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) AS lz4,
        current_setting('log_parameter_max_length_on_error') <> '0' AS logs_of_errors,
        current_setting('log_parameter_max_length') <> '0' AND (
            current_setting('log_statement') IN ('mod', 'all') OR current_setting('log_min_duration_statement') <> '-1'
            OR current_setting('log_min_duration_sample') <> '-1'
            OR current_setting('log_transaction_sample_rate') <> '0') AS logs_of_statements,
        extract(epoch FROM clock_timestamp())::float8 AS clock
"""

# the session has a statement_timeout of its own; a service with engines of its own, or a pooler, has the role's
_TIMEOUTS: Final = """
    WITH given AS MATERIALIZED (
        SELECT split_part(setting, '=', 1) AS name, split_part(setting, '=', 2) AS value
        FROM pg_db_role_setting s, unnest(setconfig) AS setting
        WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
            AND split_part(setting, '=', 1) IN
                ('statement_timeout', 'transaction_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
    )
    SELECT name, value FROM given WHERE value NOT IN ('', '0') AND
        CASE WHEN name IN ('statement_timeout', 'transaction_timeout') THEN CAST(:statement AS bigint) ELSE :lock END
        > CASE WHEN value ~ '^[0-9]+$' THEN value::bigint ELSE (extract(epoch FROM value::interval) * 1000)::bigint END
    ORDER BY name
"""

_ROOM: Final = """
    SELECT current_setting('max_connections')::int - (SELECT count(*) FROM pg_stat_activity) AS server,
        CASE WHEN datconnlimit >= 0 THEN datconnlimit END AS database,
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0) AS role
    FROM pg_database WHERE datname = current_database()
"""

_REPLICAS: Final = """
    SELECT 'replica ' || coalesce(nullif(application_name, ''), client_addr::text, pid::text) AS name,
        extract(epoch FROM replay_lag)::float8 AS lag, NULL::bigint AS kept
    FROM pg_stat_replication WHERE replay_lag > make_interval(secs => :lag)
    UNION ALL
    SELECT 'slot ' || slot_name, NULL, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
    FROM pg_replication_slots WHERE NOT active AND restart_lsn IS NOT NULL
"""

_BEHIND: Final = """
    SELECT 'this standby' AS name, NULL::bigint AS kept,
        extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS lag
    WHERE pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn()
        AND clock_timestamp() - pg_last_xact_replay_timestamp() > make_interval(secs => :lag)
"""


async def server(patient: Patient) -> list[Finding]:
    """Look at version, encoding, compression, log, clock, and whether the server may be written to."""
    began = time.time()
    (found,) = await patient.ask(_SERVER)
    return list(_of_server(found, found["clock"] - (began + time.time()) / 2))


def _of_server(found: RowMapping, ahead: float) -> Iterator[Finding]:
    version, encoding = found["version"], found["encoding"]
    yield Finding("database", "ok", "reached, and it is a standby" if found["standby"] else "reached")
    told = "this is a standby" if found["standby"] else "default_transaction_read_only is on for this role or database"
    closed = found["standby"] or found["read_only"]
    fix = "name the primary, or every host with target_session_attrs=read-write" if found["standby"] else "turn it off"
    yield judged("writable", "takes writes", f"{told}: nothing can be stored; {fix}" if closed else None, "fail")
    told = f"PostgreSQL {version}: older than {OLDEST_SERVER}, not tested; upgrade the server"
    yield judged("server", f"PostgreSQL {version}", told if found["major"] < OLDEST_SERVER else None)
    yield judged("encoding", encoding, encoding_refusal(encoding), "fail")
    told = "not in this server: bodies are compressed with pglz, which takes more CPU; use a server built with lz4"
    yield judged("lz4", "bodies are compressed with it", None if found["lz4"] else told)
    logged = " and ".join(name for name in ("errors", "statements") if found[f"logs_of_{name}"])
    told = f"bodies are in it, as parameters of {logged}: set log_parameter_max_length and its _on_error to 0"
    yield judged("server log", "without parameters", told if logged else None)
    side = "ahead of" if ahead > 0 else "behind"
    told = f"the server's is {abs(ahead):.0f} s {side} this host's: run an NTP client on both"
    yield judged("clock", "as this host's", told if abs(ahead) > SKEW else None)


async def timeouts(patient: Patient) -> Finding:
    """Look for time-outs of the role or the database that cut short what the library does."""
    found = await patient.ask(_TIMEOUTS, statement=10_000, lock=1_000)
    given = ", ".join(f"{row['name']} = {row['value']}" for row in found)
    told = f"{given} for this role or database cuts flushes, purges and pages short: ALTER ROLE ... RESET, or raise it"
    return judged("time-outs", "long enough", told if given else None)


async def room(patient: Patient) -> Finding:
    """Look whether a service gets the connections it opens by default."""
    (found,) = await patient.ask(_ROOM)
    known = {who: number for who, number in found.items() if number is not None}
    few = ", ".join(f"{number} for the {who}" for who, number in known.items() if number < FEW_CONNECTIONS)
    told = f"few are left, {few}: a service opens up to {FEW_CONNECTIONS}; raise the limit, or lower pool_size"
    return judged("connections", f"{found['server']} are free", told if few else None)


async def replicas(patient: Patient, *, standby: bool) -> Finding:
    """Look for replicas that are far behind, and for slots that keep WAL for nobody."""
    found = await patient.ask(_BEHIND if standby else _REPLICAS, lag=LAG)
    told = "; ".join(map(_lagging, found))
    return judged("replicas", "none is behind", told or None)


def _lagging(row: RowMapping) -> str:
    if row["kept"] is None:
        return f"{row['name']} is {row['lag']:.0f} s behind: a reader there does not find what was just stored"
    return f"{row['name']} keeps {row['kept'] >> 20:,} MiB of WAL for nobody: start its replica, or drop the slot"


async def pooler(engine: AsyncEngine, *, declared: bool) -> Finding:
    """Find out whether transactions of one connection are run by several sessions, which a pooler's are."""
    if declared:
        return Finding("pooler", "ok", "the URL says that there is one")
    try:
        async with asyncio.timeout(_POOLER_TIMEOUT), engine.connect() as one, engine.connect() as other:
            changes = await _changes_session(one, other)
    except TimeoutError:
        told = f"no second connection within {_POOLER_TIMEOUT:g} s: raise the pooler's pool size, if there is one"
        return Finding("pooler", "warn", told)
    except DBAPIError as exc:
        if sqlstate_of(exc) not in _UNKNOWN_STATEMENT:
            raise
        changes = True
    told = "one in transaction mode stands before the server: add ?pgbouncer=true to the URL, from_url(pgbouncer=True)"
    return judged("pooler", "none, or one in session mode", told if changes else None, "fail")


async def _changes_session(one: AsyncConnection, other: AsyncConnection) -> bool:
    # the session that was given back last is handed out first: the other's second transaction gets the first one's
    async def session(connection: AsyncConnection) -> int:
        return int((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    await session(one)
    before = await session(other)
    await other.rollback()
    await one.rollback()
    return await session(other) != before
