"""The listing's keyset cursor: where a page ended, as an opaque text."""

from __future__ import annotations

import base64
import binascii
import uuid
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec

from rwriter.errors import InvalidCursor


class Position(NamedTuple):
    """The last row of a page: whether it was listed among the active ones, and its sort key."""

    active: bool
    created_at: datetime
    id: uuid.UUID


class Row(Protocol):
    """The sort key of a listing: a summary or a detail has it."""

    @property
    def created_at(self) -> datetime:
        """When the request was created."""

    @property
    def id(self) -> uuid.UUID:
        """The request's id."""


def encode_cursor(position: Position) -> str:
    """Return an opaque, URL-safe cursor for the page after ``position``."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).decode().rstrip("=")


def cursor_after(row: Row) -> str:
    """Return the cursor for the rows that come after ``row`` in a listing without ``active_first``."""
    return encode_cursor(Position(active=False, created_at=row.created_at, id=row.id))


def decode_cursor(cursor: str) -> Position:
    """Return the position in a cursor. Raises ``InvalidCursor`` for one that ``encode_cursor`` did not make."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position = msgspec.msgpack.decode(raw, type=Position)
        # forged near the ends of time it cannot be said in UTC
        return position._replace(created_at=position.created_at.astimezone(UTC))
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError) as exc:
        msg = "cursor is not one that list_requests returned; start again without it"
        raise InvalidCursor(msg) from exc
