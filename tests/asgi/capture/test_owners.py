"""The owner of a call is found out after the client has its answer, and a call without one is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from rwriter import RequestStore, RequestsWriter
from rwriter._values import keys as _keys
from rwriter.asgi import CaptureMiddleware, attribute_from_state
from rwriter.asgi._attribution import LOOKUPS, Attribution, api_key_of
from rwriter.asgi._capture import recorder as recorder_module
from rwriter.asgi._capture.budget import CALL_BYTES, STEP
from rwriter.asgi._types import Receive, Scope, Send
from rwriter.schema import request_templates
from rwriter.testing import TestDbEngines
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import KEY, OWNER, Exchange, owners, read, say
from tests.support.driving import eventually


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    await say(send, b"{}")


def scope_with(*headers: tuple[bytes, bytes], **state: str) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers), "state": state}


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ((b"Authorization", b"Bearer sk-1"), "sk-1"),
        ((b"authorization", b"bearer   sk-1 "), "sk-1"),
        ((b"x-api-key", b"sk-1"), "sk-1"),
        ((b"api-key", b"sk-1"), "sk-1"),
        ((b"x-goog-api-key", b"sk-1"), "sk-1"),
        ((b"authorization", b" sk-1"), "sk-1"),
        ((b"authorization", b"Basic sk-1"), None),
        ((b"authorization", b"Bearer "), None),
        ((b"x-api-key", b" "), None),
        ((b"cookie", b"sk-1"), None),
        ((b"x-api-key", b"\xff\xfe"), "ÿþ"),
    ],
)
def test_a_key_is_where_the_official_clients_put_it(header: tuple[bytes, bytes], key: str | None) -> None:
    assert api_key_of(scope_with(header)) == key


async def test_calls_of_nobody_are_dropped_and_counted_by_reason(capture: Capture, rows: Rows) -> None:
    middleware = capture(answering)
    for key in (None, None, "sk-stranger", KEY):
        exchange = await Exchange(middleware, key=key).run()
        assert exchange.status == 200
    assert (await rows.one(middleware)).created_by == OWNER
    stats = middleware.stats
    assert (stats.tracked, stats.recorded) == (4, 1)
    assert stats.dropped == {"missing_api_key": 2, "unknown_api_key": 1}


async def test_the_answer_does_not_wait_for_the_lookup(capture: Capture, rows: Rows) -> None:
    async def slow(api_key: str, scope: Scope) -> str:
        await lookup.wait()
        return "slow"

    lookup = asyncio.Event()
    middleware = capture(answering, attribute=slow)
    await Exchange(middleware).run()
    assert (middleware.stats.running, middleware.stats.pending, middleware.stats.recorded) == (0, 1, 0)
    lookup.set()
    assert (await rows.one(middleware)).created_by == "slow"


async def test_a_lookup_that_fails_is_repeated_and_is_no_unknown_key(
    capture: Capture, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flaky(api_key: str, scope: Scope) -> str:
        asked.append(api_key)
        if len(asked) < 4:
            raise ConnectionError(api_key)
        return OWNER

    asked: list[str] = []
    monkeypatch.setattr(recorder_module, "RETRY_BASE_DELAY", 0.001)
    middleware = capture(answering, attribute=flaky)
    await Exchange(middleware).run()
    assert (await rows.one(middleware)).created_by == OWNER
    assert asked == [KEY] * 4
    assert middleware.stats.dropped == {}


async def test_a_lookup_that_goes_on_failing_is_given_up_and_counted_without_the_key_in_the_log(
    capture: Capture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(api_key: str, scope: Scope) -> str:
        raise ConnectionError(api_key)

    monkeypatch.setattr(recorder_module, "RETRY_BASE_DELAY", 0.001)
    middleware = capture(answering, attribute=broken, attribution_timeout=0.05)
    await Exchange(middleware).run()
    await eventually(lambda: middleware.stats.dropped == {"attribution_failed": 1})
    assert "ConnectionError" in caplog.text
    assert KEY not in caplog.text


async def test_the_owner_may_be_what_the_app_found_out_itself(capture: Capture, rows: Rows) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["tenant"] = (await read(receive)).decode()
        await say(send, b"{}")

    middleware = capture(app, attribute=attribute_from_state("tenant"))
    for name in (b"t-1", b"t-2", b" "):
        await Exchange(middleware, name, key=None if name == b"t-2" else KEY, path="/v1/messages").run()
    assert [row.created_by for row in await rows.all(middleware)] == ["t-1", "t-2"]
    assert middleware.stats.dropped == {"unknown_api_key": 1}


async def test_an_owner_is_asked_for_once_and_remembered_for_a_while() -> None:
    asked: list[str] = []

    def attribute(api_key: str, scope: Scope) -> str | None:
        asked.append(api_key)
        return owners(api_key, scope)

    now = [0.0]
    attribution = Attribution(attribute, ttl=100, negative_ttl=10, max_entries=2, clock=lambda: now[0])
    alice, stranger, bob = (scope_with((b"x-api-key", key)) for key in (KEY.encode(), b"sk-no", b"sk-bob"))

    async def ask(scope: Scope) -> tuple[str | None, int]:
        return await attribution.owner(scope), len(asked)

    assert [await ask(alice), await ask(alice)] == [(OWNER, 1), (OWNER, 1)]
    assert [await ask(stranger), await ask(stranger)] == [(None, 2), (None, 2)]
    now[0] = 10.0
    assert [await ask(stranger), await ask(alice)] == [(None, 3), (OWNER, 3)]
    assert await ask(bob) == ("bob", 4)
    assert await ask(alice) == (OWNER, 4)
    now[0] = 111.0
    assert await ask(alice) == (OWNER, 5)


async def test_keys_made_up_push_no_owner_out() -> None:
    asked: list[str] = []

    def attribute(api_key: str, scope: Scope) -> str | None:
        asked.append(api_key)
        return owners(api_key, scope)

    attribution = Attribution(attribute, max_entries=2)
    alice = scope_with((b"x-api-key", KEY.encode()))
    assert await attribution.owner(alice) == OWNER
    for number in range(10):
        assert await attribution.owner(scope_with((b"x-api-key", b"made-up-%d" % number))) is None
    assert await attribution.owner(alice) == OWNER
    assert asked.count(KEY) == 1


@pytest.mark.parametrize("pepper", [None, "a pepper of sixteen bytes"])
async def test_a_stored_digest_is_a_key_like_any_other(pepper: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_keys, "_keys", type(_keys._keys)())
    if pepper is not None:
        _keys.use_key_pepper(pepper)
    attribution = Attribution(owners)
    alice, thief = (scope_with((b"x-api-key", key.encode())) for key in (KEY, str(_keys.digest(KEY))))
    assert [await attribution.owner(scope) for scope in (thief, alice, thief)] == [None, OWNER, None]


async def test_each_key_of_a_request_is_asked_for_until_one_is_known() -> None:
    asked: list[str] = []

    def attribute(api_key: str, scope: Scope) -> str | None:
        asked.append(api_key)
        return owners(api_key, scope)

    attribution = Attribution(attribute)
    pairs = [
        (b"x-goog-api-key", KEY.encode()), (b"api-key", b"k-3"), (b"x-api-key", b"k-2"), (b"x-api-key", b"k-9"),
        (b"Authorization", b"Bearer k-2"),
    ]  # fmt: skip
    for _ in range(2):
        found = await attribution.find(scope_with(*pairs))
        assert found is not None
        assert (found.created_by, found.api_key) == (OWNER, _keys.digest(KEY))
    assert asked == ["k-2", "k-3", KEY]


async def test_the_key_of_a_row_is_the_one_that_found_its_owner(
    capture: Capture, rows: Rows, rwriter_engines: TestDbEngines
) -> None:
    middleware = capture(answering)
    await Exchange(middleware, key="another's token", headers=[(b"x-api-key", KEY.encode())]).run()
    assert (await rows.one(middleware)).created_by == OWNER
    async with rwriter_engines.write.connect() as connection:
        assert (await connection.execute(select(request_templates.c.api_key))).scalar_one() == _keys.digest(KEY)


async def test_a_lookup_that_does_not_end_is_given_up_for_each_that_waits() -> None:
    async def attribute(api_key: str, scope: Scope) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    attribution = Attribution(attribute, timeout=0.01)
    scope = scope_with((b"x-api-key", b"k"))
    ended = await asyncio.gather(*(attribution.owner(scope) for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ended] == [TimeoutError] * 5


async def test_lookups_in_flight_are_bounded() -> None:
    async def attribute(api_key: str, scope: Scope) -> str:
        running.append(api_key)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(api_key)
        return OWNER

    running: list[str] = []
    most: list[int] = []
    attribution = Attribution(attribute)
    scopes = [scope_with((b"x-api-key", b"k-%d" % number)) for number in range(2 * LOOKUPS)]
    assert set(await asyncio.gather(*map(attribution.owner, scopes))) == {OWNER}
    assert max(most) == LOOKUPS


async def test_with_no_time_to_live_every_call_asks_with_its_own_scope() -> None:
    attribution = Attribution(lambda _key, scope: scope["path"], ttl=0)
    for path in ("/a", "/b"):
        assert await attribution.owner(scope_with((b"x-api-key", b"k")) | {"path": path}) == path


async def test_with_no_time_to_live_calls_do_not_wait_for_each_other() -> None:
    async def attribute(api_key: str, scope: Scope) -> str:
        async with asyncio.timeout(20):
            await together.wait()
        return OWNER

    together = asyncio.Barrier(3)
    attribution = Attribution(attribute, ttl=0)
    scope = scope_with((b"x-api-key", b"k"))
    assert await asyncio.gather(*(attribution.owner(scope) for _ in range(3))) == [OWNER] * 3


async def test_an_unknown_key_is_asked_for_again_where_it_is_not_to_be_remembered() -> None:
    asked: list[str] = []

    def attribute(api_key: str, scope: Scope) -> str | None:
        asked.append(api_key)
        return None if len(asked) == 1 else OWNER

    attribution = Attribution(attribute, negative_ttl=0)
    scope = scope_with((b"x-api-key", b"k"))
    assert [await attribution.owner(scope) for _ in range(3)] == [None, OWNER, OWNER]
    assert len(asked) == 2


async def test_a_failure_is_not_remembered() -> None:
    async def attribute(api_key: str, scope: Scope) -> str:
        if not tried:
            tried.append(1)
            raise ConnectionError
        return "  owner  "

    tried: list[int] = []
    attribution = Attribution(attribute)
    scope = scope_with((b"x-api-key", b"k"))
    with pytest.raises(ConnectionError):
        await attribution.owner(scope)
    assert await attribution.owner(scope) == "owner"


async def test_many_calls_with_one_new_key_ask_once() -> None:
    async def attribute(api_key: str, scope: Scope) -> str:
        asked.append(api_key)
        await asyncio.sleep(0)
        return OWNER

    asked: list[str] = []
    attribution = Attribution(attribute)
    scope = scope_with((b"x-api-key", b"k"))
    assert await asyncio.gather(*(attribution.owner(scope) for _ in range(50))) == [OWNER] * 50
    assert asked == ["k"]


@pytest.mark.parametrize("answer", [7, b"alice", "x" * 513])
async def test_an_owner_that_no_row_can_have_is_an_error_of_the_services(answer: object) -> None:
    attribution = Attribution(lambda _key, _scope: answer)  # type: ignore[arg-type,return-value]
    with pytest.raises((TypeError, ValueError), match="attribute"):
        await attribution.owner(scope_with((b"x-api-key", b"k")))


async def test_calls_past_the_bound_are_dropped_and_counted(capture: Capture, rows: Rows) -> None:
    async def slow(api_key: str, scope: Scope) -> str:
        await lookup.wait()
        return OWNER

    lookup = asyncio.Event()
    middleware = capture(answering, attribute=slow, max_pending_bytes=2 * CALL_BYTES + STEP)
    for _ in range(5):
        exchange = await Exchange(middleware, b"x" * 400, path="/v1/messages").run()
        assert (exchange.status, exchange.body) == (200, b"{}")
    assert middleware.stats.pending == 3
    assert middleware.stats.dropped == {"overloaded": 2}
    lookup.set()
    assert len(await rows.all(middleware)) == 3
    for _ in range(5):
        await Exchange(middleware, b"x" * 400, path="/v1/messages").run()
        await middleware.aclose()
    assert len(await rows.all(middleware)) == 8, "room is given back"


async def test_a_closed_writer_is_counted_not_raised(capture: Capture, writer: RequestsWriter) -> None:
    await writer.aclose()
    middleware = capture(answering)
    exchange = await Exchange(middleware).run()
    assert exchange.status == 200
    await eventually(lambda: middleware.stats.dropped == {"writer_closed": 1})


async def test_shutdown_waits_for_lookups_up_to_its_deadline(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(api_key: str, scope: Scope) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    from rwriter.asgi._capture import middleware as capture_module

    monkeypatch.setattr(capture_module, "RECORD_GRACE", 0.01)
    middleware = capture(answering, attribute=never)
    await Exchange(middleware).run()
    await middleware.aclose(timeout=0.01)
    stats = middleware.stats
    assert (stats.pending, stats.dropped) == (0, {"shutdown": 1})


async def test_the_lifespan_drains_before_the_apps_own_shutdown_closes_the_writer(store: RequestStore) -> None:
    order: list[str] = []

    async def slow(api_key: str, scope: Scope) -> str:
        await lookup.wait()
        order.append("attributed")
        return OWNER

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await answering(scope, receive, send)
            return
        async with writer:
            assert (await receive())["type"] == "lifespan.startup"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            order.append("app shuts down")
        await send({"type": "lifespan.shutdown.complete"})

    lookup = asyncio.Event()
    writer = RequestsWriter(store)
    middleware = CaptureMiddleware(app, writer, attribute=slow)
    messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    heard: list[str] = []

    async def send(message: object) -> None:
        heard.append(message["type"])  # type: ignore[index]

    lifespan = asyncio.create_task(middleware({"type": "lifespan"}, messages.get, send))
    await messages.put({"type": "lifespan.startup"})
    await eventually(lambda: heard == ["lifespan.startup.complete"])
    await Exchange(middleware).run()
    await messages.put({"type": "lifespan.shutdown"})
    await asyncio.sleep(0)
    lookup.set()
    await lifespan
    assert order == ["attributed", "app shuts down"]
    assert [row.created_by for row in (await store.list_requests()).data] == [OWNER]
