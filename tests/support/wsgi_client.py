"""A WSGI server and its client in one: asks an app, takes as much of its answer as it is told to."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Final

from rwriter.wsgi._types import Environ, WSGIApp

KEY: Final = "sk-alice"


def owners(api_key: str, _environ: Any) -> str | None:
    """Return the owner of a key: alice and bob have one."""
    return {KEY: "alice", "sk-bob": "bob"}.get(api_key)


class Asked:
    """One request and what came of it."""

    def __init__(
        self,
        app: WSGIApp,
        body: bytes = b'{"model":"gpt-test","input":"hello"}',
        *,
        path: str = "/v1/responses",
        method: str = "POST",
        key: str | None = KEY,
        pieces: int | None = None,
        **environ: Any,
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.environ: Environ = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/json", "wsgi.input": io.BytesIO(body), "wsgi.url_scheme": "http",
        }  # fmt: skip
        if key is not None:
            self.environ["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        self.environ.update(environ)
        self._take(app(self.environ, self._start), pieces)

    @property
    def body(self) -> bytes:
        """The answer, so far as it was taken."""
        return b"".join(self.pieces)

    def _start(self, status: str, headers: list[tuple[str, str]], *_exc_info: Any) -> Any:
        self.status, self.headers = int(status[:3]), {name.lower(): value for name, value in headers}
        return self.pieces.append

    def _take(self, answer: Iterable[bytes], most: int | None) -> None:
        """Take ``most`` pieces of the answer: the next one finds the client gone."""
        try:
            for piece in answer:
                if most is not None and len(self.pieces) >= most:
                    break
                self.pieces.append(piece)
        finally:
            # as PEP 3333 has it: whether the answer was taken to its end or not
            getattr(answer, "close", lambda: None)()
