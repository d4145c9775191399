"""Put faults between a writer and its database: a line to cut, a locked table, a record that is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from rwriter.engines import EngineProvider
from rwriter.testing import TcpProxy


def proxy_to(url: str) -> TcpProxy:
    """Return a proxy, not listening yet, before the server of ``url``."""
    return TcpProxy(*address_of(url))


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of the server of ``url``."""
    parsed = make_url(url)
    return parsed.host or "127.0.0.1", parsed.port or 5432


@asynccontextmanager
async def through_a_proxy(url: str) -> AsyncIterator[tuple[TcpProxy, AsyncEngine]]:
    """Yield a proxy before the server of ``url``, and an engine that connects through it."""
    async with proxy_to(url) as proxy:
        here = make_url(url).set(drivername="postgresql+asyncpg", host="127.0.0.1", port=proxy.port)
        yield proxy, create_async_engine(here, poolclass=NullPool)


@asynccontextmanager
async def table_locked(engines: EngineProvider) -> AsyncIterator[None]:
    """Make every flush wait, as behind a long migration, until the block is left."""
    async with engines.write.begin() as connection:
        await connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
        yield


async def refuse_bad_bodies(engines: EngineProvider) -> None:
    """Make the database refuse every record whose response body is ``bad``."""
    async with engines.write.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CONSTRAINT no_bad CHECK (response_body <> 'bad')"))
