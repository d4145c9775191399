"""A proxy that resets connections in the middle of a commit: the moment at which nobody can know what happened."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65_536
# asyncpg begins and ends a transaction with simple Query messages of its own
_BEGIN: Final = b"BEGIN;\0"
_COMMIT: Final = b"COMMIT;\0"
_ROLLBACK: Final = b"ROLLBACK;\0"
# outside of one it is the Sync that commits what was executed
_SYNC: Final = b"S\0\0\0\x04"
_EXECUTE: Final = b"E\0\0\0\x09\0\0\0\0\0" + _SYNC


class Moment(enum.Enum):
    """When the line is cut."""

    BEFORE = "before the server hears of it"
    WITH = "as it is sent"
    AFTER = "after the server's answer"
    UNHEARD = "and the server hears nothing, not even that"


class CommitCutter:
    """Forwards 127.0.0.1:``port`` to a server and cuts the line at the commits for which ``moments`` has a moment."""

    def __init__(self, host: str, port: int, moments: Iterator[Moment | None]) -> None:
        self._target: Final = (host, port)
        self._moments: Final = moments
        self._server: asyncio.Server | None = None
        self._lines: Final[set[asyncio.Task[None]]] = set()
        # to the server these clients are still there, in the middle of a transaction
        self._unheard: Final[list[asyncio.StreamWriter]] = []
        self.port = 0
        self.cuts: Final[Counter[Moment]] = Counter()

    def url(self, url: str) -> str:
        """``url`` with the proxy's address in place of the server's."""
        host, port = self._target
        return url.replace(f"{host}:{port}", f"127.0.0.1:{self.port}")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        for writer in self._unheard:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        try:
            # cancelled only when the proxy ends: asyncio would report that as an error of this callback
            with contextlib.suppress(OSError, asyncio.CancelledError):
                server, to_server = await asyncio.open_connection(*self._target)
                try:
                    await self._forward(reader, writer, server, to_server)
                finally:
                    if to_server not in self._unheard:
                        to_server.transport.abort()
        finally:
            writer.transport.abort()

    async def _forward(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        answering = asyncio.create_task(_copy(server, to_client))
        committing = _EXECUTE
        try:
            while data := await client.read(_CHUNK):
                moment = next(self._moments, None) if data.endswith(committing) else None
                if data.endswith((_BEGIN, _COMMIT, _ROLLBACK)):
                    committing = _COMMIT if data.endswith(_BEGIN) else _EXECUTE
                if moment is not None:
                    self.cuts[moment] += 1
                if moment is Moment.UNHEARD:
                    self._unheard.append(to_server)
                if moment in {Moment.BEFORE, Moment.UNHEARD}:
                    if committing is _EXECUTE:
                        # the server executes it, and waits for the word to commit
                        to_server.write(data.removesuffix(_SYNC))
                        await to_server.drain()
                    return
                if moment is Moment.AFTER:
                    # the answer to the commit is read here, and goes no further
                    answering.cancel()
                    await asyncio.wait({answering})
                to_server.write(data)
                await to_server.drain()
                if moment is Moment.AFTER:
                    await server.read(_CHUNK)
                if moment is not None:
                    return
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
