"""``rwriter doctor`` finds each fault that is planted, and nothing else; it says what to do about it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import make_url

from rwriter import Spool
from rwriter.pytest_plugin import Databases
from tests.cli.conftest import CommandLine
from tests.support.migrations import execute
from tests.support.pooler import PgBouncer
from tests.support.records import record

PEPPER = "0123456789abcdef"
NOT_OURS = {"lz4"}
"""Found or not according to how this server was built."""


@dataclass(frozen=True)
class Fault:
    """SQL that plants a fault and SQL that takes it back; the check that finds it, how, and words of its advice."""

    check: str
    status: str
    words: str
    plant: str
    mend: str


BEGUN = """
    INSERT INTO requests (id, model, state, service_tier, created_by, daemon_id, claimed_at, started_at, created_at)
    SELECT gen_random_uuid(), 'm', 'processing', 'priority', 'tenant-a', '00000000-0000-0000-0000-000000000000',
        now() - interval '3 hours', now() - interval '3 hours', now() - interval '3 hours'
"""
ROWS = """
    INSERT INTO requests (id, model, state, created_by, response_status, response_body, completed_at)
    SELECT gen_random_uuid(), 'm', 'completed', 'tenant-a', 200, '', now() FROM generate_series(1, 1200)
"""
LETTERS = """
    INSERT INTO dead_letters (id, request_id, created_by, sqlstate, error, payload)
    SELECT gen_random_uuid(), gen_random_uuid(), 'tenant-a', '23514', 'refused', '' FROM generate_series(1, {number})
"""
# what the server says of itself, said by somebody else: found before the catalogue's own
BEFORE = """
    CREATE SCHEMA odd; ALTER DATABASE "{database}" SET search_path = odd, pg_catalog, public;
