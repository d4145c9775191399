"""HTTP statuses and the ``type`` that an error of such a status has, in both directions."""

from __future__ import annotations

from typing import Final

from rwriter.records import CLIENT_CLOSED_REQUEST

INTERNAL_ERROR: Final = 500

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    429: "rate_limit_error",
    CLIENT_CLOSED_REQUEST: "client_disconnected",
}

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


def error_type(status: int | None) -> str:
    """Return the ``type`` of an error with that HTTP status; of an unknown status that of a server error."""
    return _TYPES.get(status or INTERNAL_ERROR, "server_error")


def status_of(words: list[str]) -> int:
    """Return the HTTP status that the first known word among an error's code and type stands for, else 500."""
    lowered = [word.lower() for word in words]
    known = next((_STATUSES[word] for word in lowered if word in _STATUSES), None)
    if known is not None:
        return known
    return 400 if any(word.startswith("invalid_") for word in lowered) else INTERNAL_ERROR
