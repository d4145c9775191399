"""Renders a stored answer of any API as the output items of a Response."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from rwriter.asgi._json import is_list, objects_in, text_or_empty
from rwriter.asgi._render import foreign
from rwriter.asgi._render.blocks import Blocks
from rwriter.asgi._render.items import Ids, Item, function_call, image, message, output_text, reasoning

_CUT: Final = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause_turn": "pause_turn",
}
"""Reasons why an answer ended early: a ``finish_reason`` or ``stop_reason``, and the word that is shown for it."""


class Output(NamedTuple):
    """Output items, the reason why the answer ended early (``None`` if it did not), and what no item can be."""

    items: list[Item]
    cut: str | None
    others: list[Item]


def kind_of(body: Any, path: str) -> str:
    """Tell the kind of object in ``body``.

    ``response``, ``chat``, ``text``, ``message``; ``ollama``, ``gemini``, ``converse``; else ``other``.
    """
    if not isinstance(body, dict):
        return "other"
    known = _KINDS.get(str(body.get("object") or body.get("type")))
    if known is not None:
        return known
    path = path.rstrip("/")
    # compatible servers leave the `object` member out
    if is_list(body.get("output")) and path.endswith("/responses"):
        return "response"
    if isinstance(body.get("choices"), list):
        return "chat" if any("message" in choice for choice in objects_in(body["choices"])) else "text"
    if isinstance(body.get("content"), list) and path.endswith("/messages"):
        return "message"
    return foreign.kind_of(body) or "other"


_KINDS: Final = {
    "response": "response",
    "response.compaction": "response",
    "chat.completion": "chat",
    "text_completion": "text",
    "message": "message",
}


def output_of(body: Any, kind: str, request_id: uuid.UUID, *, whole: bool) -> Output:
    """Return the items of ``body``, each marked ``incomplete`` unless the answer is ``whole``."""
    render = _RENDERERS.get(kind)
    return Output([], None, []) if render is None else render(body, Ids(request_id), whole)


def _from_chat(body: dict[str, Any], ids: Ids, whole: bool) -> Output:
    items: list[Item] = []
    cut = None
    for choice in objects_in(body.get("choices")):
        early = _CUT.get(text_or_empty(choice.get("finish_reason")))
        cut = cut or early
        status = "completed" if whole and early is None else "incomplete"
        # an image has come whole or not at all
        items += [{"status": status} | item for item in _choice(choice, ids)]
    return Output(items, cut, [])


def _choice(choice: dict[str, Any], ids: Ids) -> Iterator[Item]:
    told = choice.get("message")
    if not isinstance(told, dict):
        return
    yield from _thoughts(told, ids)
    calls = list(_calls(told, ids))
    images = [image(ids, url) for url in _images(told)]
    parts = _parts(told, choice)
    # an empty text beside a tool call or an image is no message
    if parts and (not (calls or images) or any(_says_something(part) for part in parts)):
        yield message(ids, parts)
    yield from images
    yield from calls


def _says_something(part: Item) -> bool:
    return bool(part.get("text") or part.get("refusal") or part.get("audio"))


def _thoughts(told: dict[str, Any], ids: Ids) -> Iterator[Item]:
    details = list(objects_in(told.get("reasoning_details"))) + list(objects_in(told.get("thinking_blocks")))
    said = "".join(text_or_empty(detail.get("text")) or text_or_empty(detail.get("thinking")) for detail in details)
    thought = text_or_empty(told.get("reasoning_content")) or text_or_empty(told.get("reasoning")) or said
    summary = [detail["summary"] for detail in details if isinstance(detail.get("summary"), str)]
    proofs = [
        proof for detail in details for name in ("signature", "data") if (proof := text_or_empty(detail.get(name)))
    ]
    if thought or summary or proofs:
        yield reasoning(ids, thought, summary=summary, encrypted=next(iter(proofs), ""))
    for proof in proofs[1:]:
        yield reasoning(ids, "", encrypted=proof)


def _images(told: dict[str, Any]) -> Iterator[str]:
    for given in (told.get("images"), told.get("content")):
        for part in objects_in(given):
            where = part.get("image_url")
            url = where.get("url") if isinstance(where, dict) else where
            if isinstance(url, str):
                yield url


def _parts(told: dict[str, Any], choice: dict[str, Any]) -> list[Item]:
    parts = [output_text(text) for text in _texts(told.get("content"))]
    if parts:
        parts[0]["annotations"] = [_annotation(note) for note in objects_in(told.get("annotations"))]
        parts[0]["logprobs"] = _logprobs(choice.get("logprobs"))
    audio = told.get("audio")
    if isinstance(audio, dict) and audio:
        # a part of a message is a text or a refusal: the sound goes with its words
        rest = {name: value for name, value in audio.items() if name != "transcript"}
        parts.append(output_text(text_or_empty(audio.get("transcript"))) | ({"audio": rest} if rest else {}))
    if isinstance(told.get("refusal"), str):
        parts.append({"type": "refusal", "refusal": told["refusal"]})
    return parts


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in objects_in(content) if isinstance(part.get("text"), str)]


def _calls(told: dict[str, Any], ids: Ids) -> Iterator[Item]:
    for call in objects_in(told.get("tool_calls")):
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
            yield function_call(ids, call.get("id"), call["function"].get("name"), call["function"].get("arguments"))
    old = told.get("function_call")
    if isinstance(old, dict):
        yield function_call(ids, None, old.get("name"), old.get("arguments"))


def _from_text(body: dict[str, Any], ids: Ids, whole: bool) -> Output:
    items = []
    cut = None
    for choice in objects_in(body.get("choices")):
        early = _CUT.get(text_or_empty(choice.get("finish_reason")))
        cut = cut or early
        if isinstance(choice.get("text"), str):
            status = "completed" if whole and early is None else "incomplete"
            items.append(message(ids, [output_text(choice["text"])]) | {"status": status})
    return Output(items, cut, [])


def _from_message(body: dict[str, Any], ids: Ids, whole: bool) -> Output:
    cut = _CUT.get(text_or_empty(body.get("stop_reason")))
    # a turn that pauses waits for a tool of the provider, and what it said is whole
    blocks = Blocks(ids, "completed" if whole and cut in (None, "pause_turn") else "incomplete")
    for block in objects_in(body.get("content")):
        blocks.add(block)
    return Output(blocks.items, cut, blocks.others)


_RENDERERS: Final[dict[str, Callable[[dict[str, Any], Ids, bool], Output]]] = {
    "chat": _from_chat,
    "text": _from_text,
    "message": _from_message,
    "ollama": lambda body, ids, whole: _from_chat(foreign.chat_of_ollama(body), ids, whole),
    "gemini": lambda body, ids, whole: _from_chat(foreign.chat_of_gemini(body), ids, whole),
    "converse": lambda body, ids, whole: _from_message(foreign.message_of_converse(body), ids, whole),
}


def _annotation(note: dict[str, Any]) -> dict[str, Any]:
    cited = note.get("url_citation")
    if not isinstance(cited, dict):
        return note
    return {"type": "url_citation", "start_index": 0, "end_index": 0, "title": "", "url": ""} | cited


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