"""
AFTER = 'ALTER DATABASE "{database}" RESET search_path; DROP SCHEMA odd CASCADE'
SET, RESET = 'ALTER DATABASE "{database}" SET ', 'ALTER DATABASE "{database}" RESET '

FAULTS = {
    "an old server": Fault(
        "server", "warn", "upgrade",
        BEFORE + """
            CREATE FUNCTION odd.current_setting(name text) RETURNS text LANGUAGE sql AS $$
                SELECT CASE name WHEN 'server_version_num' THEN '130009' ELSE pg_catalog.current_setting(name) END $$
        """,
        AFTER,
    ),
    "a clock that is wrong": Fault(
        "clock", "warn", "NTP",
        BEFORE + """
            CREATE FUNCTION odd.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$
                SELECT pg_catalog.clock_timestamp() + interval '2 minutes' $$
        """,
        AFTER,
    ),
    "a log with bodies": Fault(
        "server log", "warn", "log_parameter_max_length",
        SET + "log_parameter_max_length_on_error = -1", RESET + "log_parameter_max_length_on_error",
    ),
    "a database that is read only": Fault(
        "writable", "fail", "turn it off",
        SET + "default_transaction_read_only = on",
        "SET TRANSACTION READ WRITE; " + RESET + "default_transaction_read_only",
    ),
    "a standby": Fault(
        "writable",
        "fail",
        "target_session_attrs=read-write",
        BEFORE + "CREATE FUNCTION odd.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'",
        AFTER,
    ),
    "a replica that is far behind": Fault(
        "replicas",
        "warn",
        "replica standby-1 is 120 s behind",
        BEFORE
        + """
            CREATE VIEW odd.pg_stat_replication AS SELECT 'standby-1' AS application_name,
                NULL::inet AS client_addr, 1 AS pid, interval '2 minutes' AS replay_lag
        """,
        AFTER,
    ),
    "a server without autovacuum": Fault(
        "autovacuum",
        "warn",
        "turn it on",
        BEFORE
        + """
            CREATE VIEW odd.pg_settings AS SELECT name, enumvals,
                CASE name WHEN 'autovacuum' THEN 'off' ELSE setting END AS setting FROM pg_catalog.pg_settings
        """,
        AFTER,
    ),
    "a short time-out": Fault(
        "time-outs", "warn", "lock_timeout = 200ms", SET + "lock_timeout = '200ms'", RESET + "lock_timeout"
    ),
    "few connections": Fault(
        "connections", "warn", "raise the limit",
        'ALTER DATABASE "{database}" CONNECTION LIMIT 6', 'ALTER DATABASE "{database}" CONNECTION LIMIT -1',
    ),
    "a slot that nobody reads": Fault(
        "replicas", "warn", "drop the slot",
        "SELECT pg_create_physical_replication_slot('doctor', true)", "SELECT pg_drop_replication_slot('doctor')",
    ),
    "an index that is missing": Fault(
        "schema", "fail", "ix_requests_template_id",
        "DROP INDEX ix_requests_template_id", "CREATE INDEX ix_requests_template_id ON requests (template_id)",
    ),
    "a column that is missing": Fault(
        "schema", "fail", "reasoning_tokens",
        "ALTER TABLE requests DROP COLUMN reasoning_tokens", "ALTER TABLE requests ADD COLUMN reasoning_tokens int",
    ),
    "autovacuum that is off": Fault(
        "autovacuum", "warn", "RESET (autovacuum_enabled)",
        "ALTER TABLE request_templates SET (autovacuum_enabled = off)",
        "ALTER TABLE request_templates RESET (autovacuum_enabled)",
    ),
    "dead rows": Fault(
        "dead rows", "warn", "VACUUM",
        LETTERS.format(number=41_000) + "; DELETE FROM dead_letters; SELECT pg_stat_force_next_flush()",
        "TRUNCATE dead_letters",
    ),
    "policies": Fault(
        "row security", "warn", "BYPASSRLS",
        "ALTER TABLE requests ENABLE ROW LEVEL SECURITY", "ALTER TABLE requests DISABLE ROW LEVEL SECURITY",
    ),
    "an index that is not valid": Fault(
        "indexes", "fail", "DROP INDEX CONCURRENTLY",
        "CREATE INDEX mine ON requests (model);"
        " UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine'::regclass",
        "DROP INDEX mine",
    ),
    "an index that nobody uses": Fault(
        "indexes", "warn", "no query has used it",
        "CREATE INDEX mine ON requests (model); " + ROWS + "; SELECT pg_stat_force_next_flush()",
        "DROP INDEX mine; TRUNCATE requests, request_templates",
    ),
    "tables too large to be thinned out": Fault(
        "sizes", "warn", "partitioned tables",
        "UPDATE pg_class SET reltuples = 6e7 WHERE oid = 'requests'::regclass",
        "UPDATE pg_class SET reltuples = -1 WHERE oid = 'requests'::regclass",
    ),
    "a request whose process died": Fault(
        "stale requests", "warn", "rwriter reap", BEGUN, "TRUNCATE requests, request_templates"
    ),
    "dead letters": Fault(
        "dead letters", "warn", "rwriter dead-letters", LETTERS.format(number=3), "TRUNCATE dead_letters"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sick(_rwriter_databases: Databases) -> Iterator[str]:
    """URL of one database for all faults, each taken back after its test."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


