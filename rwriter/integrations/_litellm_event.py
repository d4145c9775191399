"""Records of the calls that litellm reports to its loggers. Nothing here imports litellm."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from rwriter.records import CompletedRequest, new_request_id

ENDPOINTS: Final = {
    "completion": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
}
"""By call type. Each has an asynchronous twin, whose name has an ``a`` before it."""

REDACTED: Final = "redacted-by-litellm"
"""What litellm writes in place of bodies when it is told not to log them."""

_PROMPTS: Final = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/v1/responses": "input"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_STATUSES: Final = range(400, 600)


def owner_of(kwargs: Mapping[str, Any]) -> str | None:
    """Return the owner of the call as the proxy names it: the key's user, else its team.

    Not the end user: on the proxy that is what a client writes into ``user``, and may be anybody's name.
    """
    metadata = proxy_metadata(kwargs)
    owner = metadata.get("user_api_key_user_id") or metadata.get("user_api_key_team_id")
    return str(owner) if owner else None


def proxy_metadata(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return litellm's metadata of the call, ``user_api_key_*`` among it; outside its proxy the caller's own."""
    logged = (kwargs.get("standard_logging_object") or {}).get("metadata")
    return logged or (kwargs.get("litellm_params") or {}).get("metadata") or {}


def endpoint_of(kwargs: Mapping[str, Any]) -> str | None:
    """Return the path that the call has on an API; ``None`` for kinds not recorded (images, audio, files)."""
    call_type = _word(kwargs.get("call_type"))
    return ENDPOINTS.get(call_type) or ENDPOINTS.get(call_type.removeprefix("a"))


def is_async(kwargs: Mapping[str, Any]) -> bool:
    """Return True if the call was one of the asynchronous functions: ``acompletion`` and its like."""
    call_type = _word(kwargs.get("call_type"))
    return call_type not in ENDPOINTS and call_type.removeprefix("a") in ENDPOINTS


def completed(
    kwargs: Mapping[str, Any], response: object, started: datetime, ended: datetime, *, endpoint: str, owner: str
) -> CompletedRequest:
    """Return the record of one call: ``response`` is its answer, or ``kwargs["exception"]`` what it raised."""
    model = _model(kwargs)
    failure = kwargs.get("exception") if response is None else None
    return CompletedRequest(
        request_id=new_request_id(),
        status_code=200 if failure is None else _status(failure),
        request_body=_encode(_request(kwargs, endpoint, model)),
        response_body=_response(kwargs, response, endpoint) if failure is None else _encode(_error(failure)),
        model=model,
        endpoint=endpoint,
        api_key=_api_key(kwargs),
        created_by=owner,
        started_at=_aware(started),
        completed_at=_aware(ended),
        custom_id=_response_id(response),
    )


def _model(kwargs: Mapping[str, Any]) -> str:
    # behind a router the client asks for a group, of which ``model`` is one deployment
    group = (kwargs.get("standard_logging_object") or {}).get("model_group")
    return str(group or kwargs.get("model") or "")


def _request(kwargs: Mapping[str, Any], endpoint: str, model: str) -> dict[str, Any]:
    # ``optional_params`` is what went to the provider, credentials of some of them included: of it only what litellm
    # itself logs, and the system prompt, which it counts among the messages
    given = kwargs.get("optional_params") or {}
    logged = (kwargs.get("standard_logging_object") or {}).get("model_parameters") or {}
    body = {"model": model, **_prompt(kwargs, endpoint)}
    if endpoint == "/v1/messages" and given.get("system") and REDACTED not in _encode(kwargs.get("messages")):
        body["system"] = given["system"]
    return body | {name: value for name, value in logged.items() if value is not None}


def _prompt(kwargs: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    messages, field = kwargs.get("messages"), _PROMPTS.get(endpoint, "messages")
    if field == "messages":
        return {field: messages}
    if field == "prompt":
        return {field: kwargs.get("prompt") or _texts(messages)}
    # litellm keeps the input of a stored response as messages alone
    return {field: messages if kwargs.get("input") is None else kwargs["input"]}


def _texts(messages: object) -> object:
    """Return the prompts of a text completion, which litellm wraps in a message each."""
    if not isinstance(messages, list):
        return messages
    texts = [message.get("content") if isinstance(message, dict) else message for message in messages]
    return texts[0] if len(texts) == 1 else texts


def _response(kwargs: Mapping[str, Any], response: object, endpoint: str) -> str:
    body = _encode(response)
    if endpoint == "/v1/messages" and REDACTED not in body:
        # litellm shows its loggers a chat completion, made from the message that the client got
        return _message(kwargs.get("original_response")) or body
    return body


def _message(original: object) -> str | None:
    if not isinstance(original, str):
        return None
    try:
        message = json.loads(original)
    except ValueError:
        return None
    return original if isinstance(message, dict) and message.get("type") == "message" else None


def _error(failure: object) -> dict[str, Any]:
    fields = {
        "message": getattr(failure, "message", None) or str(failure),
        "type": getattr(failure, "type", None) or type(failure).__name__,
        "code": getattr(failure, "code", None),
    }
    return {"error": {name: None if value is None else _word(value) for name, value in fields.items()}}


def _status(failure: object) -> int:
    # the proxy's own refusals have their status in ``code``
    for value in (getattr(failure, "status_code", None), getattr(failure, "code", None)):
        with contextlib.suppress(TypeError, ValueError):
            if (status := int(value)) in _STATUSES:  # type: ignore[arg-type]  # refused by int() itself
                return status
    return 500


def _word(value: object) -> str:
    """Text for a member of an enumeration, too."""
    return str(getattr(value, "value", value))


def _api_key(kwargs: Mapping[str, Any]) -> str:
    """Return the fingerprint of the proxy's virtual key: litellm has the whole hash, of which it is the head."""
    known = proxy_metadata(kwargs).get("user_api_key_hash")
    return f"sha256:{known[:32]}" if isinstance(known, str) and _SHA256.fullmatch(known) else ""


def _response_id(response: object) -> str | None:
    found = response.get("id") if isinstance(response, dict) else getattr(response, "id", None)
    return found if isinstance(found, str) and found else None


def _aware(moment: datetime) -> datetime:
    # litellm's own clock is datetime.now(): local time that does not say so
    return moment.astimezone() if moment.tzinfo is None else moment


def _encode(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    """Return a JSON value for ``value``: litellm's answers are pydantic models; others are named, not shown."""
    if hasattr(value, "model_dump"):
        # unchecked: litellm puts the usage of one API into answers of another, and pydantic warns of it
        return value.model_dump(mode="json", warnings=False)
    return f"<{type(value).__name__}>"
