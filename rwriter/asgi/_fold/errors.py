"""Recognises error frames in a stream and reads status, type and message from them."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from rwriter._values.guarded import Guarded
from rwriter.asgi._error_types import error_type, status_of

_MESSAGE_CHARACTERS: Final = 8_192
_ENVELOPE: Final = frozenset({"object", "sequence_number"})
_NAMES: Final = ("error", "response.error")
_NUMBER_KEYS: Final = ("code", "status", "http_status", "status_code")
_WORD_KEYS: Final = ("code", "type", "status")


class StreamError(Guarded, frozen=True):
    """An error that came within a stream.

    ``status`` is 300 to 999: the error's own number when it has one, else what its code or type stands for, else 500.
    """

    status: int
    type: str
    message: str

    __shown__: ClassVar[tuple[str, ...]] = ("status", "type")


def error_in(name: str, event: dict[str, Any]) -> dict[str, Any] | None:
    """Return the error object of an error frame, ``None`` for any other event."""
    kind, inner = event.get("type"), event.get("error")
    if name in _NAMES or kind in _NAMES or event.get("object") in _NAMES:
        return _as_object(inner) if inner else _without_envelope(event)
    if not inner or (type(kind) is str and kind.startswith("response.")):
        return None
    return _as_object(inner)


def _as_object(error: Any) -> dict[str, Any]:
    return error if type(error) is dict else {"message": error if type(error) is str else ""}


def _without_envelope(event: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an error that lie in the event itself."""
    return {key: value for key, value in event.items() if key not in _ENVELOPE and (key, value) != ("type", "error")}


def describe(error: dict[str, Any]) -> StreamError:
    """Read status, type and message of an error object."""
    status = _status(error)
    words = [error[key] for key in ("type", "code") if type(error.get(key)) is str]
    kind = next((word for word in words if word and not word.isdigit()), error_type(status))
    message = error.get("message") or error.get("detail")
    text = message if type(message) is str else "the stream ended with an error"
    return StreamError(status, kind[:256], text[:_MESSAGE_CHARACTERS])


def _status(error: dict[str, Any]) -> int:
    for key in _NUMBER_KEYS:
        number = _http_status(error.get(key))
        if number is not None:
            return number
    return status_of([error[key] for key in _WORD_KEYS if type(error.get(key)) is str])


def _http_status(value: Any) -> int | None:
    if type(value) is str and value.isascii() and value.isdigit() and len(value) == len("500"):
        value = int(value)
    return value if type(value) is int and 300 <= value <= 999 else None  # noqa: PLR2004 the range itself
