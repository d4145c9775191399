"""A standby is promoted because the primary is killed, silent or read-only; and a standby is read from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import make_url

from rwriter import DbEngines, RequestStore, RequestsWriter
from rwriter.testing import PostgresServer, TcpProxy
from tests.chaos.bookkeeping import Outcome, ask, tally, tell
from tests.chaos.ground import Ground, quick
from tests.chaos.harness import Service
from tests.chaos.service import Orders
from tests.chaos.standby import primary_and_standby, promote, several_hosts
from tests.support.driving import eventually
from tests.support.records import record

PATIENCE = 60.0
# a commit that waits for a standby in the middle of its promotion is waited for no longer than this
IMPATIENT: dict[str, Any] = {"connect_timeout": 1.0, "statement_timeout": 2.0}


class Pair(msgspec.Struct, kw_only=True):
    """Two servers with one database, a proxy before the first, and a service that has the addresses of both."""

    primary: PostgresServer
    standby: PostgresServer
    line: TcpProxy
    service: Service
    url: str
    spool: Path

    async def taken_over(self) -> None:
        """Promote the standby, and wait until the service writes to it."""
        await asyncio.to_thread(promote, self.standby)
        before = await self.rows()

        async def grown() -> bool:
            return await self.rows() > before

        await self.service.until(grown)

    async def rows(self) -> int:
        (number,) = await ask(self.standby_url, "SELECT count(*) FROM requests")
        return int(number)

    @property
    def standby_url(self) -> str:
        return self.standby.url(make_url(self.url).database or "")

    async def finish(self, fault: str) -> Outcome:
        """End the service, and account for its records on the server that is left."""
        await self.service.until_told(100)
        await self.service.quieten()
        await self.service.delivered()
        report = await self.service.terminate()
        note = f"{report.stats.spooled} by way of the spool"
        outcome = await tally(fault, self.service.told, self.standby_url, self.spool, note=note)
        assert (outcome.lost, outcome.spooled, report.stats.dropped) == (0, 0, 0), outcome
        return outcome


async def primary_lost(ground: Ground) -> Outcome:
    """``kill -9`` the primary under load: the spool takes what comes until the standby is promoted."""
    async with _under_load(ground) as pair:
        await asyncio.to_thread(pair.primary.kill)
        await pair.service.until_stats(lambda stats: stats.spooled > 100)
        await pair.taken_over()
        return await pair.finish("primary killed, standby promoted")


async def primary_silent(ground: Ground) -> Outcome:
    """Make the primary's address fall silent: it takes no connection and refuses none, and the next host is reached."""
    async with _under_load(ground) as pair:
        pair.line.stall()
        await pair.service.until_stats(lambda stats: stats.spooled > 100)
        await pair.taken_over()
        return await pair.finish("primary silent, standby promoted")


async def primary_read_only(ground: Ground) -> Outcome:
    """Make the old primary refuse writes (25006) while it goes on answering: its connections are given up."""
    async with _under_load(ground) as pair:
        await tell(pair.primary.url(), "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        await pair.taken_over()
        return await pair.finish("primary turned read-only, standby promoted")


@asynccontextmanager
async def _under_load(ground: Ground) -> AsyncIterator[Pair]:
    with primary_and_standby() as (primary, standby):
        here = Ground(primary, ground.folder("pair"))
        url, spool = await here.database(), here.folder("spool")
        await _acknowledge_together(primary)
        async with TcpProxy("127.0.0.1", primary.port) as line:
            hosts = several_hosts(url, line.port, standby.port)
            writer = quick(flush_timeout=10.0)
            async with here.service(Orders(url=hosts, spool=str(spool), writer=writer, **IMPATIENT)) as service:
                await service.until_told(200)
                await service.until_stats(lambda stats: stats.persisted > 0)
                yield Pair(primary=primary, standby=standby, line=line, service=service, url=url, spool=spool)


async def _acknowledge_together(primary: PostgresServer) -> None:
    """Make the primary acknowledge a commit when both servers have it."""
    await tell(primary.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")

    async def together() -> bool:
        return await ask(primary.url(), "SELECT sync_state FROM pg_stat_replication") == ["sync"]

    await eventually(together, within=PATIENCE)


async def read_from_the_standby(ground: Ground, *, records: int) -> Outcome:
    """Pause the standby's replay: reads come from it, ``consistent=True`` reads from the primary."""
    with primary_and_standby() as (primary, standby):
        url = await Ground(primary, ground.folder("pair")).database()
        # once a transaction is acknowledged together, the new database is on both
        await _acknowledge_together(primary)
        await tell(url, "SET synchronous_commit = remote_apply; SELECT pg_logical_emit_message(true, 'here', '')")
        replica_url = standby.url(make_url(url).database or "")
        sent = [record() for _ in range(records)]
        async with DbEngines.from_url(url, replica_url=replica_url) as engines, RequestsWriter(engines) as writer:
            store = RequestStore(engines)
            await tell(standby.url(), "SELECT pg_wal_replay_pause()")
            assert await store.get_request(sent[0].request_id) is None
            for item in sent:
                await writer.send(item)
            await writer.flush(timeout=PATIENCE)
            assert await store.get_request(sent[0].request_id) is None
            assert await store.get_request(sent[0].request_id, consistent=True) is not None
            await tell(standby.url(), "SELECT pg_wal_replay_resume()")

            async def caught_up() -> bool:
                return (await store.list_requests()).total_count == records

            await eventually(caught_up, within=PATIENCE)
        outcome = await tally("reads from a lagging standby", (str(item.request_id) for item in sent), replica_url)
        assert outcome.lost == 0
        return outcome
