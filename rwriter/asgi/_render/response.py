"""Renders a row for its owner: as a Response object, a chat completion or a line of the listing."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from rwriter.asgi import _json
from rwriter.asgi._error_types import error_type
from rwriter.asgi._ids import response_id
from rwriter.asgi._json import objects_in
from rwriter.asgi._render.items import EXTENSION
from rwriter.asgi._render.output import kind_of, output_of
from rwriter.asgi._render.params import ECHOED, echo, required
from rwriter.asgi._render.usage import usage_of
from rwriter.schema import ACTIVE_STATES
from rwriter.store import RequestDetail, RequestSummary

STATUS: Final = {
    "pending": "queued",
    "claimed": "queued",
    "processing": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "canceled": "cancelled",
}
"""The status of a Response by the state of its row."""

# the input may be of any size, and is not shown
_REQUEST: Final = _json.Members("background", EXTENSION, *ECHOED)
_BACKGROUND: Final = _json.Members("background", EXTENSION)

_READ: Final = frozenset(
    {"choices", "content", "usage", "error", "x_groq", "candidates", "message", "response", EXTENSION}
)
"""Members of an answer that are read whatever their size: the others are shown as they are."""

_PREVIOUS: Final = _json.Members("previous_response_id")

_OWN: Final = ("incomplete", "failed", "cancelled", "queued", "in_progress")
"""Statuses that are taken from a stored Response, as its row says only ``completed``."""


def encoded_response(detail: RequestDetail, asked_id: str) -> bytes:
    """Return the Response object as JSON. Large members that are shown as they are stored are passed on unread."""
    passed_on = detail.status == "completed"
    body = _json.shallow(detail.response_body, _READ) if passed_on else _json.loads(detail.response_body)
    return _json.dumps(_response(detail, asked_id, body))


def response_object(detail: RequestDetail, asked_id: str | None = None) -> dict[str, Any]:
    """Return the Response object of a request to any API, under the id it was asked by (default ``resp_<uuid>``).

    A stored Response is returned whole, with id, status, background and error as the row has them. Other answers become
    output items; those that cannot (embeddings, texts that are no JSON) are under ``rwriter.body``, blocks that cannot
    under ``rwriter.blocks``, and what the capture says of a body stays there. Never raises, whatever a body holds.
    """
    return _response(detail, asked_id, _json.loads(detail.response_body))


def _response(detail: RequestDetail, asked_id: str | None, body: Any) -> dict[str, Any]:
    request = _REQUEST.of(detail.body)
    kind = kind_of(body, detail.path)
    truth = {
        "id": asked_id or response_id(detail.id),
        "object": "response",
        "background": _background(detail, request, body),
    }
    if kind == "response":
        return truth | _stored_response(detail, request or {}, body) | truth
    return truth | _rendered_response(detail, request or {}, body, kind)


def chat_completion(detail: RequestDetail, asked_id: str) -> dict[str, Any] | None:
    """Return the chat completion as it was answered, or ``None`` if the request has not ended in one."""
    if detail.status != "completed" or not detail.path.rstrip("/").endswith("/chat/completions"):
        return None
    body = _json.loads(detail.response_body)
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list):
        return None
    return body | {"id": asked_id}


def summary(row: RequestSummary) -> dict[str, Any]:
    """Return a line of the listing: a Response without its content. Times are Unix seconds.

    ``status`` is what the row says: an ``incomplete`` response counts as ``completed``, one that was cancelled while it
    ran as ``failed`` with ``response_status`` 499.
    """
    return {
        "id": response_id(row.id),
        "object": "response",
        "created_at": seconds(row.created_at),
        "completed_at": seconds(row.completed_at),
        "status": STATUS[row.status],
        "model": row.model,
        "endpoint": row.path,
        "response_status": row.response_status,
        "service_tier": row.service_tier,
        "duration_ms": row.duration_ms,
    }


def page_of(items: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return one page of a list in the form that the official clients follow."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def is_background(detail: RequestDetail) -> bool:
    """Return True if the client asked for a background response."""
    return _background(detail, _BACKGROUND.of(detail.body), _BACKGROUND.of(detail.response_body))


def previous_of(detail: RequestDetail) -> str | None:
    """Return the id of the response before: what the client asked with, else what its answer says."""
    for text in (detail.body, detail.response_body):
        previous = (_PREVIOUS.of(text) or {}).get("previous_response_id")
        if isinstance(previous, str) and previous:
            return previous
    return None


def seconds(moment: datetime | None) -> int | None:
    """Return ``moment`` in Unix seconds."""
    return None if moment is None else int(moment.timestamp())


def _background(detail: RequestDetail, request: dict[str, Any] | None, body: Any) -> bool:
    if request is not None and EXTENSION not in request:
        return request.get("background") is True
    # the request's body was not kept (zero retention, too large), but only background responses have a row while they
    # run
    stored = body.get("background") if isinstance(body, dict) else None
    return stored is True or detail.status in ACTIVE_STATES


def _stored_response(detail: RequestDetail, request: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    status = _status_of(detail, body)
    output = body.get("output")
    rendered = {
        **_skeleton(detail),
        **required(request),
        **body,
        "status": status,
        "output": output if _json.is_list(output) else [],
    }
    if status == "cancelled":
        rendered["error"] = None
    elif detail.status == "failed":
        rendered["error"] = _error_of(detail, body)
    return rendered


def _rendered_response(detail: RequestDetail, request: dict[str, Any], body: Any, kind: str) -> dict[str, Any]:
    output = output_of(body, kind, detail.id, whole=detail.status == "completed")
    status = _status_of(detail, body if isinstance(body, dict) else {})
    if status == "completed" and output.cut is not None:
        status = "incomplete"
    fields = body if isinstance(body, dict) else {}
    rendered = {
        **_skeleton(detail),
        **echo(request),
        "status": status,
        "completed_at": seconds(detail.completed_at) if status == "completed" else None,
        "error": _error_of(detail, body) if status == "failed" else None,
        "incomplete_details": {"reason": output.cut} if status == "incomplete" else None,
        "output": output.items,
        "usage": usage_of(fields),
    }
    extension = _extension(detail, body, kind, status) | ({"blocks": output.others} if output.others else {})
    return rendered | {EXTENSION: extension} if extension else rendered


def _extension(detail: RequestDetail, body: Any, kind: str, status: str) -> dict[str, Any]:
    if kind == "other" and detail.response_body and status in ("completed", "incomplete"):
        return {"endpoint": detail.path, "body": detail.response_body if body is None else body}
    own = body.get(EXTENSION) if isinstance(body, dict) else None
    return own if isinstance(own, dict) else {}


def _skeleton(detail: RequestDetail) -> dict[str, Any]:
    return {
        "created_at": seconds(detail.created_at),
        "model": detail.model,
        "error": None,
        "incomplete_details": None,
    }


def _status_of(detail: RequestDetail, body: dict[str, Any]) -> str:
    if detail.status == "failed":
        return "cancelled" if _is_cancelled(body) else "failed"
    own = body.get("status") if body.get("object") == "response" else None
    return own if detail.status == "completed" and own in _OWN else STATUS[detail.status]


def _is_cancelled(body: dict[str, Any]) -> bool:
    error = body.get("error")
    return isinstance(error, dict) and error.get("type") == "cancelled"


def _error_of(detail: RequestDetail, body: Any) -> dict[str, Any]:
    told = _error_in(body)
    error = told if isinstance(told, dict) else {}
    kind = error_type(detail.response_status)
    fields = body if isinstance(body, dict) else {}
    return {
        "code": _first_text(error.get("code"), error.get("status"), error.get("type"), _failure_of(detail))
        or _default_code(kind),
        "type": kind,
        "message": _first_text(error.get("message"), told, fields.get("message")) or _message_of(detail, fields),
    }


def _error_in(body: Any) -> Any:
    """Return the error that an answer tells, wherever it stands: an object or a text."""
    for told in body if isinstance(body, list) else [body]:
        if isinstance(told, dict):
            found = [told.get("error"), *(choice.get("error") for choice in objects_in(told.get("choices")))]
            error = next(filter(None, found), None)
            if error is not None:
                return error
    return None


def _default_code(kind: str) -> str:
    return "rate_limit_exceeded" if kind == "rate_limit_error" else kind


def _failure_of(detail: RequestDetail) -> str | None:
    """Return the word that the library itself wrote for a failure without an answer, such as ``Abandoned``."""
    kind = _json.loads_object(detail.error).get("type") if detail.response_body is None else None
    return kind if isinstance(kind, str) else None


def _message_of(detail: RequestDetail, body: dict[str, Any]) -> str:
    if detail.response_body and EXTENSION not in body:
        return detail.response_body
    if detail.response_body is None and _failure_of(detail) == "Abandoned":
        return "the process that ran this request ended before the request did"
    return f"the request failed with status {detail.response_status or 500}"


def _first_text(*candidates: Any) -> str | None:
    return next((text for text in candidates if isinstance(text, str) and text), None)
