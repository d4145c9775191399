"""Runs the checks in their order, each by itself: one that cannot look says so, and the others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

from rwriter import migrate as migrations
from rwriter.cli._doctor import _host, _server, _tables
from rwriter.cli._doctor._findings import Finding, Patient, judged, words
from rwriter.engines import DbEngines, in_schema
from rwriter.errors import DatabaseRefused
from rwriter.schema import HEAD_REVISION


async def examine(engines: DbEngines, schema: str | None, spool: Path | None) -> list[Finding]:
    """Return what every check has found."""
    return [*[each async for each in _of_database(engines, schema)], *await _of_host(spool)]


async def unreachable(exc: Exception, spool: Path | None) -> list[Finding]:
    """Return what is found where there are no engines, and why."""
    return [Finding("database", "fail", words(exc)), *await _of_host(spool)]


async def _of_host(spool: Path | None) -> list[Finding]:
    found = [] if spool is None else [each async for each in _host.spool(spool)]
    return [_host.pepper(), *found]


async def _of_database(engines: DbEngines, schema: str | None) -> AsyncIterator[Finding]:
    try:
        found = await _server.pooler(engines.write, declared=not engines.direct)
        async with engines.write.connect() as plain:
            # each check a transaction of its own: what one may not look at does not stop the others
            patient = Patient(await plain.execution_options(isolation_level="AUTOCOMMIT"), schema)
            of_server = await _server.server(patient)
            for finding in [*of_server, found]:
                yield finding
            standby = any(each.check == "writable" and "standby" in each.message for each in of_server)
            for check, work in (
                ("time-outs", _server.timeouts(patient)),
                ("connections", _server.room(patient)),
                ("replicas", _server.replicas(patient, standby=standby)),
            ):
                yield await _tried(check, work)
            async for finding in _of_tables(engines, schema, patient):
                yield finding
    except Exception as exc:  # noqa: BLE001 -- whatever it is, it is what the operator asks for
        yield Finding("database", "fail", words(exc))


async def _of_tables(engines: DbEngines, schema: str | None, patient: Patient) -> AsyncIterator[Finding]:
    """Yield what is found of the tables. Where they are not what they should be, nothing else is looked at."""
    refused = await _refusal(engines, schema)
    if refused is not None:
        yield refused
        return
    yield Finding("schema", "ok", f"{HEAD_REVISION} (head)")
    missing = await _tables.undeletable(patient)
    told = f"no DELETE on {', '.join(missing)}: purge, erase and delete_request need it, GRANT it to their role"
    yield judged("privileges", "to write, read and delete", told if missing else None)
    for finding in await _all_tried("autovacuum", _tables.vacuum(patient)):
        yield finding
    yield await _tried("indexes", _tables.indexes(patient))
    engine = in_schema(engines.write, schema)
    ahead = await _tables.ahead(engine)
    if ahead is not None:
        yield ahead
    yield await _tried("sizes", _tables.sizes(engine, partitioned=ahead is not None))
    for finding in await _all_tried("stale requests", _tables.waiting(patient)):
        yield finding


async def _refusal(engines: DbEngines, schema: str | None) -> Finding | None:
    try:
        await migrations.check(engines, schema=schema)
    except DatabaseRefused as exc:
        return Finding("privileges", "fail", words(exc))
    except Exception as exc:  # noqa: BLE001 -- as above
        return Finding("schema", "fail", words(exc))
    return None


async def _tried(check: str, work: Awaitable[Finding]) -> Finding:
    try:
        return await work
    except Exception as exc:  # noqa: BLE001 -- as above
        return Finding(check, "warn", f"cannot be looked at: {words(exc)}")


async def _all_tried(check: str, work: Awaitable[Sequence[Finding]]) -> Sequence[Finding]:
    try:
        return await work
    except Exception as exc:  # noqa: BLE001 -- as above
        return [Finding(check, "warn", f"cannot be looked at: {words(exc)}")]
