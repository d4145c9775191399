"""The calls a client makes, each with what it saw: plain and streamed, with tools and without, to every endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.gateway.watching import Seen, done, listed, row_of, seen_in_response

CITY: Final = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTIONS: Final = [{"name": "weather", "parameters": CITY}, {"name": "clock", "parameters": {"type": "object"}}]
FLAT_TOOLS: Final = [{"type": "function", **function} for function in FUNCTIONS]
NESTED_TOOLS: Final = [{"type": "function", "function": function} for function in FUNCTIONS]
CLAUDE_TOOLS: Final = [{"name": tool["name"], "input_schema": tool["parameters"]} for tool in FUNCTIONS]

Ask = Callable[[Any, str], Awaitable[Seen]]


async def response(client: Any, question: str, **options: Any) -> Seen:
    raw = await done(client.responses.with_raw_response.create(model="gpt-5", input=question, **options))
    return seen_in_response(row_of(raw), raw.parse())


async def streamed_response(client: Any, question: str, **options: Any) -> Seen:
    create = client.responses.with_raw_response.create
    raw = await done(create(model="gpt-5", input=question, stream=True, **options))
    events = await listed(raw.parse())
    seen = seen_in_response(row_of(raw), events[-1].response)
    heard = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert heard == seen.text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return seen


async def response_with_tools(client: Any, question: str) -> Seen:
    return await response(client, question, tools=FLAT_TOOLS)


async def streamed_response_with_tools(client: Any, question: str) -> Seen:
    return await streamed_response(client, question, tools=FLAT_TOOLS)


async def incomplete_response(client: Any, question: str) -> Seen:
    return await streamed_response(client, question, max_output_tokens=4)


async def chat(client: Any, question: str, **options: Any) -> Seen:
    create = client.chat.completions.with_raw_response.create
    raw = await done(create(model="gpt-4.1", messages=[{"role": "user", "content": question}], **options))
    completion = raw.parse()
    message = completion.choices[0].message
    calls = tuple((call.function.name, call.function.arguments) for call in message.tool_calls or ())
    return Seen(row_of(raw), completion.id, message.content or "", _chat_usage(completion.usage), calls)


async def streamed_chat(client: Any, question: str, **options: Any) -> Seen:
    create = client.chat.completions.with_raw_response.create
    messages = [{"role": "user", "content": question}]
    told = {"stream": True, "stream_options": {"include_usage": True}}
    raw = await done(create(model="gpt-4.1", messages=messages, **told, **options))
    chunks = await listed(raw.parse())
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    text = "".join(delta.content or "" for delta in deltas)
    return Seen(row_of(raw), chunks[0].id, text, _chat_usage(chunks[-1].usage), _tool_calls(deltas))


async def chat_with_tools(client: Any, question: str) -> Seen:
    return await chat(client, question, tools=NESTED_TOOLS)


async def streamed_chat_with_tools(client: Any, question: str) -> Seen:
    return await streamed_chat(client, question, tools=NESTED_TOOLS)


async def message(client: Any, question: str, **options: Any) -> Seen:
    create = client.messages.with_raw_response.create
    told = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": question}]}
    raw = await done(create(**told, **options))
    return _message_seen(raw, await done(raw.parse()))


async def streamed_message(client: Any, question: str, **options: Any) -> Seen:
    told = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": question}]}
    manager = client.messages.stream(**told, **options)
    if hasattr(manager, "__aenter__"):
        async with manager as stream:
            return _message_seen(stream.response, await stream.get_final_message())
    with manager as stream:
        return _message_seen(stream.response, stream.get_final_message())


async def message_with_tools(client: Any, question: str) -> Seen:
    return await message(client, question, tools=CLAUDE_TOOLS)


async def streamed_message_with_tools(client: Any, question: str) -> Seen:
    return await streamed_message(client, question, tools=CLAUDE_TOOLS)


RESPONSES: Final[tuple[Ask, ...]] = (
    response,
    streamed_response,
    response_with_tools,
    streamed_response_with_tools,
    incomplete_response,
)
CHATS: Final[tuple[Ask, ...]] = (chat, streamed_chat, chat_with_tools, streamed_chat_with_tools)
MESSAGES: Final[tuple[Ask, ...]] = (message, streamed_message, message_with_tools, streamed_message_with_tools)


def _message_seen(raw: Any, answer: Any) -> Seen:
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = tuple((block.name, block.input) for block in answer.content if block.type == "tool_use")
    usage = answer.usage
    tokens = (usage.input_tokens, usage.output_tokens, usage.input_tokens + usage.output_tokens)
    return Seen(row_of(raw), answer.id, text, tokens, calls)


def _chat_usage(usage: Any) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def _tool_calls(deltas: list[Any]) -> tuple[tuple[str, str], ...]:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for call in [call for delta in deltas for call in delta.tool_calls or ()]:
        names.setdefault(call.index, call.function.name)
        arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
    return tuple((names[index], arguments[index]) for index in sorted(names))
