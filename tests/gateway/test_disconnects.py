"""Clients that leave, over real sockets: before the headers, in the middle of a stream, and after the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from examples.gateway.serving import Serving
from rwriter import RequestStore
from tests.gateway.watching import Keys, Watched, body_of, rows_of, stored


class Line:
    """One connection, on which everything is done by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._key = key
        self.fields: dict[str, str] = {}
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self._key}\r\n"
        self._writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await self._writer.drain()

    async def head(self) -> tuple[int, uuid.UUID]:
        """The status, and the row's id."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.splitlines()
        self.fields = dict(line.lower().split(": ", 1) for line in lines if line)
        return int(status.split()[1]), uuid.UUID(self.fields["x-rwriter-id"].removeprefix("resp_"))

    async def body(self) -> bytes:
        """All of a body that has a length."""
        return await self._reader.readexactly(int(self.fields["content-length"]))

    async def chunk(self) -> bytes:
        """The next chunk of the body; empty at its end."""
        size = int(await self._reader.readline(), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    def leave(self, *, abruptly: bool) -> None:
        """Close it: in good order, or as a killed process' kernel does."""
        if abruptly:
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.close()


@contextlib.asynccontextmanager
async def _connected(gateway: Serving, keys: Keys) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    yield Line(reader, writer, keys.amber)
    writer.close()


STREAMED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"input": "the question"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "the question"}]}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "the question"}], "max_tokens": 99}),
]


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_before_the_headers(
    gateway: Serving, keys: Keys, store: RequestStore, watched: Watched, *, abruptly: bool
) -> None:
    question = f"nobody waits for this {uuid.uuid4()}"
    asked = {"model": "slow-1", "input": question}
    async with _connected(gateway, keys) as line:
        await line.post("/v1/responses", asked)
        await watched.has_heard(question)
        line.leave(abruptly=abruptly)
        [row] = await rows_of(store, keys.amber)
    assert (row.status, row.response_status, row.model) == ("failed", 499, "slow-1")
    assert json.loads(row.body) == asked
    assert body_of(row)["error"]["type"] == "client_disconnected"


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize(("path", "asked"), STREAMED)
async def test_a_client_that_leaves_in_the_middle_of_a_stream(
    gateway: Serving, keys: Keys, store: RequestStore, path: str, asked: dict[str, Any], *, abruptly: bool
) -> None:
    heard = b""
    async with _connected(gateway, keys) as line:
        await line.post(path, asked | {"model": "slow-60", "stream": True})
        status, row_id = await line.head()
        # the model is silent after half of its answer, which ends with these words
        while b"question" not in heard:
            heard += await line.chunk()
        line.leave(abruptly=abruptly)
        row = await stored(store, row_id)
    assert status == 200
    assert (row.status, row.response_status) == ("failed", 499)
    part = body_of(row)
    assert part["error"]["type"] == "client_disconnected"
    text = _text(part)
    assert text.startswith("You said: the question")
    # the other half was never sent
    assert "heard" not in text


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize(("path", "asked"), STREAMED)
async def test_a_client_that_leaves_after_the_end(
    gateway: Serving, keys: Keys, store: RequestStore, path: str, asked: dict[str, Any], *, abruptly: bool
) -> None:
    async with _connected(gateway, keys) as line:
        await line.post(path, asked | {"model": "gpt-5", "stream": True})
        _, row_id = await line.head()
        while await line.chunk():
            pass
        line.leave(abruptly=abruptly)
        row = await stored(store, row_id)
    assert (row.status, row.response_status) == ("completed", 200)
    assert _text(body_of(row)).endswith("all of them heard.")


@pytest.mark.parametrize(("path", "asked"), STREAMED)
async def test_a_client_that_leaves_at_the_end_marker(
    gateway: Serving, keys: Keys, store: RequestStore, path: str, asked: dict[str, Any]
) -> None:
    heard = b""
    async with _connected(gateway, keys) as line:
        await line.post(path, asked | {"model": "linger-60", "stream": True})
        _, row_id = await line.head()
        # the connection stays open: the last word is what a client goes by
        while not any(marker in heard for marker in (b"[DONE]", b"message_stop", b"response.completed")):
            heard += await line.chunk()
        line.leave(abruptly=False)
        row = await stored(store, row_id)
    assert (row.status, row.response_status) == ("completed", 200)
    assert _text(body_of(row)).endswith("all of them heard.")


async def test_a_client_that_leaves_after_a_plain_answer(gateway: Serving, keys: Keys, store: RequestStore) -> None:
    async with _connected(gateway, keys) as line:
        await line.post("/v1/responses", {"model": "gpt-5", "input": "the question"})
        status, row_id = await line.head()
        await line.body()
        line.leave(abruptly=True)
        row = await stored(store, row_id)
    assert (status, row.status, row.response_status) == (200, "completed", 200)


async def test_a_stream_passes_on_as_it_comes_and_ends_with_its_client(
    gateway: Serving, keys: Keys, watched: Watched
) -> None:
    question = str(uuid.uuid4())
    async with _connected(gateway, keys) as line:
        messages = [{"role": "user", "content": question}]
        await line.post("/v1/chat/completions", {"model": "slow-60", "stream": True, "messages": messages})
        await line.head()
        # a gateway that collected the stream first would keep this waiting for a minute
        async with asyncio.timeout(20):
            assert (await line.chunk()).startswith(b"data: {")
        line.leave(abruptly=True)
        # the model server is not left talking to nobody
        await watched.is_rid_of(question)


def _text(body: dict[str, Any]) -> str:
    """The words in a stored answer of any of the three kinds."""
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    content = body["output"][0]["content"] if "output" in body else body["content"]
    return str(content[0]["text"])
