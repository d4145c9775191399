"""The types of WSGI, and a request of it as the scope of an ASGI server would describe it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

from rwriter.asgi._types import Scope

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]

ENVIRON: Final = "environ"
"""Key of the scope under which the request's WSGI environment stands."""

_PREFIX: Final = "HTTP_"
_UNPREFIXED: Final = ("CONTENT_TYPE", "CONTENT_LENGTH")


class Input(Protocol):
    """``wsgi.input``: as much of a file as WSGI promises."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""

    def readline(self, size: int = -1, /) -> bytes:
        """Return the next line."""

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        """Return the lines that are left."""

    def __iter__(self) -> Iterator[bytes]: ...


def scope_of(environ: Environ) -> Scope:
    """Return the scope of a request: method, path, query string and headers, and ``environ`` itself."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "method": environ["REQUEST_METHOD"],
        # what WSGI calls a text is bytes, each as one character
        "path": path.encode("latin-1", "replace").decode("utf-8", "replace"),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1", "replace"),
        "headers": list(_headers(environ)),
        "state": {},
        ENVIRON: environ,
    }


def _headers(environ: Environ) -> Iterator[tuple[bytes, bytes]]:
    for key, value in environ.items():
        if key.startswith(_PREFIX) or (key in _UNPREFIXED and value):
            name = key.removeprefix(_PREFIX).replace("_", "-").lower()
            yield name.encode("latin-1", "replace"), str(value).encode("latin-1", "replace")
