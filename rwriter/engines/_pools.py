"""Keeps pools from lending a connection that died while it was idle: closed by the server, or forgotten by a NAT."""

from __future__ import annotations

import select
import time
import weakref
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import Pool, QueuePool

_IDLE_SINCE: Final = "rwriter_idle_since"

# By pool: connections that were not used since that moment are not lent any more.
_condemned: Final[weakref.WeakKeyDictionary[Pool, float]] = weakref.WeakKeyDictionary()


def watch_idle_connections(engine: AsyncEngine) -> None:
    """Have the pool of ``engine`` look at each idle connection before it lends it: no round trip, one system call."""
    pool = engine.sync_engine.pool
    event.listen(pool, "connect", _note_use)
    event.listen(pool, "checkin", _note_use)
    event.listen(pool, "checkout", _refuse_dead)


def condemn_idle(engine: AsyncEngine, before: float) -> None:
    """Have the pool of ``engine`` replace every connection that was last used before ``before`` (monotonic seconds).

    For a statement that got no answer: what forgot its connection has forgotten those that were idle as long.
    """
    _condemned[engine.sync_engine.pool] = before


def has_spare(engine: AsyncEngine) -> bool:
    """Return True if the pool of ``engine`` could lend another connection, not counting any past its size."""
    pool = engine.sync_engine.pool
    # a negative overflow is the number that it has yet to open
    return isinstance(pool, QueuePool) and (pool.checkedin() > 0 or pool.overflow() < 0)


def _note_use(_connection: Any, record: Any, *_: Any) -> None:
    record.info[_IDLE_SINCE] = time.monotonic()


def _refuse_dead(connection: Any, record: Any, proxy: Any) -> None:
    driver = connection.driver_connection
    condemned = record.info.get(_IDLE_SINCE, 0.0) < _condemned.get(proxy._pool, 0.0)  # noqa: SLF001 -- no public way
    if condemned or _is_dead(driver):
        # without a goodbye, for which the peer would be waited for
        _drop(driver)
        # the others are as old: all are made anew when they are next wanted
        raise InvalidatePoolError


def _drop(driver: Any) -> None:
    if hasattr(driver, "terminate"):
        driver.terminate()
    else:
        driver.pgconn.finish()


def _is_dead(driver: Any) -> bool:
    """Return True if the server has closed the connection, or has said something that nobody asked for.

    An idle connection is silent. What can be read from it is the server's goodbye, or the end of the stream, which the
    event loop may not have come to yet.
    """
    number = _file_number(driver)
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _file_number(driver: Any) -> int:
    """Return the number of the connection's socket, of asyncpg or psycopg; -1 for one that is closed."""
    if not hasattr(driver, "is_closed"):
        return -1 if driver.closed else int(driver.fileno())
    # the driver has no public way to its socket
    sock = None if driver.is_closed() else driver._transport.get_extra_info("socket")  # noqa: SLF001
    return -1 if sock is None else int(sock.fileno())
