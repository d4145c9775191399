"""The format of chat completions, of the completions before them, and of embeddings."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any, Final

from examples.gateway.answers import CREATED, Answer, compact, halves, plain_text, tokens

Json = dict[str, Any]

DONE: Final = b"data: [DONE]\n\n"
_DIMENSIONS: Final = 8
_FINGERPRINT: Final = "fp_44709d6fcb"


def chat_completion(body: Json, answer: Answer) -> Json:
    """Return the whole answer, as often as ``n`` says."""
    message: Json = {"role": "assistant", "content": answer.text or None, "refusal": None, "annotations": []}
    if answer.calls:
        message["tool_calls"] = _tool_calls(answer)
    choice = {"message": message, "logprobs": None, "finish_reason": _finish(answer)}
    return {
        **_head(body, answer, "chatcmpl-", "chat.completion"),
        "choices": [{"index": index, **choice} for index in range(_choices(body))],
        "usage": _usage(body, answer),
    }


def chat_chunks(body: Json, answer: Answer) -> Iterator[Json]:
    """Yield the same answer, as it is streamed; its choices side by side, and usage where it was asked for."""
    finish = _finish(answer)
    for delta in ({"role": "assistant", "content": None if answer.calls else "", "refusal": None}, *_deltas(answer)):
        yield from _for_each_choice(body, answer, {"delta": delta, "logprobs": None, "finish_reason": None})
    yield from _for_each_choice(body, answer, {"delta": {}, "logprobs": None, "finish_reason": finish})
    if _wants_usage(body):
        head = _head(body, answer, "chatcmpl-", "chat.completion.chunk")
        yield head | {"choices": [], "usage": _usage(body, answer)}


def text_completion(body: Json, answer: Answer) -> Json:
    """Return the whole answer in the older format."""
    choice = {"text": answer.text, "index": 0, "logprobs": None, "finish_reason": _finish(answer)}
    return _head(body, answer, "cmpl-", "text_completion") | {"choices": [choice], "usage": _usage(body, answer)}


def text_chunks(body: Json, answer: Answer) -> Iterator[Json]:
    """Yield the same answer, as it is streamed."""
    head = _head(body, answer, "cmpl-", "text_completion") | ({"usage": None} if _wants_usage(body) else {})
    last = {"text": "", "index": 0, "logprobs": None, "finish_reason": _finish(answer)}
    for token in tokens(answer.text):
        yield head | {"choices": [last | {"text": token, "finish_reason": None}]}
    yield head | {"choices": [last]}
    if _wants_usage(body):
        yield head | {"choices": [], "usage": _usage(body, answer)}


def embeddings(body: Json) -> Json:
    """Return a short vector for each input, as numbers or, as the client likes it, base64."""
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    size = body.get("dimensions") or _DIMENSIONS
    as_text = body.get("encoding_format") == "base64"
    vectors = [_vector(plain_text(text), size) for text in inputs]
    asked = sum(len(tokens(plain_text(text))) for text in inputs)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else vector}
            for index, vector in enumerate(vectors)
        ],
        "model": body["model"],
        "usage": {"prompt_tokens": asked, "total_tokens": asked},
    }


def error_chunk(_number: int) -> Json:
    """Return the error that takes the place of a chunk where the model breaks."""
    message = "The model failed in the middle of its answer."
    return {"error": {"message": message, "type": "server_error", "param": None, "code": None}}


def frame(chunk: Json) -> bytes:
    """Return a chunk as a server-sent event."""
    return f"data: {compact(chunk)}\n\n".encode()


def _head(body: Json, answer: Answer, prefix: str, kind: str) -> Json:
    head = {"id": f"{prefix}{answer.key[:29]}", "object": kind, "created": CREATED, "model": body["model"]}
    return head | {"service_tier": "default", "system_fingerprint": _FINGERPRINT}


def _for_each_choice(body: Json, answer: Answer, choice: Json) -> Iterator[Json]:
    usage = {"usage": None} if _wants_usage(body) else {}
    head = _head(body, answer, "chatcmpl-", "chat.completion.chunk")
    for index in range(_choices(body)):
        yield head | {"choices": [{"index": index, **choice}]} | usage


def _deltas(answer: Answer) -> Iterator[Json]:
    for token in tokens(answer.text):
        yield {"content": token}
    for index, call in enumerate(_tool_calls(answer)):
        named = call["function"] | {"arguments": ""}
        yield {"tool_calls": [{"index": index, **call, "function": named}]}
        for half in halves(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": half}}]}


def _tool_calls(answer: Answer) -> list[Json]:
    functions = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in answer.calls]
    return [{"id": f"call_{identity}", "type": "function", "function": function} for identity, function in functions]


def _finish(answer: Answer) -> str:
    if answer.calls:
        return "tool_calls"
    return "length" if answer.cut_short else "stop"


def _choices(body: Json) -> int:
    return body.get("n") or 1


def _wants_usage(body: Json) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _usage(body: Json, answer: Answer) -> Json:
    spoken = answer.spoken * _choices(body)
    predicted = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return {
        "prompt_tokens": answer.asked,
        "completion_tokens": spoken,
        "total_tokens": answer.asked + spoken,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, **predicted},
    }


def _vector(text: str, size: int) -> list[float]:
    # eighths: exact in the four bytes in which base64 carries them
    octets = hashlib.shake_128(text.encode()).digest(size)
    return [(octet - 128) / 8 for octet in octets]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
