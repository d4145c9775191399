"""Writes ``rwriter/demo/traffic.jsonl.gz``: a few minutes of a gateway in front of OpenAI's API, all made up.

Every run writes the same lines: all chance comes from one seed, and only integers and IEEE arithmetic depend on it.
``python -m examples.make_traffic [FILE]``, with any Python from 3.11 on. The prose is in ``traffic_texts.json``.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import random
import re
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from examples import traffic_wire as wire
from examples.traffic_wire import CHAT, EMBEDDINGS, EPOCH_MS, RESPONSES, Exchange

HERE: Final = Path(__file__).parent
TARGET: Final = HERE.parent / "rwriter" / "demo" / "traffic.jsonl.gz"
SEED: Final = 20_260_105
BIG_BODY: Final = 1 << 20
REALTIME, DUPLICATES = 60, 24
TWIN_DISTANCES: Final = (1, 20, 250)
"""Records between a request and its twin: next to it, in the same batch, and long after."""
SAME_IN_TWINS: Final = ("request_id", "endpoint", "model", "api_key", "created_by", "request_body")

TENANTS: Final = ("support-desk", "search", "translation", "coding-agent", "legal-review", "shop", "tutoring", "ops")
TEXTS: Final[dict[str, Any]] = json.loads((HERE / "traffic_texts.json").read_text("utf-8"))
LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# as httpx, as older clients (all ASCII), and as a person with curl would send it
STYLES: Final[Sequence[dict[str, Any]]] = (
    *({"ensure_ascii": False, "separators": (",", ":")},) * 7,
    *({"ensure_ascii": True},) * 2,
    {"ensure_ascii": False, "indent": 4},
)

Make = Callable[[random.Random], Exchange]


def make_traffic() -> list[dict[str, Any]]:
    """Return every line of the file, in the order in which the gateway saw them."""
    rng = random.Random(SEED)
    makers = [make for make, count in PLAN for _ in range(count)]
    rng.shuffle(makers)
    offset, pairs = 0, []
    for make in makers:
        offset += rng.randint(5, 240)
        pairs.append(_pair(rng, make(rng), offset))
    for pair in rng.sample(pairs, REALTIME):
        pair["realtime"] = True
    _insert_twins(rng, pairs)
    return pairs


def _pair(rng: random.Random, exchange: Exchange, offset: int) -> dict[str, Any]:
    owner = rng.choice(TENANTS)
    pair = {
        "request_id": wire.uuid7(rng, EPOCH_MS + offset),
        "offset_ms": offset,
        "duration_ms": rng.randint(300, 12_000) if exchange.status == HTTPStatus.OK else rng.randint(40, 900),
        "status_code": exchange.status,
        "endpoint": exchange.endpoint,
        "model": exchange.request["model"],
        "api_key": f"sk-demo-not-a-real-key-{owner}",
        "created_by": f"{owner}.example",
        "realtime": False,
        "request_body": _as_sent(rng, exchange.request),
        "response_body": exchange.response_body,
    }
    return pair if exchange.answer_id is None else {**pair, "custom_id": exchange.answer_id}


def _insert_twins(rng: random.Random, pairs: list[dict[str, Any]]) -> None:
    """Insert retries of clients that got no answer: the same id and request, another answer."""
    retried: dict[str, Make] = {CHAT: chat_text, RESPONSES: response_text}
    places = [place for place, pair in enumerate(pairs[: -TWIN_DISTANCES[-1]]) if pair["endpoint"] in retried]
    twins = []
    for number, place in enumerate(rng.sample(places, DUPLICATES)):
        first, later = pairs[place], place + TWIN_DISTANCES[number % 3]
        other = error(rng) if number % 4 == 0 else retried[first["endpoint"]](rng)
        twin = _pair(rng, other, pairs[later - 1]["offset_ms"])
        twins.append((later, twin | {name: first[name] for name in SAME_IN_TWINS}))
    # from the end, so that the places before stay what they are
    for later, twin in sorted(twins, key=lambda item: item[0], reverse=True):
        pairs.insert(later, twin)


# -- /v1/responses


def response_text(rng: random.Random) -> Exchange:
    """Make a question and an answer, in one of the languages; some were streamed and folded into the final object."""
    question, answer = _talk(rng)
    request: dict[str, Any] = {"model": rng.choice(("gpt-4.1", "gpt-5-mini")), "input": question}
    request |= {"instructions": "Be brief and kind.", "metadata": {"ticket": wire.hex_id(rng, "t_", 12)}}
    if rng.choice((True, False, False)):
        request["stream"] = True
    return wire.response(rng, request, wire.message(rng, wire.output_text(answer)))


def response_reasoning(rng: random.Random) -> Exchange:
    """Make a reasoning item, sealed for a client that keeps nothing on the server, then the message."""
    question, answer = _talk(rng)
    request: dict[str, Any] = {
        "model": rng.choice(("gpt-5", "o4-mini")),
        "input": [{"role": "developer", "content": "Think first."}, {"role": "user", "content": question}],
        "reasoning": {"effort": rng.choice(("low", "medium", "high")), "summary": "auto"},
    }
    summary = {"type": "summary_text", "text": "**Weighing the options**\n\nA short answer, in the user's language."}
    thinking: dict[str, Any] = {"id": wire.hex_id(rng, "rs_"), "type": "reasoning", "summary": [summary]}
    if rng.choice((True, False)):
        request |= {"store": False, "include": ["reasoning.encrypted_content"]}
        thinking["encrypted_content"] = "gAAAAAB" + base64.b64encode(rng.randbytes(240)).decode()
    return wire.response(rng, request, thinking, wire.message(rng, wire.output_text(answer)))


def response_function_call(rng: random.Random) -> Exchange:
    """Make a model ask for one or two functions to be called."""
    tool = {"type": "function", **_weather_function()}
    cities = rng.sample(TEXTS["cities"], rng.randint(1, 2))
    request = {"model": "gpt-4.1", "input": f"Weather in {' and '.join(cities)}?", "tools": [tool]}
    return wire.response(rng, request, *(_function_call(rng, city) for city in cities))


def response_function_output(rng: random.Random) -> Exchange:
    """Make the turn after a call: its output goes in, beside the call or the id of the response that made it."""
    city, celsius = rng.choice(TEXTS["cities"]), rng.randint(-12, 38)
    call = _function_call(rng, city)
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": wire.compact({"celsius": celsius})}
    request = {"model": "gpt-4.1", "input": [{"role": "user", "content": city}, call, output]}
    if rng.choice((True, False)):
        request |= {"input": [output], "previous_response_id": wire.hex_id(rng, "resp_")}
    answer = wire.output_text(f"{city}: {celsius} °C {'🥶' if celsius < 0 else '☀️'}")
    return wire.response(rng, request, wire.message(rng, answer))


def _function_call(rng: random.Random, city: str) -> dict[str, Any]:
    call = {"id": wire.hex_id(rng, "fc_"), "type": "function_call", "status": "completed", "name": "get_weather"}
    arguments = wire.compact({"city": city, "unit": "celsius"})
    return {**call, "call_id": wire.letters_id(rng, "call_", 24), "arguments": arguments}


def response_web_search(rng: random.Random) -> Exchange:
    """Make a built-in tool's call, and a message that cites its results."""
    link = "https://www.postgresql.org/docs/release/"
    text = f"The release notes list the changes ({link})."
    where = {"start_index": 36, "end_index": 36 + len(link)}
    cited = {"type": "url_citation", **where, "url": link, "title": "Release Notes"}
    action = {"type": "search", "query": "PostgreSQL release notes"}
    call = {"id": wire.hex_id(rng, "ws_"), "type": "web_search_call", "status": "completed", "action": action}
    tool = {"type": "web_search", "search_context_size": "medium"}
    request = {"model": "gpt-4.1", "input": "What is new in PostgreSQL?", "tools": [tool]}
    return wire.response(rng, request, call, wire.message(rng, wire.output_text(text, cited)))


