"""The fake model server speaks the real formats: asked by the real clients, without a gateway in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from examples.gateway.model_server import DIALECTS, KEY
from examples.gateway.serving import Serving
from tests.gateway.calls import CLAUDE_TOOLS, FLAT_TOOLS, NESTED_TOOLS
from tests.gateway.watching import listed

QUESTION = "Grüße 🙂 an alle"
ANSWER = "You said: Grüße 🙂 an alle 🙂 Words: 4, all of them heard."
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
async def client(models: Serving) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{models.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
async def claude(models: Serving) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=models.url, api_key=KEY, max_retries=0) as made:
        yield made


@pytest.mark.parametrize("tools", [[], FLAT_TOOLS])
async def test_a_streamed_response_is_the_plain_one(client: openai.AsyncOpenAI, tools: Any) -> None:
    plain = await client.responses.create(model="gpt-5", input=QUESTION, tools=tools)
    events = [e async for e in await client.responses.create(model="gpt-5", input=QUESTION, tools=tools, stream=True)]
    async with client.responses.stream(model="gpt-5", input=QUESTION, tools=tools) as stream:
        folded = await stream.get_final_response()
    assert plain.output_text == ("" if tools else ANSWER)
    assert [item.type for item in plain.output] == (["function_call"] * 2 if tools else ["message"])
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    last: Any = events[-1]
    assert last.response.to_dict() == plain.to_dict()
    # what the client itself makes of the deltas
    assert (folded.output_text, folded.usage) == (plain.output_text, plain.usage)
    assert [getattr(item, "arguments", None) for item in folded.output] == [
        getattr(item, "arguments", None) for item in plain.output
    ]


async def test_a_response_of_too_few_tokens_is_incomplete(client: openai.AsyncOpenAI) -> None:
    short = await client.responses.create(model="gpt-5", input=QUESTION, max_output_tokens=3)
    assert (short.status, short.output_text) == ("incomplete", "You said: Grüße")
    assert short.incomplete_details is not None
    assert short.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("tools", [[], NESTED_TOOLS])
async def test_a_streamed_chat_completion_is_the_plain_one(client: openai.AsyncOpenAI, tools: Any) -> None:
    asked: Any = {"model": "gpt-4.1", "messages": MESSAGES, "n": 2, "tools": tools}
    plain = await client.chat.completions.create(**asked)
    async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        _ = [event async for event in stream]
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in plain.choices] == [None if tools else ANSWER] * 2
    assert (final.id, final.usage) == (plain.id, plain.usage)
    for streamed, whole in zip(final.choices, plain.choices, strict=True):
        assert (streamed.index, streamed.finish_reason) == (whole.index, whole.finish_reason)
        assert streamed.message.content == whole.message.content
        assert _functions(streamed) == _functions(whole)


async def test_a_tools_result_is_answered_in_words(client: openai.AsyncOpenAI) -> None:
    result: Any = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    tools: Any = NESTED_TOOLS
    completion = await client.chat.completions.create(model="gpt-4.1", messages=[*MESSAGES, result], tools=tools)
    assert (completion.choices[0].message.content or "").startswith("You said: sunny")


async def test_completions_stream_what_they_answer(client: openai.AsyncOpenAI) -> None:
    plain = await client.completions.create(model="davinci", prompt=QUESTION)
    stream = await client.completions.create(model="davinci", prompt=QUESTION, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == plain.choices[0].text == ANSWER


async def test_embeddings_are_the_same_as_numbers_and_as_base64(client: openai.AsyncOpenAI) -> None:
    # the client asks for base64 where nothing is said
    packed = await client.embeddings.create(model="embed", input=[QUESTION, "other"])
    plain = await client.embeddings.create(model="embed", input=[QUESTION, "other"], encoding_format="float")
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]
    assert plain.data[0].embedding != plain.data[1].embedding
    assert len(plain.data[0].embedding) == 8


@pytest.mark.parametrize("tools", [[], CLAUDE_TOOLS])
async def test_a_streamed_message_is_the_plain_one(claude: anthropic.AsyncAnthropic, tools: Any) -> None:
    asked: Any = {"model": "claude", "max_tokens": 100, "messages": MESSAGES, "tools": tools}
    plain = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        final = await stream.get_final_message()
    # the client fills this one in where it puts a stream together
    assert final.to_dict() | {"stop_details": None} == plain.to_dict() | {"stop_details": None}
    assert plain.content[0].type == ("tool_use" if tools else "text")


@pytest.mark.parametrize(("status", "error"), [(429, openai.RateLimitError), (500, openai.InternalServerError)])
async def test_openais_client_knows_the_errors(client: openai.AsyncOpenAI, status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"The model error-{status} always fails"):
        await client.responses.create(model=f"error-{status}", input=QUESTION)


@pytest.mark.parametrize(("status", "error"), [(429, anthropic.RateLimitError), (500, anthropic.InternalServerError)])
async def test_anthropics_client_knows_the_errors(
    claude: anthropic.AsyncAnthropic, status: int, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"The model error-{status} always fails"):
        await claude.messages.create(model=f"error-{status}", max_tokens=9, messages=MESSAGES)


async def test_a_stream_breaks_with_an_error_the_clients_know(
    client: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    chunks = await client.chat.completions.create(model="stream-error", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="in the middle"):
        await listed(chunks)
    told: Any = {"model": "stream-error", "max_tokens": 9, "messages": MESSAGES, "stream": True}
    said = await claude.messages.create(**told)
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        await listed(said)
    events = [event async for event in await client.responses.create(model="stream-error", input="x", stream=True)]
    assert events[-1].type == "error"


async def test_a_cut_stream_has_no_end(client: openai.AsyncOpenAI) -> None:
    events = [event async for event in await client.responses.create(model="cut", input="x", stream=True)]
    assert events[-1].type == "response.output_text.delta"


@pytest.mark.parametrize("path", DIALECTS)
async def test_answers_are_the_same_bytes_every_time(models: Serving, path: str) -> None:
    body = {"model": "m", "input": QUESTION, "prompt": QUESTION, "messages": MESSAGES}
    async with httpx.AsyncClient(base_url=models.url, headers={"authorization": f"Bearer {KEY}"}) as http:
        first, second = [await http.post(path, json=body) for _ in range(2)]
        changed = await http.post(path, json=body | {"model": "other"})
    assert first.content == second.content != changed.content
    assert first.headers["x-request-id"] == second.headers["x-request-id"] != changed.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "parse the JSON"), (b"[]", "parameter: 'model'"), (b'{"model":"m"}', "parameter: 'messages'")],
)
async def test_a_bad_request_is_told_what_is_wrong(models: Serving, content: bytes, words: str) -> None:
    async with httpx.AsyncClient(base_url=models.url, headers={"x-api-key": KEY}) as http:
        answer = await http.post("/v1/messages", content=content)
    assert answer.status_code == 400
    assert words in json.loads(answer.content)["error"]["message"]


async def test_without_the_key_nobody_gets_in(models: Serving) -> None:
    async with httpx.AsyncClient(base_url=models.url) as http:
        assert (await http.post("/v1/responses", json={"model": "m", "input": "x"})).status_code == 401


def _functions(choice: Any) -> list[tuple[str, str]]:
    calls = choice.message.tool_calls or ()
    return [(call.function.name, call.function.arguments) for call in calls]
