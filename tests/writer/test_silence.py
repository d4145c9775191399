"""The end of a writer whose database neither answers nor closes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from rwriter import RequestsWriter, Spool
from rwriter.testing import TcpProxy
from tests.support.driving import eventually
from tests.support.records import record

SILENCE: Any = {"drain_timeout": 0.05, "max_retries": 100, "check_schema": False, "batch_size": 2}


@pytest.fixture
def patient_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that waits for the peer's goodbye as long as it is let."""
    close = asyncpg.Connection.close

    async def close_at_leisure(self: Any, *, timeout: float | None = None) -> None:
        await close(self)

    monkeypatch.setattr(asyncpg.Connection, "close", close_at_leisure)


@pytest.mark.usefixtures("patient_driver")
async def test_a_drain_makes_flushes_drop_connections_that_nobody_answers_on(
    rwriter_database: str, tmp_path: Path
) -> None:
    server = make_url(rwriter_database)
    async with TcpProxy(server.host or "", server.port or 5432) as proxy:
        # not from_url's: any engine will do
        engine = create_async_engine(proxy.url(rwriter_database).replace("postgresql://", "postgresql+asyncpg://"))
        writer = RequestsWriter(engine, spool=Spool(tmp_path), **SILENCE)
        async with writer:
            await writer.send(record(), wait="committed")
            proxy.stall()
            for _ in range(6):
                await writer.send(record())
            await eventually(lambda: proxy.connections >= 2)
        assert (writer.stats.persisted, writer.stats.spooled, writer.stats.pending) == (1, 6, 0)
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("rwriter-flush")] == []
        await engine.dispose()
