"""Reset connections in the middle of a commit, when the client cannot know what happened."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.support.wire import Line, Message, PostgresProxy

BIND: Final = "B"
EXECUTE: Final = "E"
SYNC: Final = "S"
# asyncpg begins and ends a transaction with simple queries of its own
BEGIN: Final = b"BEGIN;\0"
COMMIT: Final = b"COMMIT;\0"
ROLLBACK: Final = b"ROLLBACK;\0"
IN_TRANSACTION: Final = "in a transaction"
BOUND: Final = "bound outside of a transaction"
EXECUTED: Final = "executed outside of a transaction"
FLUSH_BYTES: Final = 300
"""The parameters of a single record take more."""


class Moment(enum.Enum):
    """The moment at which the line is cut."""

    BEFORE = "before the server hears of it"
    WITH = "as it is sent"
    AFTER = "after the server's answer"
    UNHEARD = "and the server hears nothing, not even that"


class CommitCutter(PostgresProxy):
    """Cuts the line at the commits for which ``moments`` has a moment, and lets the others pass."""

    def __init__(self, host: str, port: int, moments: Iterator[Moment | None], *, flushes_only: bool = False) -> None:
        super().__init__(host, port)
        # what a message must have for its Sync to count: a flush's arrays, or anything
        self._least_bytes: Final = FLUSH_BYTES if flushes_only else 0
        self._moments: Final = moments
        self.cuts: Final[Counter[Moment]] = Counter()

    async def on_message(self, line: Line, message: Message) -> bool:
        """Forward ``message``; where it commits, cut the line at the next moment."""
        moment = next(self._moments, None) if _commits(line, message, self._least_bytes) else None
        if moment is None:
            return await super().on_message(line, message)
        self.cuts[moment] += 1
        if moment is Moment.UNHEARD:
            await _keep_the_server_waiting(line)
        if moment is Moment.AFTER:
            line.muted = True
            line.answered.clear()
        if moment is not Moment.BEFORE:
            await self.forward(line, message)
        if moment is Moment.AFTER:
            await line.answered.wait()
        return False


def _commits(line: Line, message: Message, least_bytes: int) -> bool:
    """Return True if the server will commit on ``message``, and note what that depends on for the next."""
    before = line.note
    if message.data.endswith(BEGIN):
        line.note = IN_TRANSACTION
    elif message.data.endswith((COMMIT, ROLLBACK)):
        line.note = ""
    elif line.note != IN_TRANSACTION:
        # outside of a transaction it is the Sync that commits what was executed: a flush, whose arrays are bound to it,
        # and not what the driver asks when it connects
        if message.kind == BIND and len(message.data) > least_bytes:
            line.note = BOUND
        else:
            line.note = EXECUTED if message.kind == EXECUTE and before == BOUND else ""
    return message.data.endswith(COMMIT) or (message.kind == SYNC and before == EXECUTED)


async def _keep_the_server_waiting(line: Line) -> None:
    """Reset the client alone: to the server it is still there, in a transaction, until the proxy ends."""
    line.muted = True
    line.client[1].transport.abort()
    await asyncio.Event().wait()
