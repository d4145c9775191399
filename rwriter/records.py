"""The records that a service hands to the writer: validated, repaired and free of secrets from the constructor on."""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime
from typing import Any, Final, Self

import msgspec
import uuid_utils
from msgspec.structs import force_setattr
from opentelemetry import metrics
from uuid_utils.compat import uuid7

from rwriter._validation import aware, between

NAME_LIMIT = 512
"""Characters kept of ``model`` and ``endpoint``, and allowed in ``created_by`` and ``custom_id``.

Long incompressible values do not fit a btree page (2,704 bytes), and one such row would fail its whole batch."""

CLIENT_CLOSED_REQUEST: Final = 499
"""Status of a request whose client left, or that its owner cancelled, before the answer was complete."""

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{32}")
_MIN_STATUS, _MAX_STATUS = 100, 999

_repaired = metrics.get_meter("rwriter").create_counter(
    "rwriter.repaired", unit="{text}", description="Texts that held a NUL or a lone surrogate, replaced by U+FFFD."
)


def new_request_id() -> uuid.UUID:
    """Return a fresh UUIDv7. Time-ordered keys cost a sixth of the WAL of random ones on a large table."""
    return uuid7()


def succeeded(status: int) -> bool:
    """Return True for 200..299: a row with such a status is ``completed``, with any other ``failed``."""
    return 200 <= status <= 299  # noqa: PLR2004 -- the range itself


class CompletedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One finished request/response pair, ready to become one row.

    The constructor validates, so that nothing past it can poison a batch or leak a secret:

    * NUL and lone surrogates in any text become U+FFFD; everything else is stored byte for byte;
    * ``api_key`` is replaced by a fingerprint (``sha256:`` and 32 hex digits); the raw key is not kept;
    * ``created_by`` is stored stripped; ``model`` and ``endpoint`` are cut to 512 characters;
    * ``completed_at`` is never before ``started_at``.

    Raises ``TypeError`` for a value of the wrong type and ``ValueError`` for one out of range, naming the field.
    """

    request_id: uuid.UUID
    status_code: int
    response_body: str
    request_body: str
    model: str
    endpoint: str
    api_key: str
    created_by: str
    started_at: datetime
    completed_at: datetime
    custom_id: str | None = None

    def __post_init__(self) -> None:
        _set_request_id(self, self.request_id)
        _set_status(self, self.status_code)
        for field in ("response_body", "request_body"):
            _set_text(self, field)
        for field in ("model", "endpoint"):
            _set_name(self, field)
        _set_api_key(self, self.api_key)
        _set_created_by(self, self.created_by)
        _set_custom_id(self, self.custom_id)
        _set_time(self, "started_at")
        _set_time(self, "completed_at")
        if self.completed_at < self.started_at:
            force_setattr(self, "completed_at", self.started_at)

    def __repr__(self) -> str:
        return (
            f"CompletedRequest(request_id={self.request_id}, status_code={self.status_code}, model={self.model!r}, "
            f"endpoint={self.endpoint!r}, created_by={self.created_by!r})"
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would show the bodies in every traceback that rich prints
        return [("request_id", self.request_id), ("status_code", self.status_code)]

    @property
    def text_bytes(self) -> int:
        """Memory this record's texts hold, in bytes: what the channel's byte budget is charged."""
        texts = (
            self.response_body,
            self.request_body,
            self.model,
            self.endpoint,
            self.created_by,
            self.api_key,
            self.custom_id or "",
        )
        # sys.getsizeof() says the same of a text, in three times the time
        return sum(map(str.__sizeof__, texts))


class NewRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request that has just begun, for ``RequestStore.create_realtime``. Texts are treated as in CompletedRequest."""

    request_id: uuid.UUID
    body: str
    model: str
    endpoint: str
    method: str
    path: str
    api_key: str
    created_by: str

    @classmethod
    def before(cls, record: CompletedRequest) -> Self:
        """Return the request of ``record`` as it was before its answer: a POST to the path that is its endpoint."""
        return cls(
            request_id=record.request_id,
            body=record.request_body,
            model=record.model,
            endpoint="",
            method="POST",
            path=record.endpoint,
            api_key=record.api_key,
            created_by=record.created_by,
        )

    def __post_init__(self) -> None:
        _set_request_id(self, self.request_id)
        for field in ("body", "method", "path"):
            _set_text(self, field)
        for field in ("model", "endpoint"):
            _set_name(self, field)
        _set_api_key(self, self.api_key)
        _set_created_by(self, self.created_by)

    def __repr__(self) -> str:
        return f"NewRequest(request_id={self.request_id}, model={self.model!r}, created_by={self.created_by!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("request_id", self.request_id)]


