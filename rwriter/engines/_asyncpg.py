"""How asyncpg connects for this library: host by host, watched by TCP, and closed without waiting for a silent peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

CLOSE_TIMEOUT: Final = 0.5
"""Seconds a server has to answer the closing of an idle connection, for which asyncpg would wait for ever."""

KEEPALIVE_IDLE: Final = 30
KEEPALIVE_INTERVAL: Final = 10
KEEPALIVE_COUNT: Final = 3
"""A peer that has vanished is found out within a minute, and what is between keeps the connection in mind."""

_NEXT_HOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)


class ClosingConnection(asyncpg.Connection):  # type: ignore[misc]  # it ships no types
    """A connection that is closed within a time."""

    __slots__ = ()

    async def close(self, *, timeout: float | None = None) -> None:
        """Close the connection, within ``timeout`` seconds or a default that is less than for ever."""
        try:
            await super().close(timeout=CLOSE_TIMEOUT if timeout is None else timeout)
        except TimeoutError:
            # after the time-out asyncpg would open a second connection to cancel "the query"; terminate instead
            await asyncio.sleep(0)
            self.terminate()


class Connector:
    """Opens connections for an engine: SQLAlchemy's ``async_creator_fn``."""

    def __init__(self, tcp: Mapping[str, int], *, silence: float) -> None:
        """Take libpq's TCP options, and the seconds after which data without an acknowledgement ends a connection."""
        self._tcp: Final = {"tcp_user_timeout": int(silence * 1000)} | dict(tcp)

    async def __call__(self, **arguments: Any) -> Any:
        """Return a connection to the first host that accepts, each with a time-out of its own as in libpq.

        asyncpg has one time-out for all hosts: a machine that vanished silently would use it up.
        """
        hosts, ports = arguments.get("host"), arguments.get("port")
        if not isinstance(hosts, list) or arguments.get("target_session_attrs") == "prefer-standby":
            return await self._connect(arguments)
        errors: list[Exception] = []
        for number, host in enumerate(hosts):
            port = ports[number] if isinstance(ports, list) else ports
            try:
                return await self._connect(arguments | {"host": host, "port": port})
            except _NEXT_HOST as exc:
                errors.append(exc)
        # an unreachable host tells the operator more than one that merely has the wrong role
        raise min(errors, key=lambda exc: isinstance(exc, asyncpg.TargetServerAttributeNotMatched))

    async def _connect(self, arguments: Mapping[str, Any]) -> Any:
        connection = await asyncpg.connect(**arguments)
        # the driver has no public way to its socket
        watch(connection._transport.get_extra_info("socket"), self._tcp)  # noqa: SLF001
        return connection


def watch(sock: Any, tcp: Mapping[str, int]) -> None:
    """Have TCP find out that the peer of ``sock`` is gone. ``tcp`` are libpq's options; 0 leaves the system's value."""
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    _set(sock, socket.SOL_SOCKET, "SO_KEEPALIVE", tcp.get("keepalives", 1), even_zero=True)
    for name, option, default in (
        ("keepalives_idle", "TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("keepalives_interval", "TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("keepalives_count", "TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("tcp_user_timeout", "TCP_USER_TIMEOUT", 0),
    ):
        _set(sock, socket.IPPROTO_TCP, option, tcp.get(name, default))


def _set(sock: Any, level: int, option: str, value: int, *, even_zero: bool = False) -> None:
    # not every system has every option, and a connection without one is a connection all the same
    if (value or even_zero) and hasattr(socket, option):
        with contextlib.suppress(OSError):
            sock.setsockopt(level, getattr(socket, option), value)
