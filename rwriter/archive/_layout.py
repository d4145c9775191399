"""The shape of an archive: names, columns, manifests, cuts and digests. A later release must be able to read it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import pyarrow as pa

from rwriter._values.answers import Answer

FORMAT: Final = 1
"""The version of everything in this module. A manifest of a later one is refused."""

MARK: Final = "archive.json"
MANIFESTS: Final = "manifests"

DEFAULT_CUTS: Final = 16
MOST_CUTS: Final = 4096

TIME: Final = pa.timestamp("us", "UTC")

SCHEMA: Final = pa.schema(
    [
        ("id", pa.uuid()),
        ("created_by", pa.string()),
        ("created_at", TIME),
        ("started_at", TIME),
        ("first_token_at", TIME),
        ("completed_at", TIME),
        ("failed_at", TIME),
        ("canceled_at", TIME),
        ("status", pa.string()),
        ("response_status", pa.int16()),
        ("model", pa.string()),
        ("routed_model", pa.string()),
        ("service_tier", pa.string()),
        ("custom_id", pa.string()),
        ("first_id", pa.string()),
        ("endpoint", pa.string()),
        ("method", pa.string()),
        ("path", pa.string()),
        ("api_key", pa.string()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("cached_input_tokens", pa.int32()),
        ("reasoning_tokens", pa.int32()),
        ("response_size", pa.int64()),
        ("metadata", pa.string()),
        ("body", pa.string()),
        ("response_body", pa.string()),
        ("error", pa.string()),
    ]
)
"""The columns of a cut. ``status`` is the state; ``first_id`` an id that the client saw before ``custom_id``;
``metadata`` is JSON. Rows are in the order of owner, then newest first."""

NAMES: Final[tuple[str, ...]] = tuple(SCHEMA.names)
DIGESTED: Final = ("id", "created_by", "status", "metadata", "body", "response_body", "error")

BY_ID: Final = 0
BY_NAME: Final = 1

INDEX_SCHEMA: Final = pa.schema([("kind", pa.int8()), ("key", pa.binary(16)), ("row_group", pa.int32())])
"""The columns of the index beside a cut: in which row group the request with an id, or with a client's id, is."""

_DIGEST_BITS: Final = 64


class CutFile(msgspec.Struct, frozen=True, kw_only=True):
    """One cut of a partition. Paths are from the archive's root; ``digest`` is the sum over its rows."""

    cut: int
    path: str
    index: str
    rows: int
    bytes: int
    digest: str
    created_first: datetime
    created_last: datetime


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of one partition. It is written last: with it the partition is in the archive, without it is not.

    ``table`` and ``fingerprint`` tell the tables that it was made of, as they were then. ``left_out`` counts the rows
    that were not taken over: blanked remains of deletions, and rows of erased owners.
    """

    format: int
    start: datetime
    end: datetime
    table: int
    fingerprint: str
    cuts: int
    rows: int
    left_out: int
    digest: str
    run: str
    files: list[CutFile]
    gone: list[str] = []
    """Files of before an erasure, to be deleted where a crash came between."""

    def file_of(self, owner: str) -> CutFile | None:
        """Return the cut that the owner's rows are in, or ``None`` where it has no rows."""
        number = cut_of(owner, self.cuts)
        return next((file for file in self.files if file.cut == number), None)

    @property
    def paths(self) -> set[str]:
        """Every file that the manifest names."""
        return {path for file in self.files for path in (file.path, file.index)}


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The mark of an archive: its format, and the identity of the database that it belongs to."""

    format: int
    database: str


class ArchiveErasure(Answer, frozen=True):
    """The receipt of ``ArchiveStore.erase``: how many requests are gone, from how many partitions, and when."""

    requests: int
    partitions: int
    erased_at: datetime


def name_of(start: datetime, end: datetime, number: int) -> str:
    """Return the name of a partition's folder. A ``number`` above 1 is of a partition of the same time, made later."""
    return f"{start:%Y-%m-%d}_{end:%Y-%m-%d}" + (f".{number}" if number > 1 else "")


def cut_of(owner: str, cuts: int) -> int:
    """Return the cut of an owner. The SQL in ``_source`` does the same."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:2]) % cuts


def named_key(owner: str, client_id: str) -> bytes:
    """Return the key of a client's id in the index: the same id of two owners has two."""
    return hashlib.sha256(hashlib.sha256(owner.encode()).digest() + client_id.encode()).digest()[:16]


def row_digest(row: Sequence[Any]) -> int:
    """Return the digest of a row's ``DIGESTED`` columns. The SQL in ``_source`` computes the same."""
    identity, *texts = row
    whole = hashlib.sha256(identity.bytes if isinstance(identity, uuid.UUID) else identity)
    for value in texts:
        whole.update(bytes(32) if value is None else hashlib.sha256(value.encode()).digest())
    return int.from_bytes(whole.digest()[:8])


def digest_text(numbers: Iterable[int]) -> str:
    """Return a sum of digests as it stands in a manifest: their order does not matter."""
    return f"{sum(numbers) % (1 << _DIGEST_BITS):016x}"


def ids_array(ids: Sequence[bytes | None]) -> pa.Array:
    """Return UUIDs as an array of the type that Parquet and DuckDB know as UUID."""
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(ids, pa.binary(16)))
