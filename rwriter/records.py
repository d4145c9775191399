"""The records that a service hands to the writer: validated, repaired and free of secrets from the constructor on."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Self

import msgspec
import uuid_utils
from msgspec.structs import force_setattr
from uuid_utils.compat import uuid7

from rwriter._validation import aware, between
from rwriter._values.guarded import Guarded
from rwriter._values.keys import KeyDigest, digest, plain
from rwriter._values.texts import quoted, repair, utf8_size

NAME_LIMIT = 512
"""Characters kept of ``model`` and ``endpoint``, and allowed in ``created_by`` and ``custom_id``.

Long incompressible values do not fit a btree page (2,704 bytes), and one such row would fail its whole batch."""

CLIENT_CLOSED_REQUEST: Final = 499
"""Status of a request whose client left, or that its owner cancelled, before the answer was complete."""

BODY_LIMIT: Final = 256 << 20
"""Bytes of UTF-8 a body may have. PostgreSQL takes 1 GB a value, and the error of a failed row quotes its body."""

METADATA_LIMIT: Final = 16 << 10
"""Bytes of JSON ``metadata`` may have."""

Metadata = Mapping[str, str | int | float | bool | None]
"""A service's own facts about a request: one level of names and scalars."""

_MAX_TOKENS: Final = 2**31 - 1
_NO_TOKENS: Final = (None, None, None, None)
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_MIN_STATUS, _MAX_STATUS = 100, 999


def new_request_id() -> uuid.UUID:
    """Return a fresh UUIDv7. Time-ordered keys cost a sixth of the WAL of random ones on a large table."""
    return uuid7()


def succeeded(status: int) -> bool:
    """Return True for 200..299: a row with such a status is ``completed``, with any other ``failed``."""
    return 200 <= status <= 299  # noqa: PLR2004 -- the range itself


class _Fields(Guarded, frozen=True, kw_only=True, gc=False):
    # The fields without the checks: what is read back from a spool or a dead letter comes as this first, so that its
    # digest is known for one. A record that is decoded directly would digest it again.
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
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    first_token_at: datetime | None = None
    metadata: Metadata | None = None

    __shown__: ClassVar[tuple[str, ...]] = ("request_id", "status_code", "model", "endpoint", "created_by")


class CompletedRequest(_Fields, frozen=True, kw_only=True, gc=False):
    """One finished request/response pair, ready to become one row.

    The constructor validates, so that nothing past it can poison a batch or leak a secret:

    * NUL and lone surrogates in any text become U+FFFD; everything else is stored byte for byte;
    * ``api_key`` is replaced by a digest, whatever it looks like: ``sha256:`` or, once ``use_key_pepper`` was called,
      ``hmac:<id>:``, and 32 hex digits; the raw key is not kept;
    * ``created_by`` is stored stripped; ``model`` and ``endpoint`` are cut to 512 characters;
    * ``completed_at`` is never before ``started_at``, and ``first_token_at`` is taken into what lies between;
    * a body has at most 256 MiB of UTF-8.

    ``custom_id`` is the id under which the client knows the answer, if that is not ``resp_<request_id>``.
    ``input_tokens``, ``output_tokens``, ``cached_input_tokens`` and ``reasoning_tokens`` are in 0..2**31-1;
    ``first_token_at`` is when the first byte of the answer left. ``metadata`` holds the service's own facts (trace id,
    tags, session): one level of texts, 64-bit integers, finite floats, booleans and ``None``, at most 16 KiB as JSON.

    Raises ``TypeError`` for a value of the wrong type and ``ValueError`` for one out of range, naming the field.
    """

    def __post_init__(self) -> None:
        _set_request_id(self, self.request_id)
        _set_status(self, self.status_code)
        for field in ("response_body", "request_body"):
            _set_body(self, field)
        for field in ("model", "endpoint"):
            _set_name(self, field)
        _set_api_key(self)
        _set_created_by(self, self.created_by)
        _set_custom_id(self, self.custom_id)
        _set_time(self, "started_at")
        _set_time(self, "completed_at")
        if self.completed_at < self.started_at:
            force_setattr(self, "completed_at", self.started_at)
        if self.first_token_at is not None:
            _set_first_token(self, self.first_token_at)
        if (self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_tokens) != _NO_TOKENS:
            _set_tokens(self)
        if self.metadata is not None:
            _set_metadata(self, self.metadata)

    @property
    def text_bytes(self) -> int:
        """Memory this record's texts hold, in bytes: what the channel's byte budget and a batch's are charged.

        A failed record is charged the error that quotes its body, too: control characters are six times as long there.
        """
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
        size = sum(map(str.__sizeof__, texts))
        if self.metadata is not None:
            size += _metadata_bytes(self.metadata)
        if not succeeded(self.status_code):
            size += len(msgspec.json.encode(quoted(self.response_body)))
        return size


class RenamedRequest(CompletedRequest, frozen=True, kw_only=True, gc=False):
    """A record whose answer changed its id on the way: the client saw ``first_id`` before ``custom_id``.

    The middleware makes it, and everything that looks a record up by ``custom_id`` finds it by both.
    """

    first_id: str

    def __post_init__(self) -> None:
        super().__post_init__()
        text = _text("first_id", self.first_id)
        _check_length("first_id", text)
        force_setattr(self, "first_id", text)

    @property
    def text_bytes(self) -> int:
        """Memory this record's texts hold, in bytes."""
        return super().text_bytes + str.__sizeof__(self.first_id)


