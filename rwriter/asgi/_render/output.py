"""Renders a stored answer of any API as the output items of a Response."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from rwriter.asgi import _json
from rwriter.asgi._json import objects_in, text_or_empty

_CUT: Final = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
"""Reasons why an answer ended early: a ``finish_reason`` or ``stop_reason``, and the word a Response has for it."""


class Output(NamedTuple):
    """Output items, and the reason why the answer was cut short; ``None`` if it was not."""

    items: list[dict[str, Any]]
    cut: str | None


class _Ids:
    """Makes ids for items that came without one, from the request's id: the same at each reading."""

    def __init__(self, request_id: uuid.UUID) -> None:
        self._hex: Final = request_id.hex
        self._made = 0

    def next(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}_{self._hex}_{self._made - 1}"


def kind_of(body: Any, path: str) -> str:
    """Tell the kind of object in ``body``: ``response``, ``chat``, ``text``, ``message`` or ``other``."""
    if not isinstance(body, dict):
        return "other"
    known = _KINDS.get(str(body.get("object") or body.get("type")))
    if known is not None:
        return known
    # compatible servers leave the `object` member out
    if isinstance(body.get("output"), list) and path.endswith("/responses"):
        return "response"
    if isinstance(body.get("choices"), list):
        return "chat" if any("message" in choice for choice in objects_in(body["choices"])) else "text"
    return "message" if isinstance(body.get("content"), list) and path.endswith("/messages") else "other"


_KINDS: Final = {
    "response": "response",
    "chat.completion": "chat",
    "text_completion": "text",
    "message": "message",
}


def output_of(body: Any, kind: str, request_id: uuid.UUID, *, whole: bool) -> Output:
    """Return the items of ``body``, each marked ``incomplete`` unless the answer is ``whole``."""
    render = _RENDERERS.get(kind)
    return Output([], None) if render is None else render(body, _Ids(request_id), whole)


def _from_chat(body: dict[str, Any], ids: _Ids, whole: bool) -> Output:
    items: list[dict[str, Any]] = []
    cut = None
    for choice in objects_in(body.get("choices")):
        early = _CUT.get(text_or_empty(choice.get("finish_reason")))
        cut = cut or early
        status = "completed" if whole and early is None else "incomplete"
        items += [item | {"status": status} for item in _choice(choice, ids)]
    return Output(items, cut)


def _choice(choice: dict[str, Any], ids: _Ids) -> Iterator[dict[str, Any]]:
    message = choice.get("message")
    if not isinstance(message, dict):
        return
    thought = text_or_empty(message.get("reasoning_content")) or text_or_empty(message.get("reasoning"))
    if thought:
        yield _reasoning(ids, thought)
    calls = list(_calls(message, ids))
    parts = _parts(message, choice)
    # an empty text beside a tool call is no message
    if parts and (not calls or any(part.get("text") or part.get("refusal") for part in parts)):
        yield _message(ids, parts)
    yield from calls


def _parts(message: dict[str, Any], choice: dict[str, Any]) -> list[dict[str, Any]]:
    parts = [_output_text(text) for text in _texts(message.get("content"))]
    if parts:
        parts[0]["annotations"] = [_annotation(note) for note in objects_in(message.get("annotations"))]
        parts[0]["logprobs"] = _logprobs(choice.get("logprobs"))
    audio = message.get("audio")
    if isinstance(audio, dict) and isinstance(audio.get("transcript"), str):
        parts.append(_output_text(audio["transcript"]))
    if isinstance(message.get("refusal"), str):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    return parts


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in objects_in(content) if isinstance(part.get("text"), str)]


def _calls(message: dict[str, Any], ids: _Ids) -> Iterator[dict[str, Any]]:
    for call in objects_in(message.get("tool_calls")):
        custom = call.get("custom")
        if isinstance(custom, dict):
            yield {
                "type": "custom_tool_call",
                "id": ids.next("ctc"),
                "call_id": text_or_empty(call.get("id")),
                "name": text_or_empty(custom.get("name")),
                "input": text_or_empty(custom.get("input")),
            }
        elif isinstance(call.get("function"), dict):
            yield _function_call(ids, call.get("id"), call["function"].get("name"), call["function"].get("arguments"))
    old = message.get("function_call")
    if isinstance(old, dict):
        yield _function_call(ids, None, old.get("name"), old.get("arguments"))