_Record = CompletedRequest | NewRequest


def utf8_size(text: str) -> int:
    """Return the length of a repaired text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def fingerprint(api_key: str) -> str:
    """Return ``sha256:`` and 32 hex digits of the key's SHA-256; empty and fingerprinted keys stay as they are."""
    if not api_key or _FINGERPRINT.fullmatch(api_key):
        return api_key
    return "sha256:" + hashlib.sha256(api_key.encode()).hexdigest()[:32]


def repair(text: str) -> str:
    """Return ``text`` with each NUL and lone surrogate replaced by U+FFFD: PostgreSQL's TEXT cannot hold them."""
    if text.isascii():
        if "\0" not in text:
            return text
    else:
        try:
            text.encode()
        except UnicodeEncodeError:
            # UTF-16 joins a high and a low surrogate that belong together, so that only lone ones are lost
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        else:
            if "\0" not in text:
                return text
    _repaired.add(1)
    return text.replace("\0", "\ufffd")


def _text(field: str, value: str) -> str:
    if not isinstance(value, str):
        msg = f"{field} must be a str, not {type(value).__name__}"
        raise TypeError(msg)
    # an exact str: subclasses (a StrEnum model name) would not pass through msgpack later
    return repair(value if type(value) is str else str.__str__(value))


def _set_text(record: _Record, field: str) -> None:
    value = getattr(record, field)
    text = _text(field, value)
    if text is not value:
        force_setattr(record, field, text)


def _set_name(record: _Record, field: str) -> None:
    text = _text(field, getattr(record, field))
    force_setattr(record, field, text if len(text) <= NAME_LIMIT else text[: NAME_LIMIT - 1] + "…")


def _set_request_id(record: _Record, value: uuid.UUID) -> None:
    if isinstance(value, uuid.UUID):
        return
    if isinstance(value, uuid_utils.UUID):
        force_setattr(record, "request_id", uuid.UUID(int=value.int))
        return
    msg = f"request_id must be a uuid.UUID (see new_request_id()), not {type(value).__name__}"
    raise TypeError(msg)


def _set_status(record: CompletedRequest, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"status_code must be an int, not {type(value).__name__}"
        raise TypeError(msg)
    between("status_code", int(value), _MIN_STATUS, _MAX_STATUS)
    if type(value) is not int:
        force_setattr(record, "status_code", int(value))


def _set_api_key(record: _Record, value: str) -> None:
    force_setattr(record, "api_key", fingerprint(_text("api_key", value)))


def _set_created_by(record: _Record, value: str) -> None:
    text = _text("created_by", value).strip()
    if not text:
        msg = "created_by must name who made the request; it is blank"
        raise ValueError(msg)
    _check_length("created_by", text)
    force_setattr(record, "created_by", text)


def _set_custom_id(record: CompletedRequest, value: str | None) -> None:
    if value is None:
        return
    text = _text("custom_id", value)
    _check_length("custom_id", text)
    force_setattr(record, "custom_id", text)


def _check_length(field: str, text: str) -> None:
    if len(text) > NAME_LIMIT:
        msg = f"{field} must be at most {NAME_LIMIT} characters, not {len(text)}"
        raise ValueError(msg)


def _set_time(record: CompletedRequest, field: str) -> None:
    value = getattr(record, field)
    if not isinstance(value, datetime):
        msg = f"{field} must be a datetime, not {type(value).__name__}"
        raise TypeError(msg)
    aware(field, value)
    if value.tzinfo is UTC and type(value) is datetime:
        return
    try:
        # Python compares two times of one zone by their wall clock: wrong in the hour that comes twice a year
        utc = value.astimezone(UTC)
    except OverflowError as exc:
        msg = f"{field} must be within the years 1 to 9999 in UTC"
        raise ValueError(msg) from exc
    # an exact datetime: subclasses (pendulum's, pandas') would not pass through msgpack later
    force_setattr(record, field, datetime.combine(utc.date(), utc.time(), UTC))
