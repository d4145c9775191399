"""What is the process's own: its garbage collector, its memory, its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.axes import Setting
from bench.batches import Work
from bench.database import Database
from bench.peers import sent
from bench.tuning_rounds import Extra, Open, Way
from bench.tuning_ways import open_writer, peer
from rwriter import CompletedRequest

CAPACITY: Final = 1 << 40
"""Bytes that a turn's records never fill: all of them are queued before the first is stored."""

Around = Callable[[], contextlib.AbstractContextManager[None]]

Call = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


# -- everything queued at once


def queued(around: Around = contextlib.nullcontext, *, tracked: bool = False) -> Open:
    """All records of a turn are handed over before the first is stored, as after an outage, ``around`` the work.

    ``tracked``: the garbage collector looks at every record.
    """

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        async with open_writer(database, setting, channel_bytes=CAPACITY) as (_, writer):

            def work(records: Sequence[CompletedRequest]) -> Work:
                given = [_Tracked(**_fields(record)) for record in records] if tracked else records

                async def store() -> None:
                    with around():
                        for record in given:
                            writer.send_nowait(record)
                        await writer.flush()

                return store

            yield Way(peer(setting, work))

    return opened


class _Tracked(CompletedRequest, frozen=True, kw_only=True, gc=True):
    """A record as msgspec makes it without ``gc=False``."""


def _fields(record: CompletedRequest) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """As in a service that calls ``gc.freeze()`` once it has started."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """No garbage collection."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -- memory


def growing(**options: Any) -> Open:
    """The writer with everything queued; tells by how much the process grew at most while it stored."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        before = 0

        async with open_writer(database, setting, channel_bytes=CAPACITY, **options) as (_, writer):

            def work(records: Sequence[CompletedRequest]) -> Work:
                nonlocal before
                before = _forget_peak()
                return sent(writer, records, setting.batch)

            async def after() -> Extra:
                return {"grown_mib": (_status("VmHWM") - before) / 1024}

            yield Way(peer(setting, work), after)

    return opened


def _forget_peak() -> int:
    """KiB that the process has now, which is its peak from now on."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


# -- another event loop


def on_loop(factory: Callable[[], asyncio.AbstractEventLoop], opening: Open) -> Open:
    """``opening`` on a loop of its own, in a thread; the loop that waits for it costs nothing meanwhile."""

    @contextlib.asynccontextmanager
    async def opened(database: Database, setting: Setting) -> AsyncIterator[Way]:
        with _running(factory) as call:
            inner = opening(database, setting)
            way = await call(inner.__aenter__())
            try:
                yield Way(peer(setting, lambda records: _elsewhere(call, way.peer.work(records))), way.after)
            finally:
                await call(inner.__aexit__(None, None, None))

    return opened


@contextlib.contextmanager
def _running(factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Call]:
    loop = factory()
    thread = threading.Thread(target=loop.run_forever, name="bench-loop")
    thread.start()

    async def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    try:
        yield call
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _elsewhere(call: Call, work: Work) -> Work:
    async def run() -> None:
        await call(work())

    return run
