"""What a call costs, in things that can be counted: messages on the wire, rows, blocks of memory, function calls."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

_CHUNK: Final = 65_536
_HEADER: Final = 5
"""Bytes of a message's kind and length."""


class Wire:
    """A proxy before a server that counts what clients send: messages by kind, bytes, and turns.

    A turn is a time that the client speaks after the server did: a round trip.
    """

    def __init__(self, url: str) -> None:
        self._server_url: Final = make_url(url)
        self._server: asyncio.Server | None = None
        self._lines: Final[set[asyncio.Task[None]]] = set()
        self._port = 0
        self.reset()

    def reset(self) -> None:
        self.messages: Counter[str] = Counter()
        self.sent = self.turns = self.connections = 0

    @property
    def url(self) -> str:
        here = self._server_url.set(host="127.0.0.1", port=self._port)
        return here.render_as_string(hide_password=False)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.create_task(self._carry(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        host, port = self._server_url.host or "127.0.0.1", self._server_url.port or 5432
        server_reader, server_writer = await asyncio.open_connection(host, port)
        client = _Client(self)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_forward(reader, server_writer, client.spoke))
                both.create_task(_forward(server_reader, writer, client.heard))
        finally:
            for each in (writer, server_writer):
                each.transport.abort()


class _Client:
    """One client's side of the conversation, cut into messages."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = bytearray()
        self._started = self._listening = False

    def heard(self, _data: bytes) -> None:
        self._listening = True

    def spoke(self, data: bytes) -> None:
        self._wire.sent += len(data)
        self._wire.turns += self._listening
        self._listening = False
        self._buffer += data
        while (size := self._size()) and len(self._buffer) >= size:
            if self._started:
                self._wire.messages[chr(self._buffer[0])] += 1
            # an offer to encrypt has no kind either; the server under test declines it, and a start-up follows
            self._started = self._started or size > len(_ENCRYPTION_OFFER)
            del self._buffer[:size]

    def _size(self) -> int:
        """Bytes of the first message in the buffer, or 0 while that cannot be said."""
        kind = 1 if self._started else 0
        length = self._buffer[kind : kind + 4]
        return kind + int.from_bytes(length) if len(length) == _HEADER - 1 else 0


_ENCRYPTION_OFFER: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            note(data)
            writer.write(data)
            await writer.drain()
    writer.close()


class Calls:
    """Function calls, Python's and C's, on this thread: a machine's instructions vary with its make, these do not."""

    number = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        def count(_frame: Any, happening: str, _argument: Any) -> None:
            if happening in {"call", "c_call"}:
                self.number += 1

        before, collecting = sys.getprofile(), gc.isenabled()
        # a collection runs finalizers, anybody's
        gc.disable()
        sys.setprofile(count)
        try:
            yield
        finally:
            sys.setprofile(before)
            if collecting:
                gc.enable()


async def calls_of(work: Callable[[], Awaitable[Any]]) -> int:
    """How many calls ``work`` takes, the loop's own while it waits included."""
    calls = Calls()
    with calls.counted():
        await work()
    return calls.number


async def table_counters(engine: AsyncEngine) -> dict[str, Counter[str]]:
    """What the server counted of each table since it was made."""
    query = text(
        "SELECT relname, n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_del AS deleted, seq_tup_read AS scanned,"
        " coalesce(idx_tup_fetch, 0) AS fetched FROM pg_stat_user_tables"
        " WHERE relname IN ('requests', 'request_templates', 'dead_letters')"
    )
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).mappings()
        return {row["relname"]: Counter({name: int(row[name]) for name in _COUNTED}) for row in rows}


_COUNTED: Final = ("inserted", "updated", "deleted", "scanned", "fetched")


async def wal_position(engine: AsyncEngine) -> int:
    """Bytes of WAL since the cluster was made."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))).scalar_one())
