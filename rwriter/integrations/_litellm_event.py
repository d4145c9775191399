"""Makes records of the events that litellm passes to its loggers. Does not import litellm."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from rwriter._values.keys import KeyDigest
from rwriter.records import CompletedRequest, new_request_id

ENDPOINTS: Final = {
    "completion": "/v1/chat/completions",
    "text_completion": "/v1/completions",
    "embedding": "/v1/embeddings",
    "responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
}
"""Path of a call by its type. Each type has an asynchronous twin, named with an ``a`` before it."""

REDACTED: Final = "redacted-by-litellm"
"""Text that litellm puts in place of bodies when it is told not to log them."""

_PROMPTS: Final = {"/v1/completions": "prompt", "/v1/embeddings": "input", "/v1/responses": "input"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_STATUSES: Final = range(400, 600)


def owner_of(kwargs: Mapping[str, Any]) -> str | None:
    """Return the user of the proxy's virtual key, else its team, else ``None``.

    Never the end user: on the proxy that is the ``user`` of the request, which a client may set to any name.
    """
    metadata = proxy_metadata(kwargs)
    owner = metadata.get("user_api_key_user_id") or metadata.get("user_api_key_team_id")
    return str(owner) if owner else None


def proxy_metadata(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return litellm's metadata of the call, with ``user_api_key_*``; outside its proxy, the caller's metadata."""
    logged = (kwargs.get("standard_logging_object") or {}).get("metadata")
    return logged or (kwargs.get("litellm_params") or {}).get("metadata") or {}


def endpoint_of(kwargs: Mapping[str, Any]) -> str | None:
    """Return the path of the call on an API; ``None`` for kinds that are not recorded (images, audio, files)."""
    call_type = _word(kwargs.get("call_type"))
    return ENDPOINTS.get(call_type) or ENDPOINTS.get(call_type.removeprefix("a"))


def is_async(kwargs: Mapping[str, Any]) -> bool:
    """Return True for a call of an asynchronous function, such as ``acompletion``."""
    call_type = _word(kwargs.get("call_type"))
    return call_type not in ENDPOINTS and call_type.removeprefix("a") in ENDPOINTS


def completed(
    kwargs: Mapping[str, Any], response: object, started: datetime, ended: datetime, *, endpoint: str, owner: str
) -> CompletedRequest:
    """Make the record of one call from its answer ``response``, or from ``kwargs["exception"]`` if it failed."""
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
    # behind a router the client names a model group, and ``model`` is one deployment of it
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
    """Return the prompts of a text completion, each of which litellm wraps in a message."""
    if not isinstance(messages, list):
        return messages
    texts = [message.get("content") if isinstance(message, dict) else message for message in messages]
    return texts[0] if len(texts) == 1 else texts


def _response(kwargs: Mapping[str, Any], response: object, endpoint: str) -> str:
    body = _encode(response)
    if endpoint == "/v1/messages" and REDACTED not in body:
        # litellm passes its loggers a chat completion made from the message, and the client got the message
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
    # errors of the proxy itself have their status in ``code``
    for value in (getattr(failure, "status_code", None), getattr(failure, "code", None)):
        with contextlib.suppress(TypeError, ValueError):
            if (status := int(value)) in _STATUSES:  # type: ignore[arg-type]  # refused by int() itself
                return status
    return 500


def _word(value: object) -> str:
    """Return ``value`` as a text; of a member of an enumeration, its value."""
    return str(getattr(value, "value", value))


def _api_key(kwargs: Mapping[str, Any]) -> KeyDigest:
    """Return the digest of the proxy's virtual key: the first digits of the hash that litellm has."""
    known = proxy_metadata(kwargs).get("user_api_key_hash")
    return KeyDigest(f"sha256:{known[:32]}" if isinstance(known, str) and _SHA256.fullmatch(known) else "")


def _response_id(response: object) -> str | None:
    found = response.get("id") if isinstance(response, dict) else getattr(response, "id", None)
    return found if isinstance(found, str) and found else None


def _aware(moment: datetime) -> datetime:
    # litellm takes times from datetime.now(): local time without a timezone
    return moment.astimezone() if moment.tzinfo is None else moment


def _encode(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    """Convert a value that JSON cannot express: pydantic models to their fields, others to the name of their type."""
    if hasattr(value, "model_dump"):
        # no warnings: litellm puts the usage of one API into answers of another, and pydantic would warn of it
        return value.model_dump(mode="json", warnings=False)
    return f"<{type(value).__name__}>"