def _from_text(body: dict[str, Any], ids: _Ids, whole: bool) -> Output:
    items = []
    cut = None
    for choice in objects_in(body.get("choices")):
        early = _CUT.get(text_or_empty(choice.get("finish_reason")))
        cut = cut or early
        if isinstance(choice.get("text"), str):
            status = "completed" if whole and early is None else "incomplete"
            items.append(_message(ids, [_output_text(choice["text"])]) | {"status": status})
    return Output(items, cut)


def _from_message(body: dict[str, Any], ids: _Ids, whole: bool) -> Output:
    cut = _CUT.get(text_or_empty(body.get("stop_reason")))
    status = "completed" if whole and cut is None else "incomplete"
    items: list[dict[str, Any]] = []
    for block in objects_in(body.get("content")):
        item = _block(block, ids)
        if item is None:
            continue
        if item["type"] == "message" and items and items[-1]["type"] == "message":
            # an answer with citations comes as many blocks of text, and is one message
            items[-1]["content"] += item["content"]
        else:
            items.append(item | {"status": status})
    return Output(items, cut)


def _block(block: dict[str, Any], ids: _Ids) -> dict[str, Any] | None:
    match block.get("type"):
        case "text":
            part = _output_text(text_or_empty(block.get("text")))
            notes = [_citation(note, part["text"]) for note in objects_in(block.get("citations"))]
            return _message(ids, [part | {"annotations": [note for note in notes if note is not None]}])
        case "tool_use":
            return _function_call(ids, block.get("id"), block.get("name"), block.get("input"))
        case "thinking":
            return _reasoning(ids, text_or_empty(block.get("thinking")))
        case "redacted_thinking":
            return _reasoning(ids, "") | {"content": [], "encrypted_content": text_or_empty(block.get("data"))}
    return None


_RENDERERS: Final[dict[str, Callable[[dict[str, Any], _Ids, bool], Output]]] = {
    "chat": _from_chat,
    "text": _from_text,
    "message": _from_message,
}


def _message(ids: _Ids, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "message", "id": ids.next("msg"), "role": "assistant", "content": parts}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(ids: _Ids, text: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": ids.next("rs"), "summary": [], "content": content}


def _function_call(ids: _Ids, call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    own = ids.next("fc")
    text = arguments if isinstance(arguments, str) else _json.to_text({} if arguments is None else arguments)
    return {
        "type": "function_call",
        "id": own,
        "call_id": text_or_empty(call_id) or own.replace("fc_", "call_", 1),
        "name": text_or_empty(name),
        "arguments": text,
    }


def _annotation(note: dict[str, Any]) -> dict[str, Any]:
    cited = note.get("url_citation")
    if not isinstance(cited, dict):
        return note
    return {"type": "url_citation", "start_index": 0, "end_index": 0, "title": "", "url": ""} | cited


def _citation(note: dict[str, Any], text: str) -> dict[str, Any] | None:
    if not isinstance(note.get("url"), str):
        return None  # a Response has no annotation for a place in a document of the request
    title = text_or_empty(note.get("title"))
    return {"type": "url_citation", "start_index": 0, "end_index": len(text), "title": title, "url": note["url"]}


def _logprobs(logprobs: Any) -> list[dict[str, Any]]:
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [_token(token) | {"top_logprobs": _tokens(token.get("top_logprobs"))} for token in objects_in(tokens)]


def _tokens(tokens: Any) -> list[dict[str, Any]]:
    return [_token(token) for token in objects_in(tokens)]


def _token(token: dict[str, Any]) -> dict[str, Any]:
    # `bytes` may be null for a token that is a part of a character; in a Response it never is
    if isinstance(token.get("bytes"), list):
        return token
    return token | {"bytes": list(text_or_empty(token.get("token")).encode())}
