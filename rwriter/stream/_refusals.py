"""Classifies the errors of NATS by class and code, never by text: away or full, set up wrongly, or a record's fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from nats import errors
from nats.js.errors import APIError, NoStreamResponseError

from rwriter._values.escape import escape
from rwriter.errors import RwriterError, SinkMisconfigured, SinkRefusedRecord, SinkUnavailable

MESSAGE_TOO_LARGE: Final = 10054
"""JetStream's code for a message over the stream's own ``max_msg_size``."""

_LATER: Final = (408, 409, 429, 500, 503)
"""Codes of the API that say "later": no leader, no room, a store that fails. A stream that is full answers 503."""

_CONFIGURATION: Final = (
    errors.AuthorizationError,
    errors.InvalidUserCredentialsError,
    errors.SecureConnFailedError,
    errors.SecureConnRequiredError,
    errors.SecureConnWantedError,
    errors.BadSubjectError,
)


@contextlib.contextmanager
def classified() -> Iterator[None]:
    """Raise errors of NATS and of the network as one of the three errors of a sink, with the reason in its text."""
    try:
        yield
    except (errors.Error, OSError, TimeoutError) as exc:
        raise classify(exc) from exc


def classify(exc: Exception) -> RwriterError:
    """Return the error of a sink that ``exc`` amounts to."""
    if isinstance(exc, APIError):
        return _of_api(exc)
    if isinstance(exc, errors.MaxPayloadError):
        return SinkRefusedRecord("a message is over the server's max_payload")
    # a certificate that cannot be trusted is a ValueError, too
    if isinstance(exc, _CONFIGURATION) or (isinstance(exc, OSError) and isinstance(exc, ValueError)):
        return SinkMisconfigured(f"NATS refuses this client, {type(exc).__name__}: check its URL and credentials")
    if isinstance(exc, NoStreamResponseError):
        return SinkUnavailable("no stream answers for the subject: it has no leader, or is not there")
    return SinkUnavailable(f"NATS is away, {type(exc).__name__}")


def _of_api(exc: APIError) -> RwriterError:
    # the server's words are about the stream, never about what is in a message
    words = f"JetStream says: {escape(exc.description or 'no')} (code {exc.err_code or exc.code})"
    if exc.err_code == MESSAGE_TOO_LARGE:
        return SinkRefusedRecord(words)
    return SinkUnavailable(words) if exc.code in _LATER else SinkMisconfigured(words)
