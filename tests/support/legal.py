"""Legal streams of each family, made at random: every event is one that the provider's documents allow there."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.folding import event, named

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
some = st.text('abc é{}\n"', min_size=1, max_size=8)
names = st.sampled_from(["look", "send_mail", "f"])
counts = st.integers(1, 100_000)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | some
objects = st.dictionaries(
    some, st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=4), max_size=3
)


class Legal(NamedTuple):
    """The events of a stream, each with its blank line, and whether nothing is missing after so many of them."""

    events: list[bytes]
    complete: list[bool]


def ended_by(events: list[bytes], last: int) -> Legal:
    """Return the stream in which event number ``last`` says that nothing is missing."""
    return Legal(events, [number > last for number in range(len(events) + 1)])


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text into pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def interleaved(draw: st.DrawFn, lanes: list[list[Any]], *, firsts_in_order: bool = True) -> list[Any]:
    """Merge lanes, each in its own order; with ``firsts_in_order`` a lane begins after those before it began."""
    left = [list(lane) for lane in lanes if lane]
    begun = 0 if firsts_in_order else len(left)
    merged: list[Any] = []
    while any(left):
        open_ = [number for number in range(min(begun + 1, len(left))) if left[number]]
        number = draw(st.sampled_from(open_))
        begun = max(begun, number + 1)
        merged.append(left[number].pop(0))
    return merged


# -- chat completions


def _calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    lanes = []
    for number in range(draw(st.integers(0, 3))):
        function = {"name": draw(names), "arguments": ""}
        first = {"index": number, "id": f"call_{number}", "type": "function", "function": function}
        pieces = draw(cut(json.dumps(draw(objects))))
        lanes.append([first, *({"index": number, "function": {"arguments": piece}} for piece in pieces)])
    merged: list[dict[str, Any]] = draw(interleaved(lanes))
    return [{"tool_calls": [piece]} for piece in merged]


def _texts(draw: st.DrawFn) -> list[dict[str, Any]]:
    kinds = draw(st.lists(st.sampled_from(["content", "reasoning_content", "refusal"]), max_size=3, unique=True))
    return [{kind: piece} for kind in kinds for piece in draw(cut(draw(words)))]


def _choice(draw: st.DrawFn, index: int) -> list[dict[str, Any]]:
    deltas = [{"role": "assistant"}, *_texts(draw), *_calls(draw)]
    choices: list[dict[str, Any]] = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
    for choice in choices:
        if "content" in choice["delta"] and draw(st.booleans()):
            choice["logprobs"] = {"content": [{"token": "t", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
    reason = draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
    return [*choices, {"index": index, "delta": {}, "finish_reason": reason}]


@st.composite
def chats(draw: st.DrawFn) -> Legal:
    """A chat of one choice or two."""
    lanes = [_choice(draw, number) for number in range(draw(st.integers(1, 2)))]
    merged = draw(interleaved(lanes))
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    chunks = [{**head, "choices": [choice]} for choice in merged]
    # after each chunk: have all choices that were seen their finish reasons?
    said = [{"index": choice["index"], "ended": bool(choice["finish_reason"])} for choice in merged]
    complete = [False]
    for number in range(1, len(said) + 1):
        seen = {one["index"] for one in said[:number]}
        complete.append(seen == {one["index"] for one in said[:number] if one["ended"]})
    if draw(st.booleans()):
        usage = {"prompt_tokens": draw(counts), "completion_tokens": draw(counts), "total_tokens": draw(counts)}
        chunks.append({**head, "choices": [], "usage": usage})
    events = [*map(event, chunks), event(b"[DONE]")]
    return Legal(events, complete + [True] * (len(events) + 1 - len(complete)))


# -- messages


def _block(draw: st.DrawFn, index: int) -> list[dict[str, Any]]:
    kind = draw(st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "result"]))
    deltas: list[dict[str, Any]] = []
    if kind == "text":
        begin: dict[str, Any] = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in draw(cut(draw(words)))]
        cited = {"type": "char_location", "cited_text": "c", "document_index": 0, "document_title": "t"}
        place = {"start_char_index": 0, "end_char_index": 1}
        deltas += [{"type": "citations_delta", "citation": {**cited, **place}}] * draw(st.integers(0, 2))
    elif kind == "thinking":
        begin = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in draw(cut(draw(words)))]
        deltas.append({"type": "signature_delta", "signature": draw(some)})
    elif kind == "redacted_thinking":
        begin = {"type": kind, "data": draw(some)}
    elif kind == "result":
        found = {"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "e"}
        begin = {"type": "web_search_tool_result", "tool_use_id": "srv", "content": [found]}
    else:
        name = "web_search" if kind == "server_tool_use" else draw(names)
        begin = {"type": kind, "id": f"t_{index}", "name": name, "input": {}}
        pieces = draw(cut(json.dumps(draw(objects))))
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return [
        {"type": "content_block_start", "index": index, "content_block": begin},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


@st.composite
def messages(draw: st.DrawFn) -> Legal:
    """A message of up to four blocks, which may be open at once."""
    usage = {"input_tokens": draw(counts), "output_tokens": 1, "cache_read_input_tokens": draw(counts)}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    start = {**head, "stop_reason": None, "stop_sequence": None, "usage": usage}
    blocks = draw(interleaved([_block(draw, number) for number in range(draw(st.integers(0, 4)))]))
    reason = draw(st.sampled_from(["end_turn", "tool_use", "max_tokens", "pause_turn", "refusal"]))
    end = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}}
    events = [{"type": "message_start", "message": start}, *blocks]
    events.insert(draw(st.integers(1, len(events))), {"type": "ping"})
    events.append({**end, "usage": {"output_tokens": draw(counts)}})
    return ended_by([*map(named, events), named({"type": "message_stop"})], len(events) - 1)


# -- responses


def _said(draw: st.DrawFn, at: dict[str, Any], number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    text, at = draw(words), {**at, "content_index": number}
    if draw(st.booleans()):
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
        name, empty = "output_text", {**part, "text": ""}
    else:
        part = {"type": "refusal", "refusal": text}
        name, empty = "refusal", {**part, "refusal": ""}
    pieces = [{"type": f"response.{name}.delta", **at, "delta": piece} for piece in draw(cut(text))]
    for piece in pieces if name == "output_text" else ():
        piece["logprobs"] = []
    key = "text" if name == "output_text" else "refusal"
    done = {"type": f"response.{name}.done", **at, key: text} | ({"logprobs": []} if key == "text" else {})
    begin = {"type": "response.content_part.added", **at, "part": empty}
    return [begin, *pieces, done, {"type": "response.content_part.done", **at, "part": part}], part


def _item(draw: st.DrawFn, index: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    kind = draw(st.sampled_from(["message", "reasoning", "function_call", "mcp_call", "web_search_call"]))
    at = {"item_id": f"{kind}_{index}", "output_index": index}
    item: dict[str, Any] = {"id": at["item_id"], "type": kind, "status": "in_progress"}
    between: list[dict[str, Any]] = []
    whole: dict[str, Any] = {}
    if kind == "message":
        item |= {"role": "assistant", "content": []}
        parts = [_said(draw, at, number) for number in range(draw(st.integers(0, 2)))]
        between = [one for events, _ in parts for one in events]
        whole = {"content": [part for _, part in parts]}
    elif kind == "reasoning":
        item |= {"summary": []}
        text, place = draw(words), {**at, "summary_index": 0}
        part = {"type": "summary_text", "text": text}
        stem = "response.reasoning_summary"
        between = [{"type": f"{stem}_part.added", **place, "part": {**part, "text": ""}}]
        between += [{"type": f"{stem}_text.delta", **place, "delta": piece} for piece in draw(cut(text))]
        between += [{"type": f"{stem}_text.done", **place, "text": text}]
        between += [{"type": f"{stem}_part.done", **place, "part": part}]
        whole = {"summary": [part]}
    elif kind in {"function_call", "mcp_call"}:
        item |= {"name": draw(names), "arguments": ""}
        item |= {"call_id": f"call_{index}"} if kind == "function_call" else {"server_label": "s"}
        text = json.dumps(draw(objects))
        between = [{"type": f"response.{kind}_arguments.delta", **at, "delta": piece} for piece in draw(cut(text))]
        between += [{"type": f"response.{kind}_arguments.done", **at, "arguments": text, "name": item["name"]}]
        whole = {"arguments": text}
    else:
        item |= {"action": {"type": "search", "query": "q"}}
        between = [{"type": f"response.web_search_call.{step}", **at} for step in ("in_progress", "completed")]
    done = {**item, **whole, "status": "completed"}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        *between,
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ], done


@st.composite
def responses(draw: st.DrawFn) -> Legal:
    """A response of up to four items, which may be open at once."""
    head = {"id": "resp_1", "object": "response", "created_at": 7, "model": "m", "output": [], "error": None}
    head |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "status": "in_progress"}
    items = [_item(draw, number) for number in range(draw(st.integers(0, 4)))]
    usage = {"input_tokens": draw(counts), "output_tokens": draw(counts), "total_tokens": draw(counts)}
    status = draw(st.sampled_from(["completed", "incomplete"]))
    final = {**head, "status": status, "output": [done for _, done in items], "usage": usage}
    final |= {"incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None}
    middle = draw(interleaved([events for events, _ in items]))
    events = [
        {"type": "response.created", "response": head},
        {"type": "response.in_progress", "response": head},
        *middle,
    ]
    events.append({"type": f"response.{status}", "response": final})
    return ended_by([named({**one, "sequence_number": at}) for at, one in enumerate(events)], len(events) - 1)
