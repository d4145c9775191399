"""Finds one request in an archive: by its id, or by an id that its client knows. Its calls block."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from rwriter.archive._layout import BY_ID, BY_NAME, CutFile, Manifest, named_key
from rwriter.archive._reading import Cuts, row_by_key
from rwriter.schema import first_id
from rwriter.store import RequestDetail
from rwriter.store._results import detail_of_row

SUMMARY: Final = (
    *("id", "created_by", "created_at", "started_at", "completed_at", "failed_at", "first_token_at", "status"),
    *("response_status", "model", "service_tier", "path", "metadata"),
    *("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"),
)
"""The columns of a ``RequestSummary`` that a cut has: ``batch_id`` is ``None`` for whatever has an owner."""

_DETAIL: Final = (*SUMMARY, "body", "response_body", "error")


def by_id(cuts: Cuts, listed: Mapping[str, Manifest], identity: uuid.UUID, owner: str | None) -> RequestDetail | None:
    """Return the request with that id. With ``owner`` one cut is looked into, without it each of one partition's."""
    for manifest in listed.values():
        if first_id(manifest.start) <= identity < first_id(manifest.end):
            found = _first(cuts, _files_of(manifest, owner), BY_ID, identity.bytes, owner)
            if found is not None:
                return found
    return None


def by_client_id(cuts: Cuts, listed: Mapping[str, Manifest], client_id: str, owner: str) -> RequestDetail | None:
    """Return the owner's request of the latest partition that its client knows under ``client_id``."""
    key = named_key(owner, client_id)
    for manifest in reversed(list(listed.values())):
        found = _first(cuts, _files_of(manifest, owner), BY_NAME, key, owner)
        if found is not None:
            return found
    return None


def fields_of(row: Mapping[str, Any], names: Iterable[str] = SUMMARY) -> dict[str, Any]:
    """Return the fields of a row as the store has them."""
    fields = {name: row[name] for name in names}
    for name, value in fields.items():
        if isinstance(value, datetime):
            fields[name] = value.replace(tzinfo=UTC)
    facts = fields.get("metadata")
    return fields | {"batch_id": None, "metadata": None if facts is None else msgspec.json.decode(facts)}


def _files_of(manifest: Manifest, owner: str | None) -> list[CutFile]:
    if owner is None:
        return manifest.files
    file = manifest.file_of(owner)
    return [] if file is None else [file]


def _first(cuts: Cuts, files: Iterable[CutFile], kind: int, key: bytes, owner: str | None) -> RequestDetail | None:
    for file in files:
        row = row_by_key(cuts, file, kind, key, owner)
        if row is not None:
            return detail_of_row(fields_of(row, _DETAIL))
    return None
