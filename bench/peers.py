"""The ways to store the same finished requests, each opened once and kept open: connections and statements are warm."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from bench import axes, peer_asyncpg, peer_sqlalchemy
from bench.axes import Setting
from bench.batches import Store, Work, in_turns, one_by_one
from bench.database import Database
from rwriter import CompletedRequest, RequestsWriter

DEFAULT_CONCURRENCY: Final[int] = inspect.signature(RequestsWriter).parameters["flush_concurrency"].default


@dataclasses.dataclass(frozen=True)
class Peer:
    """``work(records)`` prepares whatever is not to be timed and answers with the part that is."""

    name: str
    connections: int
    work: Callable[[Sequence[CompletedRequest]], Work]
    # a slow peer stores fewer records in a round, so that a run does not last for ever; rates compare all the same
    share: float = 1.0


Opened = AbstractAsyncContextManager[Peer]


def missing() -> list[str]:
    """Peers whose driver is not installed."""
    return [] if importlib.util.find_spec("psycopg") is not None else [axes.PIPELINE]


def open_peer(name: str, database: Database, setting: Setting) -> Opened:
    """The peer of that name from ``axes``, as it is under ``setting``."""
    return _KINDS[name](database, setting)


@contextlib.asynccontextmanager
async def writer(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    """``RequestsWriter`` with its default options, but for what ``setting`` varies; from first send to last commit."""
    async with (
        database.engines(setting.flushes) as engines,
        RequestsWriter(engines, batch_size=setting.batch, flush_concurrency=setting.flushes) as open_writer,
    ):
        yield Peer(axes.WRITER, setting.flushes, lambda records: sent(open_writer, records, setting.batch))


def sent(open_writer: RequestsWriter, records: Sequence[CompletedRequest], batch: int) -> Work:
    """From the first ``send`` to the last commit."""

    async def send_all() -> None:
        for index, record in enumerate(records, 1):
            await open_writer.send(record)
            if index % batch == 0:
                # send() only suspends when the buffer is full; a service's handlers come and go in between
                await asyncio.sleep(0)
        await open_writer.flush()

    return send_all


def _batched(name: str, store: Callable[[Any], Store]) -> Callable[[Database, Setting], Opened]:
    """A peer that stores a batch at a time, on as many asyncpg connections as flushes are in flight."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Peer]:
        async with database.drivers(setting.flushes) as drivers:
            stores = [store(driver) for driver in drivers]
            yield Peer(name, setting.flushes, lambda records: in_turns(stores, records, setting.batch))

    return opened


@contextlib.asynccontextmanager
async def _limit(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    async with database.drivers(setting.flushes) as drivers:
        yield Peer(axes.LIMIT, setting.flushes, lambda records: peer_asyncpg.copies(drivers, records, setting.batch))


@contextlib.asynccontextmanager
async def _copy_upsert(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    async with database.drivers(setting.flushes) as drivers:
        stores = [await peer_asyncpg.copy_upsert(driver) for driver in drivers]
        yield Peer(axes.COPY_UPSERT, setting.flushes, lambda records: in_turns(stores, records, setting.batch))


def _many(name: str, *, values: bool) -> Callable[[Database, Setting], Opened]:
    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Peer]:
        async with database.engine(setting.flushes) as engine:
            stores = [peer_sqlalchemy.upsert_many(engine, values=values)] * setting.flushes
            yield Peer(name, setting.flushes, lambda records: in_turns(stores, records, setting.batch))

    return opened


def _per_request(name: str, at_once: int, share: float) -> Callable[[Database, Setting], Opened]:
    @contextlib.asynccontextmanager
    async def opened(database: Database, _: Setting) -> AsyncIterator[Peer]:
        async with database.engine(at_once) as engine:
            store = peer_sqlalchemy.session_each(engine)
            yield Peer(name, at_once, lambda records: one_by_one(store, records, at_once), share)

    return opened


@contextlib.asynccontextmanager
async def _pipeline(database: Database, setting: Setting) -> AsyncIterator[Peer]:
    from bench import peer_psycopg  # noqa: PLC0415 -- its driver is in an extra

    async with peer_psycopg.connected(database, setting.flushes) as stores:
        yield Peer(axes.PIPELINE, setting.flushes, lambda records: in_turns(stores, records, setting.batch))


_KINDS: Final[Mapping[str, Callable[[Database, Setting], Opened]]] = {
    axes.WRITER: writer,
    axes.LIMIT: _limit,
    axes.THREE: _batched(axes.THREE, peer_asyncpg.three_statements),
    axes.THREE_OWN: _batched(axes.THREE_OWN, peer_asyncpg.three_statements),
    axes.PER_REQUEST: _per_request(axes.PER_REQUEST, 1, 0.1),
    axes.PER_REQUEST_20: _per_request(axes.PER_REQUEST_20, 20, 0.2),
    axes.INSERTMANY: _many(axes.INSERTMANY, values=True),
    axes.EXECUTEMANY: _many(axes.EXECUTEMANY, values=False),
    axes.COPY_UPSERT: _copy_upsert,
    axes.PIPELINE: _pipeline,
}
