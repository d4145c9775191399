"""The official clients find again the call that they saw, and its row says the same."""

from __future__ import annotations

import json
import uuid
from typing import Any

import openai
import pytest

from examples.gateway.model_server import KEY
from rwriter import RequestStore
from rwriter._values.keys import digest
from rwriter.testing import TestDbEngines
from tests.gateway.calls import CHATS, FLAT_TOOLS, MESSAGES, RESPONSES, Ask
from tests.gateway.watching import (
    Keys,
    Seen,
    Watched,
    body_of,
    done,
    listed,
    owner_of,
    row_of,
    seen_in_response,
    stored,
)
from tests.support.rows import template_of

QUESTION = "Wer hört mit? 🙂"


async def _found(client: Any, given: str, seen: Seen) -> Seen:
    """Return the call that ``client`` finds under an id, as ``seen`` says it: ids and JSON spacing may differ."""
    found = seen_in_response(seen.row, await done(client.responses.retrieve(given)))
    return found._replace(upstream=seen.upstream)


def _parsed(seen: Seen) -> Seen:
    # Anthropic's arguments are objects, the others' are texts
    calls = [(name, json.loads(given) if isinstance(given, str) else given) for name, given in seen.calls]
    return seen._replace(calls=tuple(calls))


@pytest.mark.parametrize("ask", [*RESPONSES, *CHATS])
async def test_a_call_is_found_by_its_own_and_its_upstreams_id(
    client: Any, store: RequestStore, keys: Keys, ask: Ask
) -> None:
    seen = await ask(client, QUESTION)
    assert seen.text or seen.calls
    for given in (f"resp_{seen.row}", seen.upstream):
        assert await _found(client, str(given), seen) == seen
    # and again when its row has been written
    row = await stored(store, seen.row)
    for given in (f"resp_{seen.row}", seen.upstream):
        assert await _found(client, str(given), seen) == seen
    assert (row.status, row.response_status, row.created_by) == ("completed", 200, owner_of(keys.amber))
    assert body_of(row)["id"] == seen.upstream


@pytest.mark.parametrize("ask", MESSAGES)
async def test_anthropics_messages_are_found_by_openais_client(
    claude: Any, amber: openai.OpenAI, store: RequestStore, ask: Ask
) -> None:
    seen = await ask(claude, QUESTION)
    assert seen.text or seen.calls
    for given in (f"resp_{seen.row}", seen.upstream):
        assert _parsed(await _found(amber, str(given), seen)) == _parsed(seen)
    row = await stored(store, seen.row)
    assert _parsed(await _found(amber, f"resp_{seen.row}", seen)) == _parsed(seen)
    assert (row.path, row.model, row.response_status) == ("/v1/messages", "claude", 200)


@pytest.mark.parametrize("ask", CHATS)
async def test_a_chat_completion_is_given_back_as_one(client: Any, ask: Ask) -> None:
    seen = await ask(client, QUESTION)
    for given in (f"resp_{seen.row}", str(seen.upstream)):
        found = await done(client.chat.completions.retrieve(given))
        message = found.choices[0].message
        calls = tuple((call.function.name, call.function.arguments) for call in message.tool_calls or ())
        assert (message.content or "", calls, found.usage.total_tokens) == (seen.text, seen.calls, seen.usage[2])


@pytest.mark.parametrize(("plain", "streamed"), [(RESPONSES[0], RESPONSES[1]), (RESPONSES[2], RESPONSES[3])])
async def test_a_streamed_responses_row_is_the_plain_ones(
    client: Any, store: RequestStore, plain: Ask, streamed: Ask
) -> None:
    rows = [await stored(store, (await ask(client, QUESTION)).row) for ask in (plain, streamed)]
    assert body_of(rows[0]) == body_of(rows[1])


@pytest.mark.parametrize(("plain", "streamed"), [(CHATS[0], CHATS[1]), (CHATS[2], CHATS[3])])
async def test_a_streamed_chats_row_is_the_plain_ones(
    client: Any, store: RequestStore, plain: Ask, streamed: Ask
) -> None:
    rows = [await stored(store, (await ask(client, QUESTION)).row) for ask in (plain, streamed)]
    whole, folded = (body_of(row) for row in rows)
    # a chunk has no annotations
    del whole["choices"][0]["message"]["annotations"]
    assert folded == whole


@pytest.mark.parametrize(("plain", "streamed"), [(MESSAGES[0], MESSAGES[1]), (MESSAGES[2], MESSAGES[3])])
async def test_a_streamed_messages_row_is_the_plain_ones(
    claude: Any, store: RequestStore, plain: Ask, streamed: Ask
) -> None:
    rows = [await stored(store, (await ask(claude, QUESTION)).row) for ask in (plain, streamed)]
    assert body_of(rows[0]) == body_of(rows[1])


async def test_embeddings_are_found_with_their_usage(client: Any, store: RequestStore) -> None:
    create = client.embeddings.with_raw_response.create
    raw = await done(create(model="embed", input=["eins", "zwei drei"]))
    row = row_of(raw)
    found = await done(client.responses.retrieve(f"resp_{row}"))
    assert found.usage.total_tokens == raw.parse().usage.total_tokens == 3
    assert (found.status, found.output_text, found.model) == ("completed", "", "embed")
    detail = await stored(store, row)
    # the very vectors, as the client asked for them
    assert body_of(detail) == json.loads(raw.content)
    assert detail.path == "/v1/embeddings"


