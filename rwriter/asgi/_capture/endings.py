"""The endings of a call that are not the app's own answer: each with the status and the error that its row gets."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from rwriter._values.guarded import Guarded
from rwriter.asgi._error_types import INTERNAL_ERROR
from rwriter.records import CLIENT_CLOSED_REQUEST


class Failure(Guarded, frozen=True):
    """An ending that is not the app's answer. ``type`` is a word for programs, ``message`` a sentence for people."""

    status: int
    type: str
    message: str

    # the message may be a part of an answer
    __shown__: ClassVar[tuple[str, ...]] = ("status", "type")

    def to_error(self) -> dict[str, Any]:
        """Return the ``error`` member of a stored body."""
        return {"type": self.type, "message": self.message, "code": self.type}


DISCONNECTED: Final = Failure(
    CLIENT_CLOSED_REQUEST, "client_disconnected", "the client closed the connection before its answer was complete"
)
TRUNCATED: Final = Failure(502, "stream_truncated", "the answer stopped before its end")
NO_ANSWER: Final = Failure(INTERNAL_ERROR, "app_error", "the application returned without an answer")
CANCELLED: Final = Failure(
    CLIENT_CLOSED_REQUEST, "cancelled", "the request was cancelled before its answer was complete"
)

# of background responses
TIMED_OUT: Final = Failure(504, "timeout", "the response took longer than background_timeout")
SHUT_DOWN: Final = Failure(503, "server_shutdown", "the service stopped before the response was complete")
UNAVAILABLE: Final = Failure(503, "server_error", "the response cannot be begun now: try again")
BUSY: Final = Failure(503, "server_error", "too many background responses are running: try again")
UNAUTHENTICATED: Final = Failure(401, "authentication_error", "a background response needs an API key known here")
STREAMED: Final = Failure(
    400, "invalid_request_error", "background with stream is not supported: poll GET /responses/{id} instead"
)


def app_raised(exc: BaseException) -> Failure:
    """Return the ending of a call whose app raised ``exc``: only its class is kept, as its text may quote anything."""
    return Failure(INTERNAL_ERROR, "app_error", f"the application raised {type(exc).__name__}")
