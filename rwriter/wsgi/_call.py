"""One tracked request of a WSGI app: bodies are copied and folded in the thread that serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from rwriter.asgi._capture.call import CapturedCall
from rwriter.asgi._capture.exchange import ID_HEADER
from rwriter.asgi._ids import response_id
from rwriter.asgi._types import header
from rwriter.wsgi._types import Environ, Input, StartResponse, WSGIApp

_ID_HEADER: Final = ID_HEADER.decode()


class WsgiCall(CapturedCall):
    """Follows one request of a WSGI app to its end."""

    _missing: int | None = None
    """Bytes of the answer that are still to come, if it has announced its length."""

    def serve(self, app: WSGIApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Run ``app``. Return its answer, to be followed as the server takes it. Raises what the app raises."""
        environ["wsgi.input"] = RecordedInput(environ["wsgi.input"], self._exchange.request.feed)

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], Any]:
            headers = [pair for pair in headers if pair[0].lower() != _ID_HEADER]
            write = start_response(status, [*headers, (_ID_HEADER, response_id(self.request_id))], *exc_info)
            self.begin_answer(status, headers)

            def recorded(data: bytes) -> None:
                write(data)
                self.take(data)

            return recorded

        try:
            return RecordedAnswer(app(environ, start), self)
        except BaseException as exc:
            self.fail(exc)
            raise

    def begin_answer(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Note status and headers."""
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        length = header([(name.lower(), value) for name, value in encoded], b"content-length")
        self._missing = int(length) if length is not None and length.isdigit() else None
        self._exchange.answer.start({"status": int(status[:3]), "headers": encoded})

    def hand_over(self, data: bytes) -> bool:
        """Note that a piece leaves now. Return True if it is the last of an answer that has announced its length.

        That one counts at once: a client that has all of its answer may ask for it before the server comes back.
        """
        if data and self._exchange.first_byte_at is None:
            self._exchange.first_byte_at = datetime.now(UTC)
        if self._missing is None or len(data) < self._missing:
            return False
        self.take(data)
        self.end_answer()
        return True

    def take(self, data: bytes) -> None:
        """Record a piece of the answer that the server has sent."""
        if self._missing is not None:
            self._missing -= len(data)
        self._exchange.observe_response(data, more=True)

    def end_answer(self) -> None:
        """Record that the app has no more to say, and the server has sent all of it."""
        if self._exchange.answer.status:
            self._exchange.observe_response(b"", more=False)
        self.finish(self._exchange.unfinished)

    def leave(self) -> None:
        """Record that the server takes no more of the answer: its client has left, if that was not the end."""
        self._exchange.on_client_left()


class RecordedInput:
    """``wsgi.input`` that hands a copy of what the app reads to ``feed``."""

    def __init__(self, body: Input, feed: Callable[[bytes], None]) -> None:
        self._body: Final = body
        self._feed: Final = feed

    def read(self, *size: int) -> bytes:
        """Return the next bytes."""
        return self._copied(self._body.read(*size))

    def readline(self, *size: int) -> bytes:
        """Return the next line."""
        return self._copied(self._body.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        """Return the lines that are left."""
        return [self._copied(line) for line in self._body.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._copied, self._body)

    def __getattr__(self, name: str) -> Any:
        # what a server's own input has beside, as `close`
        return getattr(self._body, name)

    def _copied(self, data: bytes) -> bytes:
        if data:
            self._feed(bytes(data))
        return data


class RecordedAnswer:
    """The app's answer. A piece counts once the server asks for the next, as it has sent the one before by then."""

    def __init__(self, answer: Iterable[bytes], call: WsgiCall) -> None:
        self._answer: Final = answer
        self._pieces: Final = iter(answer)
        self._call: Final = call
        self._handed_over = b""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._handed_over:
            self._call.take(self._handed_over)
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._call.end_answer()
            raise
        except BaseException as exc:
            self._call.fail(exc)
            raise
        self._handed_over = b"" if self._call.hand_over(bytes(piece)) else bytes(piece)
        return piece

    def close(self) -> None:
        """End the call if the server leaves it before its end, and close the app's answer."""
        self._call.leave()
        close = getattr(self._answer, "close", None)
        if close is not None:
            close()