class NewRequest(Guarded, frozen=True, kw_only=True, gc=False):
    """A request that has just begun, for ``RequestStore.create_realtime``. Texts are treated as in CompletedRequest."""

    request_id: uuid.UUID
    body: str
    model: str
    endpoint: str
    method: str
    path: str
    api_key: str
    created_by: str

    __shown__: ClassVar[tuple[str, ...]] = ("request_id", "model", "created_by")

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
        _set_body(self, "body")
        for field in ("method", "path"):
            _set_text(self, field)
        for field in ("model", "endpoint"):
            _set_name(self, field)
        _set_api_key(self)
        _set_created_by(self, self.created_by)


_Record = CompletedRequest | NewRequest


def encode_record(record: CompletedRequest) -> bytes:
    """Return ``record`` as MessagePack, for the spool and the dead letters."""
    return _encoder.encode(record)


def decode_record(payload: bytes) -> CompletedRequest:
    """Return the record that ``encode_record`` packed; its key stays the digest it is.

    Raises ``msgspec.DecodeError``, ``msgspec.ValidationError``, ``TypeError`` or ``ValueError`` for anything else.
    """
    fields = _decoder.decode(payload)
    values = {name: getattr(fields, name) for name in _Fields.__struct_fields__}
    values["api_key"] = KeyDigest(fields.api_key)
    return CompletedRequest(**values) if fields.first_id is None else RenamedRequest(**values, first_id=fields.first_id)


def first_id_of(record: CompletedRequest) -> str | None:
    """Return the id that the client saw before ``custom_id``, if there was one."""
    return record.first_id if isinstance(record, RenamedRequest) else None


def client_ids(record: CompletedRequest) -> tuple[str, ...]:
    """Return the ids under which the client knows the answer."""
    latter = () if record.custom_id is None else (record.custom_id,)
    # by the class, without a call: this is asked of every record
    return (*latter, record.first_id) if record.__class__ is RenamedRequest else latter


def to_builtins(record: CompletedRequest) -> dict[str, Any]:
    """Return the fields of ``record`` as texts, numbers and ``None``, as JSON has them."""
    values: dict[str, Any] = msgspec.to_builtins(record, enc_hook=plain)
    return values


class _Packed(_Fields, frozen=True, kw_only=True, gc=False):
    # a record of either kind
    first_id: str | None = None


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=plain)
_decoder: Final = msgspec.msgpack.Decoder(_Packed)


def _text(field: str, value: str) -> str:
    if not isinstance(value, str):
        msg = f"{field} must be a str, not {type(value).__name__}"
        # bytes of a body or a key: a traceback with local variables would show them
        del value
        raise TypeError(msg)
    # an exact str: subclasses (a StrEnum model name) would not pass through msgpack later
    return repair(value if type(value) is str else str.__str__(value))


def _set_text(record: _Record, field: str) -> str:
    # nothing is kept in a variable while it may be refused: tracebacks show them
    text = _text(field, getattr(record, field))
    if text is not getattr(record, field):
        force_setattr(record, field, text)
    return text


def _set_body(record: _Record, field: str) -> None:
    # a character has at most four bytes, so that no ordinary body is measured
    if len(_set_text(record, field)) * 4 <= BODY_LIMIT:
        return
    size = utf8_size(getattr(record, field))
    if size > BODY_LIMIT:
        msg = f"{field} must be at most {BODY_LIMIT:,} bytes of UTF-8, not {size:,}"
        raise ValueError(msg)


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


def _set_api_key(record: _Record) -> None:
    if type(record.api_key) is not KeyDigest:
        force_setattr(record, "api_key", digest(_text("api_key", record.api_key)))


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


def _set_first_token(record: CompletedRequest, value: datetime) -> None:
    _set_time(record, "first_token_at")
    within = min(max(record.first_token_at or value, record.started_at), record.completed_at)
    force_setattr(record, "first_token_at", within)


def _set_tokens(record: CompletedRequest) -> None:
    for field in ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"):
        value = getattr(record, field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            msg = f"{field} must be an int, not {type(value).__name__}"
            raise TypeError(msg)
        between(field, int(value), 0, _MAX_TOKENS)
        if type(value) is not int:
            force_setattr(record, field, int(value))


def _set_metadata(record: CompletedRequest, value: Metadata) -> None:
    if not isinstance(value, Mapping):
        msg = f"metadata must be a mapping, not {type(value).__name__}"
        raise TypeError(msg)
    # a copy: the caller's own mapping may change before the record is written
    copy = {_text("metadata's name", name): _scalar(name, item) for name, item in value.items()}
    size = len(msgspec.json.encode(copy))
    if size > METADATA_LIMIT:
        msg = f"metadata must be at most {METADATA_LIMIT} bytes as JSON, not {size}"
        raise ValueError(msg)
    force_setattr(record, "metadata", copy)


def _scalar(name: str, value: object) -> str | float | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(f"metadata[{name!r}]", value)
    if isinstance(value, int):
        between(f"metadata[{name!r}]", value, _MIN_INTEGER, _MAX_INTEGER)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"metadata[{name!r}] must be finite, not {value}"
            raise ValueError(msg)
        return float(value)
    msg = f"metadata[{name!r}] must be a str, int, float, bool or None, not {type(value).__name__}"
    raise TypeError(msg)


def _metadata_bytes(metadata: Metadata) -> int:
    texts = (text for pair in metadata.items() for text in pair if isinstance(text, str))
    return sum(map(str.__sizeof__, texts)) + 64 * len(metadata)