async def wrong(command: CommandLine, *arguments: str, **variables: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and of each check that found something its status and message."""
    done = await command("doctor", *arguments, "--json", **variables)
    rows = json.loads(done.stdout)
    found = {row["check"]: (row["status"], row["message"]) for row in rows if row["status"] != "ok"}
    return done.code, {check: told for check, told in found.items() if check not in NOT_OURS}


@pytest.fixture
async def planted(sick: str, request: pytest.FixtureRequest) -> AsyncIterator[Fault]:
    fault = FAULTS[request.param]
    database = make_url(sick).database
    await execute(sick, fault.plant.replace("{database}", str(database)))
    yield fault
    await execute(sick, fault.mend.replace("{database}", str(database)))


@pytest.mark.parametrize("planted", FAULTS, indirect=True)
async def test_each_fault_of_a_database_is_found_and_no_other(sick: str, command: CommandLine, planted: Fault) -> None:
    code, found = await wrong(command, RWRITER_DATABASE_URL=sick, RWRITER_KEY_PEPPER=PEPPER)
    assert set(found) == {planted.check}, found
    status, message = found[planted.check]
    assert (status, code) == (planted.status, int(planted.status == "fail"))
    assert planted.words in message


async def test_strict_takes_a_warning_for_a_failure(sick: str, command: CommandLine) -> None:
    code, found = await wrong(command, "--strict", RWRITER_DATABASE_URL=sick)
    assert (code, set(found)) == (1, {"pepper"})


async def test_a_pooler_that_the_url_does_not_name_is_found(sick: str, command: CommandLine) -> None:
    server = make_url(sick)
    assert server.host is not None
    assert server.port is not None
    ignored = "idle_in_transaction_session_timeout"
    async with PgBouncer(server.port, host=server.host, ignored=ignored) as pooler:
        url = pooler.url(sick)
        code, found = await wrong(command, RWRITER_DATABASE_URL=url, RWRITER_KEY_PEPPER=PEPPER)
        named = await wrong(command, RWRITER_DATABASE_URL=f"{url}?pgbouncer=true", RWRITER_KEY_PEPPER=PEPPER)
    assert (code, found["pooler"][0]) == (1, "fail")
    assert "pgbouncer=true" in found["pooler"][1]
    assert named == (0, {})


async def test_what_waits_in_the_spool_for_too_long_or_for_ever_is_found(
    sick: str, command: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    spool = Spool(tmp_path)
    await spool.open()
    earlier = time.time() - timedelta(hours=2).total_seconds()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: earlier)
        await spool.put([record()])
    options = ("--spool", str(tmp_path))
    variables = {"RWRITER_DATABASE_URL": sick, "RWRITER_KEY_PEPPER": PEPPER}
    code, found = await wrong(command, *options, **variables)
    assert (code, set(found)) == (0, {"spooled records"})
    assert "1 wait, the oldest for 120 minutes" in found["spooled records"][1]
    assert f"rwriter spool replay {tmp_path}" in found["spooled records"][1]

    (row,) = await spool.listing()
    await spool.set_aside([row.seq], "refused")
    await spool.aclose()
    code, found = await wrong(command, *options, **variables)
    assert (code, set(found)) == (0, {"spooled records"})
    assert f"rwriter spool ls {tmp_path}" in found["spooled records"][1]


@pytest.mark.parametrize("partitioned", ["week"], indirect=True)
async def test_partitions_that_end_soon_or_have_ended_are_found(database: str, command: CommandLine) -> None:
    variables = {"RWRITER_DATABASE_URL": database, "RWRITER_KEY_PEPPER": PEPPER}
    assert (await wrong(command, **variables)) == (0, {})
    await drop_partitions(database, beyond=timedelta(0))
    code, found = await wrong(command, **variables)
    assert (code, set(found), found["partitions"][0]) == (0, {"partitions"}, "warn")
    assert "rwriter partitions ensure" in found["partitions"][1]
    await drop_partitions(database, beyond=timedelta(days=-8))
    code, found = await wrong(command, **variables)
    assert (code, set(found)) == (1, {"schema"})
    assert "rwriter partitions ensure" in found["schema"][1]


async def drop_partitions(url: str, beyond: timedelta) -> None:
    """Drop the partitions that begin later than ``beyond`` from now."""
    await execute(
        url,
        f"""
        DO $$ DECLARE part record; BEGIN
            FOR part IN SELECT c.oid::regclass AS name FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                WHERE inhparent IN ('requests'::regclass, 'request_templates'::regclass) AND relkind = 'r'
                    AND to_date(substring(relname FROM '[0-9]{{8}}'), 'YYYYMMDD')
                        > now() + interval '{beyond.total_seconds()} seconds'
            LOOP EXECUTE 'DROP TABLE ' || part.name; END LOOP;
        END $$
        """,
    )
