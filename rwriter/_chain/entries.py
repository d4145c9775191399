"""Entries of the ledger: what each says, the tags of its records, and the digest that seals it to the one before.

A *lane* is a sequence of entries that one task writes, one after the other. Its id is the writer's with the lane's
number as the last byte: number 0 is the writer's own, and the first entry of every other lane follows the writer's
first. So concurrent flushes do not wait for each other, and no crash leaves a gap.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from rwriter._chain.secret import Key
from rwriter.records import CompletedRequest, new_request_id

Kind: TypeAlias = Literal[
    "opened", "stored", "skipped", "dead", "spooled", "replayed", "dropped", "erased", "purged", "archived",
    "heartbeat", "closed",
]  # fmt: skip

STORING: Final = ("stored", "replayed")
"""Kinds of entries that were written by the same statement as the rows of their records."""

REMOVING: Final = ("erased", "purged", "archived")
"""Kinds of entries that say why rows are gone."""

START: Final = bytes(32)
"""``previous`` of a chain's first entry."""

ID_BYTES: Final = 16
TAG_BYTES: Final = 16
MOST_LANES: Final = 255

_FACTS: Final = struct.Struct("!16sHdd32s").pack
_VERSION: Final = b"rwriter ledger entry 1"


class Outcome(msgspec.Struct, frozen=True):
    """Ids that the database told apart when an entry was written, one after the other, in order.

    ``skipped``: records without a row of this entry's. ``begun``: rows that were there before, in flight, and were
    finished. The writer learns both with the answer, and the next entry of the lane seals them.
    """

    skipped: bytes = b""
    begun: bytes = b""

    @property
    def digest(self) -> str:
        """The SHA-256 of both lists in hex, or an empty text where there is nothing odd."""
        if not self.skipped and not self.begun:
            return ""
        return hashlib.sha256(len(self.skipped).to_bytes(4, "big") + self.skipped + self.begun).hexdigest()


NOTHING_ODD: Final = Outcome()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as it is written. ``ids`` and ``tags`` are those of its records, one after the other."""

    lane: uuid.UUID
    seq: int
    kind: Kind
    previous: bytes
    digest: bytes
    ids: bytes = b""
    tags: bytes = b""
    account: Mapping[str, Any] | None = None
    number: int = 0


class Head(msgspec.Struct, frozen=True):
    """The last entry of a lane, as the next one needs to know it."""

    lane: uuid.UUID
    seq: int = 0
    digest: bytes = START
    outcome: Outcome = NOTHING_ODD

    def followed_by(
        self,
        key: Key,
        kind: Kind,
        *,
        ids: bytes = b"",
        tags: bytes = b"",
        account: Mapping[str, Any] | None = None,
        number: int | None = None,
    ) -> Entry:
        """Return the next entry. ``number`` is that of the ids unless it is given."""
        return Entry(
            lane=self.lane,
            seq=self.seq + 1,
            kind=kind,
            previous=self.digest,
            digest=key.sign(self._sealing(kind, ids, tags, account)),
            ids=ids,
            tags=tags,
            account=account,
            number=len(ids) // ID_BYTES if number is None else number,
        )

    def _sealing(self, kind: str, ids: bytes, tags: bytes, account: Mapping[str, Any] | None) -> bytes:
        """Return the bytes that the digest of the next entry is made of."""
        told = b"" if account is None else msgspec.json.encode(account, order="sorted")
        place = (self.lane.bytes, (self.seq + 1).to_bytes(8, "big"), self.digest)
        parts = (_VERSION, *place, self.outcome.skipped, self.outcome.begun, kind.encode(), ids, tags, told)
        return b"".join([len(part).to_bytes(4, "big") + part for part in parts])

    def after(self, entry: Entry, outcome: Outcome = NOTHING_ODD) -> Head:
        """Return the head that ``entry`` makes."""
        return Head(self.lane, entry.seq, entry.digest, outcome)


# -- ids


def new_writer_id() -> uuid.UUID:
    """Return the id of a new writer, which is that of its own lane."""
    return lane_of(uuid.UUID(int=new_request_id().int), 0)


def lane_of(writer_id: uuid.UUID, number: int) -> uuid.UUID:
    """Return the id of a lane of the writer that ``writer_id`` or any of its lanes names."""
    return uuid.UUID(int=writer_id.int >> 8 << 8 | number)


def ids_of(packed: bytes) -> list[uuid.UUID]:
    """Return the ids that lie in ``packed`` one after the other."""
    return [uuid.UUID(bytes=packed[at : at + ID_BYTES]) for at in range(0, len(packed), ID_BYTES)]


def packed(ids: Iterable[uuid.UUID]) -> bytes:
    """Return ``ids`` one after the other."""
    return b"".join([each.bytes for each in ids])


# -- tags


def tags_of(key: Key, records: Sequence[CompletedRequest]) -> bytes:
    """Return the tags of ``records``: 16 bytes over the facts of each, and 16 over its bodies."""
    return b"".join(
        [
            facts_tag(key, r.request_id, r.status_code, r.created_by, r.started_at, r.completed_at)
            + bodies_tag(key, r.request_id, _sha256(r.request_body), _sha256(r.response_body))
            for r in records
        ]
    )


def facts_tag(
    key: Key, request_id: uuid.UUID, status: int, owner: str, started_at: datetime, finished_at: datetime
) -> bytes:
    """Return the tag over the id, the status, the owner's digest and the times.

    As doubles: they tell microseconds apart, and are made in a fifth of the time of a text.
    """
    times = started_at.timestamp(), finished_at.timestamp()
    return key.sign(_FACTS(request_id.bytes, status, *times, _owner_digest(owner)))[:TAG_BYTES]


def bodies_tag(key: Key, request_id: uuid.UUID, request: bytes, response: bytes) -> bytes:
    """Return the tag over the id and the SHA-256 of both bodies. Of another length, it passes for no tag of facts."""
    return key.sign(request_id.bytes + request + response)[:TAG_BYTES]


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@functools.lru_cache(maxsize=4096)
def _owner_digest(owner: str) -> bytes:
    return hashlib.sha256(owner.encode()).digest()


# -- on disk, and in messages


def encode_entry(entry: Entry) -> bytes:
    """Return ``entry`` as MessagePack."""
    return msgspec.msgpack.encode(entry)


def decode_entry(packed_entry: bytes) -> Entry:
    """Return the entry that ``encode_entry`` packed. Raises ``msgspec.MsgspecError`` for anything else."""
    return msgspec.msgpack.decode(packed_entry, type=Entry)
