"""A TCP proxy whose line can be cut, stalled or slowed: network faults for tests, without privileges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

Peer: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHUNK: Final = 65_536


class TcpProxy:
    """Forwards 127.0.0.1:``port`` to a server, until told otherwise.

    ``cut()`` resets every connection and refuses new ones; ``stall()`` stops forwarding without closing anything, as a
    peer that vanished does (half-open); ``forget()`` does that to the connections there are, and serves new ones, as a
    NAT does that forgot its idle connections; ``slow(seconds)`` delays each piece of data; ``heal()`` undoes them,
    dropping what was stalled with its connections.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target: Final = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._delay = 0.0
        self._flowing = _flowing()
        self.port: int = 0
        self.connections: int = 0

    def url(self, url: str) -> str:
        """Return ``url`` with the proxy's address in place of the server's."""
        host, port = self._target
        return url.replace(f"{host}:{port}", f"127.0.0.1:{self.port}")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._refusing = True
        self.drop()

    def drop(self) -> None:
        """Reset every connection and go on accepting new ones."""
        for writer in list(self._writers):
            writer.transport.abort()

    def stall(self) -> None:
        """Forward nothing more, in either direction, and close nothing. New connections are accepted and ignored."""
        self._flowing.clear()

    def forget(self) -> None:
        """Forward nothing more on the connections there are, and close none of them. New ones are served."""
        self._flowing.clear()
        self._flowing = _flowing()

    def slow(self, seconds: float) -> None:
        """Hold each piece of data, of up to 64 kB, back for ``seconds`` before it is forwarded."""
        self._delay = seconds

    def heal(self) -> None:
        """Forward again. Stalled connections are reset: the data they lost cannot be sent again."""
        if not self._flowing.is_set():
            self.drop()
        self._refusing = False
        self._delay = 0.0
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of our own: Python 3.11 logs an error for each handler of its own that is cancelled
        task = asyncio.create_task(self._connected(reader, writer), name="rwriter-proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self._refusing:
                return
            flowing = self._flowing
            await flowing.wait()
            with contextlib.suppress(OSError):
                await self._forward_both(reader, writer, flowing)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward_both(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        self._writers.add(upstream_writer)
        try:
            await _until_one_ends(self._directions((reader, writer), (upstream_reader, upstream_writer), flowing))
        finally:
            self._writers.discard(upstream_writer)
            upstream_writer.transport.abort()

    def _directions(self, client: Peer, server: Peer, flowing: asyncio.Event) -> Iterable[Coroutine[Any, Any, None]]:
        return self._forward(client[0], server[1], flowing), self._forward(server[0], client[1], flowing)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._pass(data, writer, flowing)

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        await flowing.wait()
        writer.write(data)
        await writer.drain()


def _flowing() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def _until_one_ends(directions: Iterable[Coroutine[Any, Any, None]]) -> None:
    tasks = {asyncio.create_task(direction) for direction in directions}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
