"""Reads answers of Ollama, Gemini and Bedrock as the chat completion or the message that they amount to."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi import _json
from rwriter.asgi._json import objects_in, text_or_empty

_FINISH: Final = {
    "max_tokens": "length",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
}
"""Gemini's reasons why an answer ended early, by their names in lower case."""


def kind_of(body: dict[str, Any]) -> str | None:
    """Tell the provider of an answer: ``ollama``, ``gemini`` or ``converse``; ``None`` for any other."""
    if isinstance(body.get("candidates"), list):
        return "gemini"
    if isinstance(body.get("done"), bool) and (_object(body, "message") or isinstance(body.get("response"), str)):
        return "ollama"
    return "converse" if _object(body.get("output"), "message") and "stopReason" in body else None


def chat_of_ollama(body: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion in the last line of Ollama's, folded or alone."""
    said = _object(body, "message") or {"content": body.get("response"), "thinking": body.get("thinking")}
    message = {**said, "reasoning_content": said.get("thinking")}
    return {"choices": [{"message": message, "finish_reason": body.get("done_reason")}]}


def chat_of_gemini(body: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion in Gemini's candidates."""
    return {"choices": [_choice(candidate) for candidate in objects_in(body.get("candidates"))]}


def message_of_converse(body: dict[str, Any]) -> dict[str, Any]:
    """Return the message in an answer of Bedrock's Converse."""
    content = _object(body["output"], "message").get("content")
    blocks = [_block(block) for block in objects_in(content)]
    return {"content": blocks, "stop_reason": text_or_empty(body.get("stopReason"))}


def _choice(candidate: dict[str, Any]) -> dict[str, Any]:
    parts = list(objects_in(_object(candidate, "content").get("parts")))
    texts = [part for part in parts if isinstance(part.get("text"), str)]
    message = {
        "content": "".join(part["text"] for part in texts if not part.get("thought")) if texts else None,
        "reasoning_content": "".join(part["text"] for part in texts if part.get("thought")),
        "images": [image for part in parts if (image := _image(part)) is not None],
        "tool_calls": [{"function": _call(part)} for part in parts if _object(part, "functionCall")],
    }
    reason = text_or_empty(candidate.get("finishReason")).lower()
    return {"message": message, "finish_reason": _FINISH.get(reason, reason)}


def _call(part: dict[str, Any]) -> dict[str, Any]:
    call = _object(part, "functionCall")
    return {"name": call.get("name"), "arguments": _json.to_text(call.get("args") or {})}


def _image(part: dict[str, Any]) -> dict[str, Any] | None:
    inline = _object(part, "inlineData")
    kind, data = text_or_empty(inline.get("mimeType")), text_or_empty(inline.get("data"))
    return {"image_url": {"url": f"data:{kind};base64,{data}"}} if kind.startswith("image/") else None


def _block(block: dict[str, Any]) -> dict[str, Any]:
    call, thought = _object(block, "toolUse"), _object(_object(block, "reasoningContent"), "reasoningText")
    if isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"]}
    if call:
        return {"type": "tool_use", "id": call.get("toolUseId"), "name": call.get("name"), "input": call.get("input")}
    if thought:
        return {"type": "thinking", "thinking": thought.get("text"), "signature": thought.get("signature")}
    return block


def _object(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}
