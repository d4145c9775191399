"""One tracked request, from its first message to the record that is made of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec

from rwriter._values.keys import KeyDigest
from rwriter._values.traces import named
from rwriter.asgi._attribution import credentials_of
from rwriter.asgi._capture.budget import Share
from rwriter.asgi._capture.endings import CANCELLED, DISCONNECTED, TRUNCATED, Failure, app_raised
from rwriter.asgi._capture.exchange import Answer, Exchange
from rwriter.asgi._capture.facts import (
    Asked,
    Said,
    error_told,
    id_in,
    metadata_of,
    model_in_form,
    name_in,
    read,
    skim,
    tokens_of,
)
from rwriter.asgi._capture.paths import model_in, stored_path
from rwriter.asgi._error_types import INTERNAL_ERROR
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import to_text, with_error
from rwriter.asgi._threads import INLINE_BYTES
from rwriter.asgi._types import ASGIApp, Receive, Scope, Send, content_encoding, header
from rwriter.records import NAME_LIMIT, CompletedRequest, NewRequest, RenamedRequest, succeeded

UNKNOWN_MODEL: Final = "unknown"
_LAST_REDIRECT: Final = 399
_LAST_ERROR: Final = 599


class Owner(msgspec.Struct, frozen=True):
    """The tenant a call belongs to. With ``store_no_bodies`` nothing of its bodies may be kept."""

    created_by: str
    api_key: KeyDigest
    """Digest of the key that found the owner."""
    store_no_bodies: bool


class CapturedCall:
    """Follows one request to its end. ``on_end`` is called once, when it is known how the call ended."""

    def __init__(
        self,
        scope: Scope,
        request_id: uuid.UUID,
        *,
        max_body_bytes: int,
        share: Share,
        on_end: Callable[[CapturedCall], None],
    ) -> None:
        self.scope: Final = scope
        self.request_id: Final = request_id
        self.share: Final = share
        self.started_at: Final = datetime.now(UTC)
        self.completed_at = self.started_at
        self.is_ended = False
        self.owner: Owner | None = None
        """Set before the call ends only for background responses, whose row is inserted first."""
        self.answered_model: str | None = None
        """The model that the answer names, once the record is made."""
        self._exchange: Final = Exchange(request_id, max_body_bytes=max_body_bytes, share=share, finish=self.finish)
        self._failure: Failure | None = None
        self._on_end: Final = on_end

    @property
    def name(self) -> str:
        """The call's id and trace, for a line of the log."""
        return named(self.request_id, header(self.scope["headers"], b"traceparent"))

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        """Run ``app`` between the server's ``receive`` and ``send``. Raises what it raises, untouched."""
        exchange = self._exchange
        try:
            await app(self.scope, partial(exchange.receive, receive, send), partial(exchange.send, send))
        except asyncio.CancelledError:
            self.finish(CANCELLED)
            raise
        except BaseException as exc:
            self.fail(exc)
            if not (exchange.is_refused and isinstance(exc, Exception)):
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

    def fail(self, exc: BaseException) -> None:
        """End the call of an app that raised."""
        self.finish(_raised(exc))

    def guard(self, guard: Callable[[Send], Awaitable[bool]]) -> None:
        """Ask ``guard`` once the app has read the request: True if it has answered in the app's place."""
        self._exchange.guard = guard

    async def read_ahead(self, receive: Receive, patience: float) -> bool:
        """Read the request's body before the app asks for it. Return True if all of it came, within the limit.

        Raises ``TimeoutError`` if the client sends nothing for ``patience`` seconds.
        """
        return await self._exchange.read_ahead(receive, patience)

    def detach(self) -> None:
        """Ignore from now on that the client leaves: it gets its answer before the app does its work."""
        self._exchange.watch.stop()
        self._exchange.forget_what_was_read()

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies in memory, roughly."""
        return self._exchange.held_bytes

    @property
    def work(self) -> int:
        """Bytes that decoding the bodies takes, roughly; of coded ones nobody knows before."""
        coded = self._coding is not None or self._exchange.answer.content_encoding is not None
        return INLINE_BYTES + 1 if coded and self.held_bytes else self.held_bytes

    @property
    def request_work(self) -> int:
        """The same of the request alone."""
        size = self._exchange.request.kept
        return INLINE_BYTES + 1 if self._coding is not None and size else size

    @property
    def is_redirected(self) -> bool:
        """True if the app sent the client elsewhere: no model was called."""
        return self._failure is None and HTTPStatus.MULTIPLE_CHOICES <= self._exchange.answer.status <= _LAST_REDIRECT

    # -- the rows made of it

    @property
    def is_large(self) -> bool:
        """True if the request's body is not kept whole."""
        return self._exchange.request.overflowed

    def request_text(self) -> str:
        """Return the text to store of the request's body."""
        return self._exchange.request.text(self._coding)

    def asked(self) -> Asked:
        """Return what the request's body says, whole or not."""
        if not self.is_large:
            return read(self.request_text(), Asked)
        return Asked(**skim(*self._exchange.request.ends, Asked.__struct_fields__))

    def wants_background(self) -> bool:
        """Return True if the request asks for a background response."""
        request = self._exchange.request
        looked_at = request.ends if self.is_large else (request.raw(),)
        # a name may be spelled with escapes, as the app reads it all the same
        if self._coding is None and not any(b'"background"' in part or b"\\u" in part for part in looked_at):
            return False
        return self.asked().background is True

    def new_request(self, text: str, owner: Owner) -> NewRequest:
        """Return the row of a background response that asked with ``text`` and has not run yet."""
        return NewRequest(
            request_id=self.request_id,
            body=text,
            model=self._model(read(text, Asked)),
            endpoint="",
            method="POST",
            path=self._path(),
            api_key=owner.api_key,
            created_by=owner.created_by,
        )

    def completed_request(self, owner: Owner) -> CompletedRequest:
        """Return the record of the call that has ended. Decodes both bodies: a megabyte takes milliseconds."""
        text = self.request_text()
        answered, status = self._outcome()
        asked, said = read(text, Asked), read(answered, Said)
        self.answered_model = name_in(said.model)
        error = error_told(said, answered) if succeeded(status) else None
        if error is not None:
            status = error.status
            if not isinstance(said.error, dict):
                answered = with_error(answered, Failure(error.status, error.type, error.message).to_error())
        return self._record(
            owner,
            status,
            request_body=text,
            response_body=answered,
            model=self._model(asked, said),
            **self._client_ids(said),
            metadata=metadata_of(asked, header(self.scope["headers"], b"traceparent")),
            **tokens_of(said),
        )

    def bare_request(self, owner: Owner) -> CompletedRequest:
        """Return a record that says what is known of a call whose bodies cannot be made into one."""
        exchange = self._exchange
        bodies = [to_text({"rwriter": {"envelope": "unreadable", "size": size}}) for size in (exchange.request.size, 0)]
        status = exchange.answer.status if self._failure is None else self._failure.status
        return self._record(
            owner, status or INTERNAL_ERROR, request_body=bodies[0], response_body=bodies[1], model=UNKNOWN_MODEL
        )

    @property
    def _coding(self) -> str | None:
        return content_encoding(self.scope["headers"])

    def _path(self) -> str:
        return stored_path(self.scope["path"], credentials_of(self.scope))

    def _record(self, owner: Owner, status: int, **fields: Any) -> CompletedRequest:
        kind = RenamedRequest if "first_id" in fields else CompletedRequest
        return kind(
            request_id=self.request_id,
            status_code=status,
            endpoint=self._path(),
            api_key=owner.api_key,
            created_by=owner.created_by,
            started_at=self.started_at,
            completed_at=self.completed_at,
            first_token_at=self._exchange.first_byte_at,
            **fields,
        )

    def _model(self, asked: Asked, said: Said | None = None) -> str:
        """Return the model: the request's, else the path's, else a form's, else the answer's."""
        found = name_in(asked.model, model_in(self.scope["path"]))
        if found is None and "multipart/" in (header(self.scope["headers"], b"content-type") or ""):
            found = model_in_form(*self._exchange.request.ends)
        return found or name_in(None if said is None else said.model) or UNKNOWN_MODEL

    def _outcome(self) -> tuple[str, int]:
        answer = self._exchange.answer
        was_undecided = answer.is_undecided
        text, error = answer.text()
        if was_undecided:
            self._failure = self._decided(answer)
        # an upstream's own error frame says more than how the call ended after it
        failure = self._failure if error is None else Failure(error.status, error.type, error.message)
        status = self._exchange.answer.status
        if failure is None and succeeded(status) and (folded := self._exchange.answer.folded(text)) is not None:
            text, error, is_cut = folded
            failure = TRUNCATED if is_cut and error is None else None
            failure = failure if error is None else Failure(error.status, error.type, error.message)
        if failure is None:
            return text, status
        return with_error(text, failure.to_error()), failure.status

    def _decided(self, answer: Answer) -> Failure | None:
        """Return how the call ended, now that all of its answer is folded."""
        if self._failure is DISCONNECTED and answer.is_complete:
            return None
        return TRUNCATED if self._failure is None and answer.is_truncated else self._failure

    def _client_ids(self, said: Said) -> dict[str, str]:
        """Return the ids in the app's answer, first and last, but for the one that this middleware gave."""
        ours, last, other = response_id(self.request_id), id_in(said), self._exchange.answer.other_id
        known = [one for one in (last, other) if one is not None and one != ours and len(one) <= NAME_LIMIT]
        return dict(zip(("custom_id", "first_id"), known, strict=False))


def _raised(exc: BaseException) -> Failure:
    """Return the ending of a call whose app raised: with the status of an exception that names one to answer with."""
    failure, status = app_raised(exc), getattr(exc, "status_code", None)
    names_one = type(status) is int and HTTPStatus.BAD_REQUEST <= status <= _LAST_ERROR
    return msgspec.structs.replace(failure, status=status) if names_one else failure
