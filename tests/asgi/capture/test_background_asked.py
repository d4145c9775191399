"""A request that asks for the background is known by its bytes, however the word is spelled in them."""

from __future__ import annotations

import json

import pytest

from rwriter.asgi._types import Receive, Scope, Send
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import Exchange, read, say

ANSWER = {"id": "resp_up", "object": "response", "status": "completed", "output": []}


class App:
    """Answers at once, and keeps what it read."""

    heard = b""

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        self.heard = await read(receive)
        await say(send, json.dumps(ANSWER).encode())


@pytest.mark.parametrize(
    "asked",
    [
        b'{"model":"m","background":false}',
        b'{"model":"m","background":"true"}',
        b'{"input":"\\"background\\": true"}',
        b"[",
    ],
)
async def test_other_requests_run_in_the_foreground(capture: Capture, rows: Rows, asked: bytes) -> None:
    middleware = capture(App())
    exchange = await Exchange(middleware, [asked[:3], asked[3:]]).run()
    assert (exchange.status, exchange.json) == (200, ANSWER)
    assert (await rows.one(middleware)).body == asked.decode()


@pytest.mark.parametrize(
    "asked",
    [
        b'{"model":"m","\\u0062ackground":true}',
        b'{"background":false,"model":"m","background":true}',
        b'\xef\xbb\xbf {"background" :\ttrue,"model":"m"}\n',
        b'{"model":"m","input":[NaN,1e999],"background":true}',
        b'{"model":"m","\\u0062\\u0061ckground":true,"input":"' + b"x" * 80_000 + b'"}',
        b'{"model":"m","input":["' + b"x" * 80_000 + b'",NaN],"back\\u0067round":true}',
    ],
    ids=["escaped", "the last counts", "behind a mark", "beside NaN", "escaped and large", "escaped, large, NaN"],
)
async def test_however_the_word_is_spelled_it_is_understood(capture: Capture, rows: Rows, asked: bytes) -> None:
    app = App()
    middleware = capture(app)
    exchange = await Exchange(middleware, [asked[:7], asked[7:]]).run()
    assert (exchange.status, exchange.json["background"]) == (202, True)
    assert (await rows.one(middleware)).status == "completed"
    assert b"ground" not in app.heard
