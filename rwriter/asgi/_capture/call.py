"""One tracked request, from its first message to the record that is made of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from rwriter._keys import KeyDigest
from rwriter.asgi._capture.endings import CANCELLED, Failure, app_raised
from rwriter.asgi._capture.exchange import Exchange
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import peek, with_error
from rwriter.asgi._types import ASGIApp, Receive, Scope, Send, content_encoding
from rwriter.records import NAME_LIMIT, CompletedRequest, NewRequest

UNKNOWN_MODEL: Final = "unknown"


class Owner(msgspec.Struct, frozen=True):
    """The tenant a call belongs to. With ``store_no_bodies`` nothing of its bodies may be kept."""

    created_by: str
    api_key: KeyDigest
    """Digest of the key that found the owner."""
    store_no_bodies: bool


class CapturedCall:
    """Follows one request to its end. ``on_end`` is called once, when it is known how the call ended."""

    def __init__(
        self, scope: Scope, request_id: uuid.UUID, *, max_body_bytes: int, on_end: Callable[[CapturedCall], None]
    ) -> None:
        self.scope: Final = scope
        self.request_id: Final = request_id
        self.path: Final[str] = scope["path"]
        self.started_at: Final = datetime.now(UTC)
        self.completed_at = self.started_at
        self.is_ended = False
        self.owner: Owner | None = None
        """Set before the call ends only for background responses, whose row is inserted first."""
        self._exchange: Final = Exchange(request_id, max_body_bytes=max_body_bytes, finish=self.finish)
        self._failure: Failure | None = None
        self._on_end: Final = on_end

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        """Run ``app`` between the server's ``receive`` and ``send``. Raises what it raises, untouched."""
        exchange = self._exchange
        try:
            await app(self.scope, partial(exchange.receive, receive), partial(exchange.send, send))
        except asyncio.CancelledError:
            self.finish(CANCELLED)
            raise
        except BaseException as exc:
            self.finish(app_raised(exc))
            raise
        finally:
            exchange.watch.stop()
            self.finish(exchange.unfinished)

    def finish(self, failure: Failure | None) -> None:
        """End the call with ``failure``, or with ``None`` for a complete answer. Only the first ending counts."""
        if self.is_ended:
            return
        self.is_ended = True
        self.completed_at = datetime.now(UTC)
        self._failure = failure
        self._exchange.stop_recording()
        self._on_end(self)

    async def read_ahead(self, receive: Receive) -> bool:
        """Read the request's body before the app asks for it. Return True if all of it came, within the limit."""
        return await self._exchange.read_ahead(receive)

    def detach(self) -> None:
        """Ignore from now on that the client leaves: it gets its answer before the app does its work."""
        self._exchange.watch.stop()

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies in memory, roughly."""
        return self._exchange.held_bytes

    # -- the rows made of it

    def request_text(self) -> str:
        """Return the text to store of the request's body."""
        return self._exchange.request.text(content_encoding(self.scope["headers"]))

    def new_request(self, text: str, owner: Owner) -> NewRequest:
        """Return the row of a background response that asked with ``text`` and has not run yet."""
        return NewRequest(
            request_id=self.request_id,
            body=text,
            model=_model_of(text),
            endpoint="",
            method="POST",
            path=self.path,
            api_key=owner.api_key,
            created_by=owner.created_by,
        )

    def completed_request(self, owner: Owner) -> CompletedRequest:
        """Return the record of the call that has ended. Decodes both bodies: a megabyte takes milliseconds."""
        asked = self.request_text()
        answered, status = self._outcome()
        return CompletedRequest(
            request_id=self.request_id,
            status_code=status,
            request_body=asked,
            response_body=answered,
            model=_model_of(asked, answered),
            endpoint=self.path,
            api_key=owner.api_key,
            created_by=owner.created_by,
            started_at=self.started_at,
            completed_at=self.completed_at,
            custom_id=self._custom_id(answered),
        )

    def _outcome(self) -> tuple[str, int]:
        text, error = self._exchange.answer.text()
        # an upstream's own error frame says more than how the call ended after it
        failure = self._failure if error is None else Failure(error.status, error.type, error.message)
        if failure is None:
            return text, self._exchange.answer.status
        return with_error(text, failure.to_error()), failure.status

    def _custom_id(self, answered: str) -> str | None:
        """Return the id in the app's answer, unless it is the one that this middleware gave."""
        found = peek(answered, _Named).id
        if not isinstance(found, str) or not 0 < len(found) <= NAME_LIMIT:
            return None
        return None if found == response_id(self.request_id) else found


class _Named(msgspec.Struct):
    """The members of a JSON body that become columns."""

    id: Any = None
    model: Any = None


def _model_of(*texts: str) -> str:
    """Return the ``model`` of the first of these JSON objects that names one."""
    models = (peek(text, _Named).model for text in texts)
    return next((model for model in models if isinstance(model, str) and model), UNKNOWN_MODEL)
