"""``rwriter doctor``: looks at the database, the key pepper and the spool's folder, and says what is wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import click
import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from rwriter import migrate as migrations
from rwriter._database_errors import explain
from rwriter._values.escape import escape
from rwriter._values.keys import PEPPER_VARIABLE
from rwriter.cli import _options as options
from rwriter.cli._output import to_json
from rwriter.errors import DatabaseRefused
from rwriter.schema import HEAD_REVISION
from rwriter.store import encoding_refusal

OLDEST_SERVER: Final = 15
"""The first major release of PostgreSQL that the suite runs on."""
ROOM: Final = 1 << 30
"""Bytes that a disk should have left for a spool: the default of its ``max_bytes``."""


class Finding(msgspec.Struct, frozen=True):
    """The answer of one check. ``status`` is ``ok``, ``warn`` or ``fail``; ``message`` is one line."""

    check: str
    status: str
    message: str


_SERVER: Final = text(
    """
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
        EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) AS lz4,
        current_setting('log_parameter_max_length_on_error') <> '0' AS logs_of_errors,
        current_setting('log_parameter_max_length') <> '0' AND (
            current_setting('log_statement') IN ('mod', 'all') OR current_setting('log_min_duration_statement') <> '-1'
            OR current_setting('log_min_duration_sample') <> '-1'
            OR current_setting('log_transaction_sample_rate') <> '0') AS logs_of_statements
    """
)

_UNDELETABLE: Final = text(
    """
    SELECT name FROM unnest(CAST(:names AS text[]), CAST(:resolved AS text[])) AS t (name, resolved)
    WHERE NOT has_table_privilege(to_regclass(resolved), 'DELETE')
    """
)
_DELETED_FROM: Final = ("requests", "request_templates", "dead_letters")


@click.command("doctor")
@click.option(
    "--spool", type=click.Path(path_type=Path), metavar="DIRECTORY", help="The spool's folder, to look at, too."
)
@options.schema
@options.database_url
@options.json
def doctor(*, spool: Path | None, schema: str | None, database_url: str | None, json: bool) -> None:
    """Look at database, pepper and spool.

    A line each: ok, warn or fail; exits with 1 if one is fail.
    """

    async def work() -> list[Finding]:
        findings = [finding async for finding in _of_database(database_url, schema)]
        return [*findings, _pepper(), *([] if spool is None else _of_spool(spool))]

    findings = asyncio.run(work())
    if json:
        click.echo(to_json(findings))
    else:
        for finding in findings:
            click.echo(f"{finding.status:4}  {finding.check}: {escape(finding.message)}")
    if any(finding.status == "fail" for finding in findings):
        raise click.exceptions.Exit(1)


async def _of_database(database_url: str | None, schema: str | None) -> AsyncIterator[Finding]:
    try:
        async with options.engines_for(database_url, schema) as engines, engines.write.connect() as connection:
            server = (await connection.execute(_SERVER)).mappings().one()
            undeletable = await _undeletable(connection, schema)
    except Exception as exc:  # noqa: BLE001 -- whatever it is, it is what the operator asks for
        yield Finding("database", "fail", _words(exc))
        return
    yield Finding("database", "ok", "reached, and it is a standby" if server["standby"] else "reached")
    for finding in _of_server(server):
        yield finding
    for finding in await _of_tables(database_url, schema, undeletable):
        yield finding


def _of_server(server: RowMapping) -> Iterator[Finding]:
    version, encoding = server["version"], server["encoding"]
    told = None if server["major"] >= OLDEST_SERVER else f"PostgreSQL {version}: older than {OLDEST_SERVER}, not tested"
    yield _judged("server", f"PostgreSQL {version}", told)
    yield _judged("encoding", encoding, encoding_refusal(encoding), "fail")
    told = None if server["lz4"] else "not in this server: bodies are compressed with pglz, which takes more CPU"
    yield _judged("lz4", "bodies are compressed with it", told)
    logged = " and ".join(name for name in ("errors", "statements") if server[f"logs_of_{name}"])
    told = f"bodies are in it, as parameters of {logged}: set log_parameter_max_length and its _on_error to 0"
    yield _judged("server log", "without parameters", told if logged else None)


def _judged(check: str, good: str, bad: str | None, status: str = "warn") -> Finding:
    return Finding(check, "ok", good) if bad is None else Finding(check, status, bad)


async def _of_tables(database_url: str | None, schema: str | None, undeletable: list[str]) -> list[Finding]:
    try:
        await migrations.check(database_url, schema=schema)
    except DatabaseRefused as exc:
        return [Finding("privileges", "fail", _words(exc))]
    except Exception as exc:  # noqa: BLE001 -- as above
        return [Finding("schema", "fail", _words(exc))]
    told = f"no DELETE on {', '.join(undeletable)}: purge, erase and delete_request need it"
    privileges = _judged("privileges", "to write, read and delete", told if undeletable else None)
    return [Finding("schema", "ok", f"{HEAD_REVISION} (head)"), privileges]


async def _undeletable(connection: AsyncConnection, schema: str | None) -> list[str]:
    quote = connection.dialect.identifier_preparer.quote_identifier
    resolved = [name if schema is None else f"{quote(schema)}.{quote(name)}" for name in _DELETED_FROM]
    return list(
        (await connection.execute(_UNDELETABLE, {"names": list(_DELETED_FROM), "resolved": resolved})).scalars()
    )


def _pepper() -> Finding:
    # not key_pepper_is_set(), which warns in the log as well
    if os.environ.get(PEPPER_VARIABLE):
        return Finding("pepper", "ok", "API keys are digested with HMAC")
    told = f"{PEPPER_VARIABLE} is not set here: a key that can be guessed is found, unless the service has a pepper"
    return Finding("pepper", "warn", told)


def _of_spool(folder: Path) -> Iterator[Finding]:
    try:
        faults = list(_faults(folder, folder.lstat()))
        free = shutil.disk_usage(folder).free
    except FileNotFoundError:
        yield Finding("spool", "warn", f"{folder} is not there: the writer makes it when it starts")
    except OSError as exc:
        yield Finding("spool", "fail", f"{folder}: {exc.strerror}")
    else:
        told = f"{folder} has {free >> 20:,} MiB left on its disk"
        yield _judged("spool", told, None if free >= ROOM else f"{told}: a spool may take {ROOM >> 20:,}")
        yield from (Finding("spool", "fail", f"{folder} {fault}") for fault in faults)


def _faults(folder: Path, found: os.stat_result) -> Iterator[str]:
    if not stat.S_ISDIR(found.st_mode):
        yield "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
        return
    if found.st_uid != os.geteuid():
        yield f"belongs to user {found.st_uid}, not to {os.geteuid()}: run this as the service's user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield "can be written by others: chmod 700"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield "cannot be written"


def _words(exc: BaseException) -> str:
    """Return the reason as one line."""
    return "; ".join(line.strip() for line in (explain(exc) or type(exc).__name__).splitlines()).replace(":;", ":")
