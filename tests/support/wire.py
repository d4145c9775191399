"""A ``TcpProxy`` that understands what clients say to PostgreSQL, and one of its kind that counts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Final, NamedTuple

from rwriter.testing import TcpProxy

_CHUNK: Final = 65_536
_LENGTH_BYTES: Final = 4
_ENCRYPTION_OFFER_BYTES: Final = 8

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Message(NamedTuple):
    """A message of a client: its letter, which is empty while a session begins, and all of its bytes."""

    kind: str
    data: bytes


class Line:
    """One client's connection through the proxy. ``note`` is the proxy's own, to remember what was said before."""

    def __init__(self, client: Peer, server: Peer, flowing: asyncio.Event) -> None:
        self.client: Final = client
        self.server: Final = server
        self.flowing: Final = flowing
        self.note = ""
        # the server's answers are read, and go no further
        self.muted = False
        self.answered: Final = asyncio.Event()
        self._buffer = bytearray()
        self._started = False

    def cut(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that ``data`` completes."""
        self._buffer += data
        while (size := self._size()) and len(self._buffer) >= size:
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield Message(chr(message[0]) if self._started else "", message)
            # an offer to encrypt has no kind either: the server declines it, and a start-up message follows
            self._started = self._started or size > _ENCRYPTION_OFFER_BYTES

    def _size(self) -> int:
        """Return the bytes of the first message in the buffer, or 0 while its length has not arrived."""
        kind = 1 if self._started else 0
        length = self._buffer[kind : kind + _LENGTH_BYTES]
        return kind + int.from_bytes(length) if len(length) == _LENGTH_BYTES else 0


class PostgresProxy(TcpProxy):
    """Calls ``on_message`` for each message of a client, and ``on_answer`` for each piece of the server's answers."""

    async def on_message(self, line: Line, message: Message) -> bool:
        """Forward ``message``, or do something else with it. Return False to reset the line."""
        await self.forward(line, message)
        return True

    def on_answer(self, line: Line) -> None:
        """Take note that the server has spoken on ``line``."""

    async def forward(self, line: Line, message: Message) -> None:
        """Send ``message`` to the server."""
        await self._pass(message.data, line.server[1], line.flowing)

    def _directions(self, client: Peer, server: Peer, flowing: asyncio.Event) -> Iterable[Coroutine[Any, Any, None]]:
        line = Line(client, server, flowing)
        return self._hear_client(line), self._hear_server(line)

    async def _hear_client(self, line: Line) -> None:
        with contextlib.suppress(OSError):
            while data := await line.client[0].read(_CHUNK):
                for message in line.cut(data):
                    if not await self.on_message(line, message):
                        return

    async def _hear_server(self, line: Line) -> None:
        with contextlib.suppress(OSError):
            while data := await line.server[0].read(_CHUNK):
                self.on_answer(line)
                line.answered.set()
                if not line.muted:
                    await self._pass(data, line.client[1], line.flowing)


class Wire(PostgresProxy):
    """Counts what clients send: messages by kind, bytes, connections, and turns.

    A turn is a time that a client speaks after the server did: a round trip.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.reset()

    def reset(self) -> None:
        """Count from 0 again."""
        self.messages: Counter[str] = Counter()
        self.sent = self.turns = self.connections = 0

    async def on_message(self, line: Line, message: Message) -> bool:
        """Count ``message`` and forward it."""
        self.sent += len(message.data)
        if message.kind:
            self.messages[message.kind] += 1
        self.turns += line.answered.is_set()
        line.answered.clear()
        return await super().on_message(line, message)
