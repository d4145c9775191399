"""One connection to NATS, made when it is needed and again when it was lost.

The client's own reconnecting is off: it keeps what is published meanwhile in memory and lets requests run into their
time-out. Here a lost connection fails what is under way at once, and the writer's retries make the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from nats import errors
from nats.aio.client import Client
from nats.js import JetStreamContext

from rwriter._database_errors import describe
from rwriter._values.escape import escape
from rwriter.errors import SinkMisconfigured, SinkUnavailable
from rwriter.stream._refusals import classified

T = TypeVar("T")

SCHEMES: Final = ("nats", "tls", "ws", "wss")

log = logging.getLogger("rwriter")


class Connection:
    """Holds a connection to one of ``servers``. ``options`` are those of ``nats.connect``: TLS, credentials."""

    def __init__(
        self, servers: str | Sequence[str], options: Mapping[str, Any] | None, *, name: str, timeout: float
    ) -> None:
        self._servers: Final = _listed(servers)
        self._options: Final = {"connect_timeout": timeout, **(options or {}), "name": name}
        self._timeout: Final = timeout
        self._lock: Final = asyncio.Lock()
        self._client: Client | None = None
        self._lost: asyncio.Future[None] | None = None
        self._refusal: str | None = None
        self._ended = False

    async def client(self) -> Client:
        """Return the client, connected. Raises one of the errors of a sink."""
        async with self._lock:
            if self._ended:
                raise SinkUnavailable("the connection to NATS was closed")
            if self._client is None or self._client.is_closed:
                with classified():
                    self._client = await self._connect()
            return self._client

    async def call(self, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Return the answer to ``work``, or raise one of the errors of a sink, at once when the connection is lost."""
        with classified():
            client = await self.client()
            lost = self._lost
            task = asyncio.ensure_future(work(client.jetstream(timeout=self._timeout)))
            task.add_done_callback(look_at_the_error)
            try:
                waited: set[asyncio.Future[Any]] = {task} if lost is None else {task, lost}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    raise errors.ConnectionClosedError
                return task.result()
            except TimeoutError as exc:
                # a permission that is missing is told beside the request, which then has no answer
                if self._refusal is not None:
                    raise SinkMisconfigured(f"NATS refuses this client: {self._refusal}") from exc
                raise
            finally:
                task.cancel()

    async def aclose(self) -> None:
        """Send what is left to send, and close. Idempotent."""
        self._ended = True
        async with self._lock:
            client, self._client = self._client, None
            if client is not None and not client.is_closed:
                await client.close()

    async def _connect(self) -> Client:
        client = Client()
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def on_closed() -> None:
            if not lost.done():
                lost.set_result(None)

        async def on_error(exc: Exception) -> None:
            log.debug("NATS: %s", describe(exc))
            if _is_refusal(exc):
                self._refusal = escape(str(exc))

        self._refusal = None
        reconnecting: dict[str, Any] = {
            "allow_reconnect": False,
            "max_reconnect_attempts": 1,
            "reconnect_time_wait": 0,
        }
        try:
            await client.connect(self._servers, error_cb=on_error, closed_cb=on_closed, **self._options, **reconnecting)
        except BaseException as exc:
            await client.close()
            # the server was reached, as it told its version, and then it said no
            if _is_refusal(exc) and client.connected_server_version.major:
                raise SinkMisconfigured(f"NATS refuses this client: {escape(str(exc))}") from exc
            raise
        self._lost = lost
        return client


def _listed(servers: str | Sequence[str]) -> list[str]:
    """Return each server's URL. Raises ``ValueError`` that does not quote it: a password may be in it."""
    listed = [server.strip() for server in (servers.split(",") if isinstance(servers, str) else servers)]
    if not listed or not all(map(_is_url, listed)):
        msg = "servers must be URLs as nats://HOST:4222, with commas between them"
        raise ValueError(msg)
    return listed


def _is_url(server: str) -> bool:
    try:
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        return parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_refusal(exc: BaseException) -> bool:
    # what the server says no with, for whatever reason, has no class of its own
    return type(exc) is errors.Error


def look_at_the_error(task: asyncio.Future[Any]) -> None:
    """Take the error of a task that nobody may wait for any more, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()
