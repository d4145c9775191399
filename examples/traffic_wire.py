"""OpenAI's wire format, as the API speaks it: answers of the Responses and the chat completions API, ids, JSON."""

from __future__ import annotations

import json
import random
import uuid
from http import HTTPStatus
from typing import Any, Final, NamedTuple

EPOCH_MS: Final = 1_767_600_000_000
"""Time in ids and bodies, in milliseconds since 1970; the demo moves the rows to the present."""

RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
SNAPSHOTS: Final = {
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "o4-mini": "o4-mini-2025-04-16",
}


class Exchange(NamedTuple):
    """One request and its answer, before it has an id, an owner and a time."""

    endpoint: str
    request: dict[str, Any]
    status: int
    response_body: str
    answer_id: str | None = None


def response(rng: random.Random, request: dict[str, Any], *output: dict[str, Any], **changes: Any) -> Exchange:
    """Wrap output items in a ``response`` object; ``changes`` replace its top-level fields."""
    asked, spoken = len(compact(request)) // 4, len(compact(output)) // 4
    thought = 64 * sum(item["type"] == "reasoning" for item in output)
    answer = {
        "id": hex_id(rng, "resp_"),
        "object": "response",
        "created_at": created(rng),
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": SNAPSHOTS[request["model"]],
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": request.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None, **request.get("reasoning", {})},
        "service_tier": "default",
        "store": request.get("store", True),
        "temperature": 1.0,
        "text": request.get("text", {"format": {"type": "text"}, "verbosity": "medium"}),
        "tool_choice": "auto",
        "tools": request.get("tools", []),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": spoken + thought,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": asked + spoken + thought,
        },
        "user": None,
        "metadata": request.get("metadata", {}),
        **changes,
    }
    return Exchange(RESPONSES, request, HTTPStatus.OK, pretty(answer), str(answer["id"]))


def message(rng: random.Random, *content: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    """Make a ``message`` output item."""
    return {"id": hex_id(rng, "msg_"), "type": "message", "status": status, "content": content, "role": "assistant"}


def output_text(text: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """Make a message's text, with its citations."""
    return {"type": "output_text", "annotations": annotations, "logprobs": [], "text": text}


def chat(rng: random.Random, request: dict[str, Any], *messages: dict[str, Any], finish: str = "stop") -> Exchange:
    """Wrap messages in a ``chat.completion`` object, a choice for each."""
    asked, spoken = len(compact(request)) // 4, len(compact(messages)) // 4
    predicted = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    blank: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    answer = {
        "id": letters_id(rng, "chatcmpl-", 29),
        "object": "chat.completion",
        "created": created(rng),
        "model": SNAPSHOTS[request["model"]],
        "choices": [
            {"index": index, "message": blank | message, "logprobs": None, "finish_reason": finish}
            for index, message in enumerate(messages)
        ],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": spoken,
            "total_tokens": asked + spoken,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, **predicted},
        },
        "service_tier": "default",
        "system_fingerprint": hex_id(rng, "fp_", 10),
    }
    return Exchange(CHAT, request, HTTPStatus.OK, pretty(answer), str(answer["id"]))


def compact(value: object) -> str:
    """Return JSON as the SDKs send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def pretty(value: object) -> str:
    """Return JSON as the API answers it."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def created(rng: random.Random) -> int:
    """Return a time within the traffic's few minutes, in seconds since 1970."""
    return EPOCH_MS // 1000 + rng.randint(0, 150)


def hex_id(rng: random.Random, prefix: str, digits: int = 50) -> str:
    """Return an id as the Responses API makes them."""
    return f"{prefix}{rng.getrandbits(4 * digits):0{digits}x}"


def letters_id(rng: random.Random, prefix: str, length: int) -> str:
    """Return an id as the chat completions API makes them."""
    return prefix + "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", k=length))


def uuid7(rng: random.Random, milliseconds: int) -> str:
    """Return a UUIDv7 of a given time."""
    fields = (milliseconds << 80) | (7 << 76) | (rng.getrandbits(12) << 64) | (2 << 62) | rng.getrandbits(62)
    return str(uuid.UUID(int=fields))
