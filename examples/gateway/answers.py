"""The fake models' answers: always the same to the same request, in no API's format yet."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

CREATED: Final = 1_767_600_000
"""Time at which every answer says it was made, in seconds since 1970: equal requests get equal bytes."""

_TOKEN: Final = re.compile(r"\s*\S+")


class Call(NamedTuple):
    """One tool call; ``arguments`` is JSON."""

    id: str
    name: str
    arguments: str


class Answer(NamedTuple):
    """Either ``text`` or ``calls``; ``key`` is hexadecimal, and different for every request."""

    key: str
    text: str
    calls: tuple[Call, ...]
    cut_short: bool
    asked: int
    spoken: int


def make_answer(body: dict[str, Any], *, turns: Any, limit: int | None) -> Answer:
    """Answer a request: ``turns`` is its prompt, input or messages, ``limit`` the most tokens it wants."""
    key = _key(body)
    asked = len(tokens(plain_text(turns)))
    last = turns[-1] if isinstance(turns, list) and turns else turns
    question = plain_text(last)
    if body.get("tools") and body.get("tool_choice") != "none" and not _is_tool_result(last):
        calls = tuple(_call(tool, question, key, number) for number, tool in enumerate(body["tools"]))
        return Answer(key, "", calls, cut_short=False, asked=asked, spoken=sum(len(call.arguments) for call in calls))
    words = tokens(f"You said: {question} 🙂 Words: {len(tokens(question))}, all of them heard.")
    kept = words if limit is None else words[:limit]
    return Answer(key, "".join(kept), (), cut_short=len(kept) < len(words), asked=asked, spoken=len(kept))


def plain_text(value: Any) -> str:
    """Return all text in a prompt, an input or messages, whichever API's they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(filter(None, map(plain_text, value)))
    if isinstance(value, dict):
        return plain_text(value.get("text") or value.get("content") or value.get("output"))
    return ""


def tokens(text: str) -> list[str]:
    """Return ``text`` in the pieces in which it is streamed and counted."""
    return _TOKEN.findall(text)


def halves(text: str) -> Iterator[str]:
    """Return JSON arguments in two pieces, neither of them JSON."""
    middle = len(text) // 2
    yield from (text[:middle], text[middle:])


def compact(value: object) -> str:
    """Return JSON as the APIs stream it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _key(body: dict[str, Any]) -> str:
    # the same whether it is streamed or not, so that the two can be compared field by field
    asked = {name: value for name, value in body.items() if name not in {"stream", "stream_options", "background"}}
    return hashlib.sha256(compact(asked).encode()).hexdigest()[:48]


def _is_tool_result(turn: Any) -> bool:
    if not isinstance(turn, dict):
        return False
    content = turn.get("content")
    blocks: Sequence[Any] = content if isinstance(content, list) else ()
    kinds = {turn.get("type"), turn.get("role"), *(block.get("type") for block in blocks if isinstance(block, dict))}
    return bool(kinds & {"tool", "function_call_output", "tool_result"})


def _call(tool: dict[str, Any], question: str, key: str, number: int) -> Call:
    # the Responses API's and Anthropic's tools are flat, those of chat completions nested
    function = tool.get("function", tool)
    schema = function.get("parameters") or function.get("input_schema") or {}
    arguments = {
        name: question if about.get("type") == "string" else len(question)
        for name, about in schema.get("properties", {}).items()
    }
    return Call(f"{key[:20]}{number:04x}", function["name"], compact(arguments))
