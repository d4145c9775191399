"""Sums of usage over the demo's traffic, once captured, are those of its answers."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from rwriter import RequestStore, RequestsWriter
from rwriter.asgi._types import Receive, Scope, Send
from rwriter.demo._traffic import Pair
from tests.asgi.conftest import Capture
from tests.support.asgi_client import Exchange, read, say
from tests.support.traffic import FIRSTS

PLACES = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "cached_input_tokens": ("input_tokens_details/cached_tokens", "prompt_tokens_details/cached_tokens"),
    "reasoning_tokens": ("output_tokens_details/reasoning_tokens", "completion_tokens_details/reasoning_tokens"),
}


def told(usage: dict[str, Any], place: str) -> int:
    *folders, name = place.split("/")
    for folder in folders:
        usage = usage.get(folder) or {}
    return int(usage.get(name) or 0)


def crosses_a_wire(pair: Pair) -> bool:
    """Lone surrogates are no UTF-8: no client sends them."""
    try:
        (pair.request_body + pair.response_body).encode()
    except UnicodeEncodeError:
        return False
    return True


async def test_the_sums_over_the_demos_traffic_are_those_of_its_answers(
    capture: Capture, store: RequestStore, writer: RequestsWriter
) -> None:
    expected: Counter[tuple[str, str]] = Counter()
    pairs = [pair for pair in FIRSTS.values() if crosses_a_wire(pair)]
    for pair in pairs:
        try:
            usage = json.loads(pair.response_body, strict=False).get("usage") or {}
        except json.JSONDecodeError:
            usage = {}
        model = json.loads(pair.request_body)["model"]
        expected[model, "requests"] += 1
        for field, places in PLACES.items():
            expected[model, field] += max(told(usage, place) for place in places)
    answers = iter(pairs)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        pair = next(answers)
        await say(send, pair.response_body.encode(), status=pair.status_code)

    middleware = capture(app)
    for pair in pairs:
        await Exchange(middleware, pair.request_body.encode(), path=pair.endpoint).run()
    await middleware.aclose()
    await writer.flush(timeout=60)

    hour = timedelta(hours=1)
    rows = await store.usage(since=datetime.now(UTC) - hour, until=datetime.now(UTC) + hour, by=["model"])
    assert len(pairs) > 1_000
    assert sum(row.output_tokens for row in rows) > 0
    assert {(str(row.model), field): getattr(row, field) for row in rows for field in ("requests", *PLACES)} == dict(
        expected
    )
