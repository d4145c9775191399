"""The tour: OpenAI's own client calls the gateway, and each row is held against what the client saw."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import openai
from openai import AsyncOpenAI
from openai.types.responses import Response
from rich.console import Console
from rich.table import Column, Table

from examples.gateway import model_server
from examples.gateway.app import make_app, models_at
from examples.gateway.serving import Serving
from rwriter import DbEngines, RequestDetail, RequestStore, use_key_pepper
from rwriter.migrate import upgrade
from rwriter.testing import THROWAWAY, PostgresServer

PATIENCE: Final = 20
"""Seconds that a row, or a background response, may take."""

TENANTS: Final = {"sk-tour": "tourist"}
QUESTION: Final = "How are you?"
WEATHER: Final[Any] = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


class Shown(NamedTuple):
    """A call as its client saw it; ``status`` is the one expected in its row."""

    row: uuid.UUID
    status: int
    said: str
    tokens: int


class Line(NamedTuple):
    """A line of the table; ``fault`` says what was found instead, and is empty where all is well."""

    call: str
    said: str
    tokens: str
    row: str
    fault: str = ""


def main() -> int:
    """Take the tour on a PostgreSQL server of its own; print the findings. Return 1 if a row is wrong."""
    use_key_pepper("a service takes a random secret of its own, that its database does not know")
    with PostgresServer(settings=THROWAWAY) as server:
        asyncio.run(upgrade(server.url()))
        with Serving(model_server.app) as models:
            upstream = models_at(models.url, key=model_server.KEY)
            app = make_app(database_url=server.url(), models=upstream, tenants=TENANTS)
            with Serving(app) as gateway:
                lines = asyncio.run(visit(gateway.url, server.url()))
    return show(lines)


def show(lines: list[Line]) -> int:
    """Print the table. Return 1 if a row differs from what its client saw."""
    said = Column("the client saw", no_wrap=True, overflow="ellipsis", ratio=1)
    tokens = Column("tokens", justify="right", no_wrap=True)
    table = Table(Column("call", no_wrap=True), said, tokens, Column("its row", no_wrap=True), expand=True)
    for line in lines:
        table.add_row(line.call, line.said, line.tokens, line.row if not line.fault else "WRONG")
    console = Console(highlight=False, markup=False, width=100)
    console.print(table)
    faults = [f"{line.call.strip()}: {line.fault}" for line in lines if line.fault]
    verdict = f"{len(faults)} are NOT what the client saw" if faults else "each is found again as the client saw it"
    console.print(f"{len(lines)} calls of the official client: {verdict}", *faults, sep="\n")
    return 1 if faults else 0


async def visit(gateway: str, database: str) -> list[Line]:
    """Call the gateway at a URL, whose rows are in ``database``."""
    async with (
        AsyncOpenAI(base_url=f"{gateway}/v1", api_key="sk-tour", max_retries=0) as client,
        DbEngines.from_url(database) as engines,
    ):
        return await Tour(client, RequestStore(engines)).take()


class Tour:
    """The calls, in turn."""

    def __init__(self, client: AsyncOpenAI, store: RequestStore) -> None:
        self._client: Final = client
        self._store: Final = store
        self._answered: Final[list[uuid.UUID]] = []

    async def take(self) -> list[Line]:
        """Make every call and compare each with its row."""
        calls: list[tuple[str, Callable[[], Awaitable[Shown]]]] = [
            ("responses.create", self._response),
            ("  streamed", self._streamed_response),
            ("  in the background", self._background),
            ("  cancelled", self._cancelled),
            ("chat.completions.create", self._chat),
            ("  streamed", self._streamed_chat),
            ("  with a tool", self._tool_call),
            ("embeddings.create", self._embeddings),
            ("a busy model", self._error),
            ("a stream that stops", self._cut),
        ]
        lines = [await self._compared(name, call) for name, call in calls]
        return [*lines, await self._listing(), await self._input_items(), await self._deletion()]

    async def _compared(self, name: str, call: Callable[[], Awaitable[Shown]]) -> Line:
        shown = await call()
        self._answered.append(shown.row)
        row = await self._finished(shown.row)
        found = await self._client.responses.retrieve(f"resp_{shown.row}")
        again = Shown(row.id, row.response_status or 0, _said(found, row), _tokens(found))
        fault = "" if again == shown else f"{again}, not {shown}"
        return Line(name, shown.said, str(shown.tokens or ""), f"{row.status} {row.response_status}", fault)

    async def _finished(self, row: uuid.UUID) -> RequestDetail:
        async with asyncio.timeout(PATIENCE):
            while True:
                detail = await self._store.get_request(row, consistent=True)
                if detail is not None and detail.status in {"completed", "failed"}:
                    return detail
                await asyncio.sleep(0.01)

    # -- calls that are answered

    async def _response(self) -> Shown:
        raw = await self._client.responses.with_raw_response.create(model="gpt-5", input=QUESTION)
        return _shown(raw, raw.parse())

    async def _streamed_response(self) -> Shown:
        create = self._client.responses.with_raw_response.create
        raw = await create(model="gpt-5", input="And how is everyone?", stream=True)
        events: Any = [event async for event in raw.parse()]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        return _shown(raw, events[-1].response)._replace(said=text)

    async def _background(self) -> Shown:
        create = self._client.responses.with_raw_response.create
        raw = await create(model="slow-1", input="Take your time.", background=True)
        response = raw.parse()
        async with asyncio.timeout(PATIENCE):
            while response.status == "in_progress":
                await asyncio.sleep(0.1)
                response = await self._client.responses.retrieve(response.id)
        return _shown(raw, response)

    async def _cancelled(self) -> Shown:
        create = self._client.responses.with_raw_response.create
        raw = await create(model="slow-60", input="Never mind.", background=True)
        response = await self._client.responses.cancel(raw.parse().id)
        return Shown(_row_of(raw), 499, str(response.status), 0)

    async def _chat(self) -> Shown:
        create = self._client.chat.completions.with_raw_response.create
        raw = await create(model="gpt-4.1", messages=[{"role": "user", "content": "Hello!"}])
        completion = raw.parse()
        return _chat_shown(raw, completion.choices[0].message.content, completion.usage)

    async def _streamed_chat(self) -> Shown:
        create = self._client.chat.completions.with_raw_response.create
        told: Any = {"stream": True, "stream_options": {"include_usage": True}}
        raw = await create(model="gpt-4.1", messages=[{"role": "user", "content": "Hello again!"}], **told)
        chunks = [chunk async for chunk in raw.parse()]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        return _chat_shown(raw, text, chunks[-1].usage)

    async def _tool_call(self) -> Shown:
        create = self._client.chat.completions.with_raw_response.create
        tools: Any = [{"type": "function", "function": WEATHER}]
        raw = await create(model="gpt-4.1", messages=[{"role": "user", "content": "Trondheim"}], tools=tools)
        completion = raw.parse()
        calls: Any = completion.choices[0].message.tool_calls
        return _chat_shown(raw, f"{calls[0].function.name}({calls[0].function.arguments})", completion.usage)

    async def _embeddings(self) -> Shown:
        raw = await self._client.embeddings.with_raw_response.create(model="embed", input=["north", "south"])
        answer = raw.parse()
        return Shown(_row_of(raw), raw.status_code, f"{len(answer.data)} vectors", answer.usage.total_tokens)

    # -- calls that are not

    async def _error(self) -> Shown:
        try:
            await self._client.responses.create(model="error-429", input="One more?")
        except openai.RateLimitError as error:
            body: Any = error.body
            return Shown(_row_of(error.response), error.status_code, str(body["message"]), 0)
        raise RuntimeError("the model was not busy")

    async def _cut(self) -> Shown:
        create = self._client.responses.with_raw_response.create
        raw = await create(model="cut", input="Are you there?", stream=True)
        events = [event async for event in raw.parse()]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        # the client cannot know: its stream ended without a word
        return Shown(_row_of(raw), HTTPStatus.BAD_GATEWAY, text, 0)

    # -- what is there afterwards

    async def _listing(self) -> Line:
        page = await self._client.get("/responses?limit=100", cast_to=dict[str, Any])
        listed = [item["id"] for item in page["data"]]
        expected = [f"resp_{row}" for row in reversed(self._answered)]
        fault = "" if listed == expected else f"{listed}, not {expected}"
        return Line("GET /v1/responses", f"{len(listed)} responses, newest first", "", "all", fault)

    async def _input_items(self) -> Line:
        items: Any = [item async for item in self._client.responses.input_items.list(f"resp_{self._answered[0]}")]
        said = items[0].content[0].text
        fault = "" if said == QUESTION else f"{said}, not {QUESTION}"
        return Line("responses.input_items.list", said, "", "the first", fault)

    async def _deletion(self) -> Line:
        row = self._answered[0]
        await self._client.responses.delete(f"resp_{row}")
        try:
            await self._client.responses.retrieve(f"resp_{row}")
            fault = "the response is still found"
        except openai.NotFoundError:
            kept = await self._store.get_request(row, consistent=True)
            fault = "" if kept is None else "the row is still there"
        return Line("responses.delete", "and a 404 from then on", "", "gone", fault)


def _row_of(answer: Any) -> uuid.UUID:
    return uuid.UUID(answer.headers["x-rwriter-id"].removeprefix("resp_"))


def _shown(raw: Any, response: Response) -> Shown:
    # a background response is answered with 202, and its row tells how it ended
    status = HTTPStatus.OK if response.status == "completed" else raw.status_code
    return Shown(_row_of(raw), status, response.output_text, _tokens(response))


def _chat_shown(raw: Any, text: str | None, usage: Any) -> Shown:
    return Shown(_row_of(raw), raw.status_code, text or "", usage.total_tokens)


def _said(found: Response, row: RequestDetail) -> str:
    calls = [f"{item.name}({item.arguments})" for item in found.output if item.type == "function_call"]
    if row.path == "/v1/embeddings":
        return f"{len(json.loads(row.response_body or '')['data'])} vectors"
    if calls or found.output_text:
        return found.output_text or ", ".join(calls)
    return str(found.status) if found.status == "cancelled" or found.error is None else found.error.message


def _tokens(response: Response) -> int:
    return 0 if response.usage is None else response.usage.total_tokens
