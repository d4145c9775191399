"""Judge whether an answer was one: an error told in the body of a 200 makes the call a failed one.

One place for plain, streamed and background answers of all families of APIs: it looks at the finished body.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rwriter._values.guarded import Guarded
from rwriter.asgi._capture.facts._fields import Said
from rwriter.asgi._fold.errors import StreamError, describe
from rwriter.asgi._json import UNREADABLE, loads, loads_object

_LIST_BYTES: Final = 64 * 1024
"""A longer list is an answer, and no error in a list."""
_FAILED: Final[dict[str, Any]] = {"type": "server_error", "message": "the answer says that it failed"}


class _Choice(Guarded, frozen=True):
    error: Any = None
    finish_reason: Any = None


def error_told(said: Said, text: str) -> StreamError | None:
    """Return the error that the body of an answer tells, ``None`` for a body that is an answer."""
    found = _error_object(said.error) or _in_choices(bytes(said.choices)) or _in_list(text)
    if found is None and "error" in (said.object, said.type):
        # an error without an envelope
        found = loads_object(text) or _FAILED
    if found is None and said.status == "failed":
        found = _FAILED
    return None if found is None else describe(found)


def _error_object(error: Any) -> dict[str, Any] | None:
    if isinstance(error, str) and error:
        return {"message": error}
    # an object of empty members is a placeholder
    return error if isinstance(error, dict) and any(error.values()) else None


def _in_choices(choices: bytes) -> dict[str, Any] | None:
    if b'"error"' not in choices:
        return None
    try:
        found = msgspec.json.decode(choices, type=list[_Choice])
    except UNREADABLE:
        return None
    for choice in found:
        error = _error_object(choice.error)
        if error is not None or choice.finish_reason == "error":
            return error or _FAILED
    return None


def _in_list(text: str) -> dict[str, Any] | None:
    if len(text) > _LIST_BYTES or not text.lstrip("\ufeff \t\r\n").startswith("["):
        return None
    values = loads(text)
    first = values[0] if isinstance(values, list) and values else None
    return _error_object(first.get("error")) if isinstance(first, dict) else None
