"""Error frames: whether an event is one, and what it says."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_MESSAGE_CHARACTERS: Final = 8_192
_ENVELOPE: Final = frozenset({"object", "sequence_number"})
_NUMBER_KEYS: Final = ("code", "status", "http_status", "status_code")
_WORD_KEYS: Final = ("code", "type", "status")

_STATUSES: Final = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "insufficient_credits": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_timeout": 408,
    "conflict_error": 409,
    "request_too_large": 413,
    "unprocessable_entity_error": 422,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "too_many_requests": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "bad_gateway": 502,
    "service_unavailable": 503,
    "service_unavailable_error": 503,
    "server_is_overloaded": 503,
    "engine_overloaded": 503,
    "timeout": 504,
    "timeout_error": 504,
    "gateway_timeout": 504,
    "vector_store_timeout": 504,
    "overloaded_error": 529,
}
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class StreamError(msgspec.Struct, frozen=True):
    """An error that came within a stream.

    ``status`` is 400 to 599: the error's own number when it has one, else what its code or type stands for, else 500.
    """

    status: int
    type: str
    message: str


def error_in(name: str, event: dict[str, Any]) -> dict[str, Any] | None:
    """The error object of an error frame, ``None`` of any other event."""
    kind = event.get("type")
    if name == "error" or kind == "error" or event.get("object") == "error":
        inner = event.get("error")
        return _object(inner) if inner else _bare(event)
    if type(kind) is str and kind.startswith("response."):
        return None
    inner = event.get("error")
    return _object(inner) if inner else None


def _object(error: Any) -> dict[str, Any]:
    return error if type(error) is dict else {"message": error if type(error) is str else ""}


def _bare(event: dict[str, Any]) -> dict[str, Any]:
    """An error without an envelope: its fields lie in the event itself."""
    return {key: value for key, value in event.items() if key not in _ENVELOPE and (key, value) != ("type", "error")}


def describe(error: dict[str, Any]) -> StreamError:
    """Status, type and message of an error object."""
    status = _status(error)
    words = [error[key] for key in ("type", "code") if type(error.get(key)) is str]
    kind = next((word for word in words if word and not word.isdigit()), _TYPES.get(status, "server_error"))
    message = error.get("message") or error.get("detail")
    text = message if type(message) is str else "the stream ended with an error"
    return StreamError(status, kind[:256], text[:_MESSAGE_CHARACTERS])


def _status(error: dict[str, Any]) -> int:
    for key in _NUMBER_KEYS:
        number = _http_status(error.get(key))
        if number is not None:
            return number
    words = [error[key].lower() for key in _WORD_KEYS if type(error.get(key)) is str]
    known = next((_STATUSES[word] for word in words if word in _STATUSES), None)
    if known is not None:
        return known
    return 400 if any(word.startswith("invalid_") for word in words) else 500


def _http_status(value: Any) -> int | None:
    if type(value) is str and value.isascii() and value.isdigit() and len(value) == len("500"):
        value = int(value)
    return value if type(value) is int and 400 <= value <= 599 else None  # noqa: PLR2004 the range itself