def response_structured(rng: random.Random) -> Exchange:
    """Put JSON inside JSON: quotes and backslashes escaped twice."""
    form = {"format": {"type": "json_schema", "name": "invoice", "strict": True, "schema": TEXTS["invoice"]}}
    number = rng.randint(1, 9999)
    request = {"model": "gpt-5-mini", "input": f'Invoice № {number}, "C:\\scans\\draft.pdf"', "text": form}
    answer = {"number": f"R\\{number:04}", "total": rng.randint(100, 99_999) / 4, "currency": "€"}
    return wire.response(rng, request, wire.message(rng, wire.output_text(wire.compact(answer))))


def response_incomplete(rng: random.Random) -> Exchange:
    """Cut an answer by the token limit or the content filter: HTTP 200, yet not completed."""
    question, answer = _talk(rng)
    message = wire.message(rng, wire.output_text(answer[: len(answer) // 2]), status="incomplete")
    reason = {"reason": rng.choice(("max_output_tokens", "content_filter"))}
    request = {"model": "gpt-4.1", "input": question, "max_output_tokens": 16}
    return wire.response(rng, request, message, status="incomplete", incomplete_details=reason)


def response_failed(rng: random.Random) -> Exchange:
    """Make a failure after the headers were sent: HTTP says 200, the object says failed."""
    request = {"model": "gpt-5", "input": _talk(rng)[0], "stream": True}
    failure = {"code": "server_error", "message": "The model failed to generate a response."}
    return wire.response(rng, request, status="failed", error=failure, usage=None)


def response_refusal(rng: random.Random) -> Exchange:
    """Make the model decline."""
    refusal = {"type": "refusal", "refusal": "I'm sorry, but I can't help with that."}
    request = {"model": "gpt-4.1", "input": "(a request against the rules)"}
    return wire.response(rng, request, wire.message(rng, refusal))


# -- /v1/chat/completions


def _asking(content: object, model: str = "gpt-4.1", **options: object) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **options}


def chat_text(rng: random.Random) -> Exchange:
    """Make one to three turns of talk."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    for _ in range(rng.randint(0, 2)):
        question, answer = _talk(rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question, answer = _talk(rng)
    messages.append({"role": "user", "content": question})
    return wire.chat(rng, {"model": rng.choice(("gpt-4o-mini", "gpt-4.1")), "messages": messages}, {"content": answer})


def chat_code(rng: random.Random) -> Exchange:
    """Make code with tabs, back-ticks, newlines and carriage returns."""
    question = "Why does this run out of memory?\r\n\r\n\tdata = open(path).read().split('\\n')"
    return wire.chat(rng, _asking(question, temperature=0), {"content": TEXTS["code"]})


def chat_tool_calls(rng: random.Random) -> Exchange:
    """Make calls for tools instead of content; several at once."""
    cities = rng.sample(TEXTS["cities"], rng.randint(1, 3))
    tool = {"type": "function", "function": _weather_function()}
    request = _asking(f"Weather? {', '.join(cities)}", "gpt-4o-mini", tools=[tool], parallel_tool_calls=True)
    return wire.chat(rng, request, {"tool_calls": [_tool_call(rng, city) for city in cities]}, finish="tool_calls")


def chat_tool_output(rng: random.Random) -> Exchange:
    """Make the turn after a tool call."""
    city = rng.choice(TEXTS["cities"])
    call = _tool_call(rng, city)
    request = _asking(f"Weather? {city}", "gpt-4o-mini")
    request["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": wire.compact({"celsius": rng.randint(-12, 38)})},
    ]
    return wire.chat(rng, request, {"content": f"{city} 🌦️"})


def _tool_call(rng: random.Random, city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": wire.compact({"city": city, "unit": "celsius"})}
    return {"id": wire.letters_id(rng, "call_", 24), "type": "function", "function": function}


def _weather_function() -> dict[str, Any]:
    return {"name": "get_weather", "description": "The weather now", "strict": True, "parameters": TEXTS["weather"]}


def chat_choices(rng: random.Random) -> Exchange:
    """Make an answer of several choices."""
    question, answer = _talk(rng)
    return wire.chat(rng, _asking(question, n=3), *({"content": part} for part in (answer, answer[:80], answer[-80:])))


def chat_vision(rng: random.Random) -> Exchange:
    """Put a picture in the request, as a data URL."""
    picture = {"type": "image_url", "image_url": {"url": TEXTS["picture"], "detail": "low"}}
    content = [{"type": "text", "text": "What is in this picture?"}, picture]
    return wire.chat(rng, _asking(content, "gpt-4o-mini"), {"content": "A single, nearly transparent pixel. 🔍"})


def chat_cut(rng: random.Random) -> Exchange:
    """Cut an answer by the token limit or the content filter."""
    question, answer = _talk(rng)
    finish, kept = rng.choice((("length", 40), ("content_filter", 0)))
    return wire.chat(rng, _asking(question, max_completion_tokens=8), {"content": answer[:kept]}, finish=finish)


# -- the rest


def embeddings(rng: random.Random) -> Exchange:
    """Make vectors, as base64 (the SDKs' default) or as numbers. The answer has no id."""
    texts, encoding = [_talk(rng)[0] for _ in range(rng.randint(1, 3))], rng.choice(("base64", "base64", "float"))
    request = {"model": "text-embedding-3-small", "input": texts, "dimensions": 64, "encoding_format": encoding}
    vectors: list[Any] = [_unit_vector(rng, 64) for _ in texts]
    if encoding == "base64":
        vectors = [base64.b64encode(struct.pack("<64f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = dict.fromkeys(("prompt_tokens", "total_tokens"), len(wire.compact(texts)) // 4)
    answer = {"object": "list", "data": data, "model": request["model"], "usage": usage}
    return Exchange(EMBEDDINGS, request, HTTPStatus.OK, wire.pretty(answer))


def _unit_vector(rng: random.Random, size: int) -> list[float]:
    raw = [rng.uniform(-1, 1) for _ in range(size)]
    # not sum(): from Python 3.12 on it rounds differently
    length = math.sqrt(math.fsum(value * value for value in raw))
    return [round(value / length, 8) for value in raw]


def error(rng: random.Random, which: int | None = None) -> Exchange:
    """Make an error envelope in OpenAI's format, in answer to either API."""
    failure = dict(rng.choice(TEXTS["errors"]) if which is None else TEXTS["errors"][which])
    asked = rng.choice((chat_text, response_text))(rng)
    status = failure.pop("status")
    failure["message"] = failure["message"].replace("{model}", asked.request["model"])
    return Exchange(asked.endpoint, asked.request, status, json.dumps({"error": failure}, indent=4) + "\n")


def html_error(rng: random.Random) -> Exchange:
    """Make the answer of a proxy in between: no JSON at all."""
    page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502 Bad Gateway</body>\r\n</html>\r\n"
    return Exchange(CHAT, chat_text(rng).request, HTTPStatus.BAD_GATEWAY, page)


def raw_nul(rng: random.Random) -> Exchange:
    """Put a NUL in the answer itself: PostgreSQL's TEXT cannot hold it."""
    spoiled = escaped_nul(rng)
    return spoiled._replace(response_body=spoiled.response_body.replace("\\u0000", "\0"))


def escaped_nul(rng: random.Random) -> Exchange:
    """Write the same NUL as the six characters of its JSON escape: harmless, and stored unchanged."""
    return wire.chat(rng, _asking("Print two columns."), {"content": "first\0second"})


def half_emoji(rng: random.Random) -> Exchange:
    """Cut an emoji in two, as a client did, which leaves a lone surrogate; the model repeats it."""
    answer = wire.message(rng, wire.output_text("You wrote: \ud83d, and I say: 👍"))
    return wire.response(rng, {"model": "gpt-4.1", "input": "Great work \ud83d"}, answer)


def undecodable(rng: random.Random) -> Exchange:
    """Send Latin-1 bytes that a proxy read as UTF-8 with ``surrogateescape``."""
    text = "Grüße".encode("latin-1").decode("utf-8", "surrogateescape")
    return wire.chat(rng, _asking(text), {"content": "Hallo!"})


def big_body(rng: random.Random) -> Exchange:
    """Quote a whole contract: one megabyte of answer."""
    clause = "The supplier shall keep the records of the services for ten years and hand them over when asked."
    text = "\n".join(f"{number}. {clause}" for number in range(1, BIG_BODY // len(clause)))
    answer = wire.message(rng, wire.output_text(text))
    return wire.response(rng, {"model": "gpt-4.1", "input": "Quote the contract."}, answer)


PLAN: Final[Sequence[tuple[Make, int]]] = (
    (response_text, 230), (response_reasoning, 120), (response_function_call, 60), (response_function_output, 60),
    (response_web_search, 15), (response_structured, 30), (response_incomplete, 15), (response_failed, 8),
    (response_refusal, 8), (chat_text, 250), (chat_code, 40), (chat_tool_calls, 60), (chat_tool_output, 60),
    (chat_choices, 15), (chat_vision, 20), (chat_cut, 15), (embeddings, 70), (html_error, 3), (raw_nul, 3),
    (escaped_nul, 3), (half_emoji, 3), (undecodable, 2), (big_body, 1),
    # each of the errors, however the dice fall
    *((partial(error, which=which), 8) for which in range(len(TEXTS["errors"]))),
)  # fmt: skip


# -- the file


def _talk(rng: random.Random) -> tuple[str, str]:
    talk = rng.choice(TEXTS["talk"])
    return talk["question"], " ".join(rng.sample(talk["answer"], rng.randint(2, len(talk["answer"]))))


def _as_sent(rng: random.Random, request: dict[str, Any]) -> str:
    body = json.dumps(request, **rng.choice(STYLES))
    # a lone surrogate is to stay one: escaped it would be harmless ASCII
    return wire.compact(request) if LONE_SURROGATE.search(wire.compact(request)) else body


def to_line(pair: dict[str, Any]) -> str:
    """Return one line of the file: readable UTF-8, with lone surrogates, which UTF-8 cannot hold, escaped."""
    return LONE_SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", wire.compact(pair)) + "\n"


def main() -> None:
    """Write the file named on the command line, or the demo's own."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    lines = "".join(map(to_line, make_traffic())).encode()
    # without the time of writing, so that a second run changes nothing
    target.write_bytes(gzip.compress(lines, compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
