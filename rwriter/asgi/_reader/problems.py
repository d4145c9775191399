"""The error answers of the reader routes, in the shape that the official clients expect."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Final

from rwriter._database_errors import AWAY, describe
from rwriter.asgi._error_types import error_type

RETRY_AFTER: Final = 5
"""Seconds a client is asked to wait before it tries again."""

log = logging.getLogger("rwriter")


class Problem(Exception):
    """Raised to answer with an error: HTTP status and JSON body."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status: Final = status
        error = {"message": message, "type": error_type(status), "param": param, "code": code}
        self.body: Final[dict[str, Any]] = {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        extra = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": str(RETRY_AFTER)}}
        return extra.get(self.status, {})


def unauthenticated() -> Problem:
    """Make the answer to a request without an API key, or with one that nobody owns."""
    return Problem(401, "missing or unknown API key", code="invalid_api_key")


def not_found() -> Problem:
    """Make the answer for a bad, an unknown and a foreign id: the same to the byte, so it must not repeat the id."""
    return Problem(404, "nothing was found under this id", code="not_found")


def invalid(param: str, message: str) -> Problem:
    """Make the answer to a query parameter that cannot be used."""
    return Problem(400, f"{param} {message}", code="invalid_value", param=param)


def unavailable(message: str) -> Problem:
    """Make the answer to a request that cannot be served now and may be later."""
    return Problem(503, message, code="unavailable")


@contextlib.contextmanager
def database_or_503() -> Iterator[None]:
    """Turn the errors of a database that is away into a ``Problem``."""
    try:
        yield
    except AWAY as exc:
        log.warning("a reader route cannot use the database: %s", describe(exc))
        raise unavailable("the database is away, try again later") from exc
