"""The types of ASGI, as the middleware uses them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = Iterable[tuple[bytes, bytes]]


def header(headers: Headers, name: bytes) -> str | None:
    """Return the first header called ``name`` (given in lower case), or ``None``."""
    for key, value in headers:
        if key.lower() == name:
            return value.decode("latin-1").strip()
    return None


def content_encoding(headers: Headers) -> str | None:
    """Return the codings of all ``Content-Encoding`` headers in the order in which they were applied, or ``None``."""
    found = [value.decode("latin-1").strip() for key, value in headers if key.lower() == b"content-encoding"]
    return ", ".join(found) if found else None