async def test_old_completions_are_found_by_either_id(client: Any) -> None:
    raw = await done(client.completions.with_raw_response.create(model="davinci", prompt=QUESTION))
    completion = raw.parse()
    for given in (f"resp_{row_of(raw)}", completion.id):
        found = await done(client.responses.retrieve(given))
        assert (found.output_text, found.usage.total_tokens) == (
            completion.choices[0].text,
            completion.usage.total_tokens,
        )


async def test_a_stored_response_comes_back_whole(client: Any) -> None:
    asked: dict[str, Any] = {
        "model": "gpt-5",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
        "instructions": "Be brief.",
        "metadata": {"ticket": "4711"},
        "tools": FLAT_TOOLS,
        "tool_choice": "none",
        "temperature": 0.5,
        "max_output_tokens": 3,
    }
    answer = await done(client.responses.create(**asked))
    found = await done(client.responses.retrieve(answer.id))
    assert found.to_dict() == answer.to_dict()
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("ask", [RESPONSES[0], RESPONSES[3], CHATS[1], CHATS[2]])
async def test_a_call_is_replayed_as_a_stream(client: Any, ask: Ask) -> None:
    seen = await ask(client, QUESTION)
    for given in (f"resp_{seen.row}", str(seen.upstream)):
        events = await listed(await done(client.responses.retrieve(given, stream=True)))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        again = seen_in_response(seen.row, events[-1].response)
        assert again._replace(upstream=seen.upstream) == seen
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == seen.text


async def test_what_was_asked_is_listed(client: Any) -> None:
    asked: Any = [
        {"role": "user", "content": "Hallo"},
        {"role": "assistant", "content": "Ja?"},
        {"role": "user", "content": QUESTION},
    ]
    answer = await done(client.responses.create(model="gpt-5", input=asked))
    items = await listed(await done(client.responses.input_items.list(answer.id, order="asc")))
    assert [(item.role, item.content[0].text) for item in items] == [(turn["role"], turn["content"]) for turn in asked]
    pages = await listed(await done(client.responses.input_items.list(answer.id, order="desc", limit=1)))
    assert [item.id for item in pages] == [item.id for item in reversed(items)]


async def test_a_deleted_response_is_gone_with_its_row(client: Any, store: RequestStore) -> None:
    raw = await done(client.responses.with_raw_response.create(model="gpt-5", input=QUESTION))
    kept = await done(client.responses.with_raw_response.create(model="gpt-5", input="another"))
    await stored(store, row_of(raw))
    await done(client.responses.delete(raw.parse().id))
    for given in (raw.parse().id, f"resp_{row_of(raw)}"):
        with pytest.raises(openai.NotFoundError):
            await done(client.responses.retrieve(given))
        with pytest.raises(openai.NotFoundError):
            await done(client.responses.delete(given))
    assert await store.get_request(row_of(raw), consistent=True) is None
    assert (await done(client.responses.retrieve(kept.parse().id))).output_text


async def test_a_response_deleted_at_once_stays_deleted(client: Any, store: RequestStore) -> None:
    raw = await done(client.responses.with_raw_response.create(model="gpt-5", input=QUESTION))
    await done(client.responses.delete(f"resp_{row_of(raw)}"))
    later = await done(client.responses.with_raw_response.create(model="gpt-5", input="later"))
    # rows are written in the order of the calls
    await stored(store, row_of(later))
    assert await store.get_request(row_of(raw), consistent=True) is None


async def test_a_row_says_what_was_asked_and_by_whom(client: Any, store: RequestStore, keys: Keys) -> None:
    raw = await done(client.responses.with_raw_response.create(model="gpt-5", input=QUESTION))
    row = await stored(store, row_of(raw))
    assert json.loads(row.body) == {"model": "gpt-5", "input": QUESTION}
    # byte for byte, the gzip of the connection undone
    assert row.response_body == raw.text
    assert (row.model, row.path, row.created_by) == ("gpt-5", "/v1/responses", owner_of(keys.amber))
    assert row.duration_ms is not None
    assert row.duration_ms >= 0


async def test_no_key_is_stored_and_none_goes_upstream(
    client: Any, store: RequestStore, keys: Keys, watched: Watched, rwriter_engines: TestDbEngines
) -> None:
    raw = await done(client.responses.with_raw_response.create(model="gpt-5", input=QUESTION))
    await stored(store, row_of(raw))
    template = await template_of(rwriter_engines.write, row_of(raw))
    assert template["api_key"] == digest(keys.amber)
    assert (b"authorization", f"Bearer {KEY}".encode()) in watched.headers
    assert not [value for _, value in watched.headers if b"sk-amber" in value or b"sk-birch" in value]


async def test_every_call_has_an_id_of_its_own(client: Any) -> None:
    raws = [await done(client.responses.with_raw_response.create(model="gpt-5", input=QUESTION)) for _ in range(3)]
    rows = [row_of(raw) for raw in raws]
    assert len({raw.parse().id for raw in raws}) == 1
    assert len(set(rows)) == 3
    assert {row.version for row in rows} == {7}
    assert rows == sorted(rows)


async def test_an_unknown_id_is_not_found(client: Any) -> None:
    for given in ("resp_nothing", f"resp_{uuid.uuid4()}", "chatcmpl-nothing", "msg_nothing", "x"):
        with pytest.raises(openai.NotFoundError):
            await done(client.responses.retrieve(given))
