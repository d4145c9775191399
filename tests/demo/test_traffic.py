from __future__ import annotations

import gzip
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rwriter.demo._traffic import TRAFFIC, Pair
from tests.support.traffic import FIRSTS, LATE, PAIRS

ROOT = Path(__file__).parents[2]


def test_the_traffic_is_what_its_generator_writes(tmp_path: Path) -> None:
    again = tmp_path / "again.jsonl.gz"
    subprocess.run([sys.executable, "-m", "examples.make_traffic", str(again)], check=True, cwd=ROOT)
    # the lines, as another zlib may compress them otherwise
    assert gzip.decompress(again.read_bytes()) == gzip.decompress(TRAFFIC.read_bytes())


def test_the_traffic_says_not_when_it_was_written() -> None:
    assert TRAFFIC.read_bytes()[4:8] == bytes(4)


def test_the_traffic_is_large_enough_to_show_and_small_enough_to_ship() -> None:
    assert len(FIRSTS) >= 1_000
    assert TRAFFIC.stat().st_size < 600_000


def answer(pair: Pair) -> dict[str, Any]:
    try:
        return dict(json.loads(pair.response_body.replace("\0", "")))
    except json.JSONDecodeError:
        return {}


def items(pair: Pair) -> list[dict[str, Any]]:
    return list(answer(pair).get("output", []))


def choices(pair: Pair) -> list[dict[str, Any]]:
    return list(answer(pair).get("choices", []))


def envelope(status: int) -> Callable[[Pair], bool]:
    keys = {"message", "type", "param", "code"}
    return lambda pair: pair.status_code == status and answer(pair).get("error", {}).keys() == keys


def letters(first: str, last: str) -> Callable[[Pair], bool]:
    return lambda pair: any(first <= letter <= last for letter in pair.response_body)


KINDS: dict[str, Callable[[Pair], bool]] = {
    "response": lambda pair: pair.endpoint == "/v1/responses" and answer(pair).get("object") == "response",
    "response with usage": lambda pair: (answer(pair).get("usage") or {}).get("output_tokens", 0) > 0,
    "response with reasoning": lambda pair: any(item["type"] == "reasoning" for item in items(pair)),
    "response with a function call": lambda pair: any(item["type"] == "function_call" for item in items(pair)),
    "response to a function's output": lambda pair: '"function_call_output"' in pair.request_body,
    "response with a web search": lambda pair: any(item["type"] == "web_search_call" for item in items(pair)),
    "response left incomplete": lambda pair: answer(pair).get("status") == "incomplete",
    "response that failed under status 200": lambda pair: answer(pair).get("status") == "failed",
    "response that refuses": lambda pair: '"refusal": "I' in pair.response_body,
    "chat completion": lambda pair: pair.endpoint == "/v1/chat/completions" and bool(choices(pair)),
    "chat completion with several choices": lambda pair: len(choices(pair)) > 1,
    "chat with tool calls": lambda pair: any(c["finish_reason"] == "tool_calls" for c in choices(pair)),
    "chat with a tool's output": lambda pair: '"role":"tool"' in pair.request_body,
    "chat cut short": lambda pair: any(c["finish_reason"] == "length" for c in choices(pair)),
    "chat with a picture": lambda pair: "data:image/png;base64," in pair.request_body,
    "embeddings": lambda pair: pair.endpoint == "/v1/embeddings" and bool(answer(pair).get("data")),
    **{f"error {status}": envelope(status) for status in (400, 401, 403, 404, 429, 500, 502, 503)},
    "error that is no JSON": lambda pair: pair.status_code == 502 and pair.response_body.startswith("<html>"),
    "Japanese": letters("ぁ", "ヿ"),
    "Chinese": letters("一", "鿿"),
    "Korean": letters("가", "힣"),
    "Arabic": letters("ء", "ي"),
    "Hindi": letters("अ", "ह"),
    "Cyrillic": letters("\u0410", "\u044f"),
    "emoji": letters("\U0001f300", "\U0001faff"),
    "NUL": lambda pair: "\0" in pair.response_body,
    "NUL as an escape": lambda pair: "\\u0000" in pair.response_body,
    "half of a surrogate pair": lambda pair: "\ud83d" in pair.request_body and "\ud83d" in pair.response_body,
    "undecodable byte": lambda pair: "\udcfc" in pair.request_body,
    "megabyte": lambda pair: len(pair.response_body.encode(errors="replace")) >= 1_000_000,
    "realtime": lambda pair: pair.realtime,
    "custom id": lambda pair: pair.custom_id is not None and pair.custom_id == answer(pair)["id"],
    "request in ASCII": lambda pair: "\\u" in pair.request_body and pair.request_body.isascii(),
    "request spread over lines": lambda pair: "\n" in pair.request_body,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_traffic_has_each_kind_of_pair(kind: str) -> None:
    assert any(KINDS[kind](pair) for pair in PAIRS)


def test_every_answer_but_an_html_page_is_json() -> None:
    for pair in PAIRS:
        assert answer(pair) or pair.response_body.startswith("<html>")


def test_late_answers_come_next_to_the_first_and_long_after_it() -> None:
    distances = []
    for place, late in enumerate(PAIRS):
        first = FIRSTS[late.request_id]
        if first is not late:
            assert late.response_body != first.response_body
            assert late.request_body == first.request_body
            distances.append(place - PAIRS.index(first))
    assert len(distances) == LATE >= 10
    assert min(distances) == 1
    assert max(distances) > 200


def test_the_ids_are_time_ordered_and_the_keys_are_plainly_no_keys() -> None:
    assert all(uuid.UUID(pair.request_id).version == 7 for pair in PAIRS)
    assert list(FIRSTS) == sorted(FIRSTS)
    assert all(pair.api_key.startswith("sk-demo-not-a-real-key-") for pair in PAIRS)
    others = {pair.response_body.replace("sk-demo-********-key", "") for pair in PAIRS}
    assert not any("sk-" in body for body in others)


def test_a_strict_json_parser_refuses_the_lone_surrogates() -> None:
    refused = 0
    for line in gzip.decompress(TRAFFIC.read_bytes()).splitlines():
        try:
            msgspec.json.decode(line)
        except msgspec.DecodeError:
            refused += 1
    assert refused == 5


# -- the demo
