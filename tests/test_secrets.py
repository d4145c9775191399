"""No body and no key is shown by whatever prints an object of the library, an error or the variables of a traceback."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import rwriter
from rwriter import CompletedRequest, DbEngines, NewRequest, RequestStore
from rwriter._values.guarded import Guarded
from rwriter._values.keys import KeyDigest, digest
from rwriter.asgi._attribution import Attributed
from rwriter.asgi._capture.call import Owner
from rwriter.asgi._capture.endings import Failure
from rwriter.asgi._capture.facts import Asked, Said
from rwriter.demo._traffic import Pair
from rwriter.engines._urls import read_url
from rwriter.spool import SpooledRecord
from rwriter.store import DeadLetter, DeadLetters, RequestPage
from rwriter.testing import TestDbEngines
from rwriter.writer._pending import PendingRecord
from tests.support.faults import refuse_bad_bodies
from tests.support.records import new_request, record

KEY = "sk-KEYMARKER"
BODY = "BODYMARKER"
TELLING = {"body", "request_body", "response_body", "error", "api_key", "payload", "data", "choices", "message"}
"""Names of fields that hold a body, a part of one or a key."""


def shown(value: object) -> str:
    return "\n".join([repr(value), str(value), f"{value}", pretty_repr(value), pretty_repr([value]), repr({1: value})])


def structs() -> Iterator[type[msgspec.Struct]]:
    for module in pkgutil.walk_packages(rwriter.__path__, "rwriter."):
        if module.name.endswith("__main__") or ".migrations" in module.name or "litellm" in module.name:
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.name:
                yield value


def test_every_struct_that_holds_a_body_or_a_key_names_what_it_shows() -> None:
    holders = {kind for kind in structs() if TELLING & set(kind.__struct_fields__)}
    assert {CompletedRequest, NewRequest, DeadLetter} <= holders
    # a digest and a summary show nothing of theirs; what a Health and a Finding say is made of classes and SQLSTATEs
    harmless = {"Attributed", "Owner", "RequestPage", "Health", "Finding"}
    assert {kind.__name__ for kind in holders if not issubclass(kind, Guarded)} == harmless
    assert not any(TELLING & set(kind.__shown__) for kind in holders if issubclass(kind, Guarded))


def test_whatever_holds_a_record_or_a_key_shows_neither() -> None:
    item = record(request_body=BODY, response_body=BODY, api_key=KEY)
    line: dict[str, Any] = dict.fromkeys(("offset_ms", "duration_ms", "status_code"), 1) | {
        "realtime": False,
        "request_id": "x",
    }
    line |= dict.fromkeys(("endpoint", "model", "created_by"), "x")
    holders: list[Any] = [
        item,
        new_request(body=BODY, api_key=KEY),
        PendingRecord(item, 1, 1, 0.0),
        SpooledRecord(1, item, 0.0),
        Attributed("tenant", digest(KEY)),
        Owner("tenant", digest(KEY), store_no_bodies=False),
        Asked(model=BODY, metadata={"a": BODY}),
        Said(model=BODY, choices=msgspec.Raw(BODY.encode())),
        Failure(500, "server_error", BODY),
        Pair(**line, api_key=KEY, request_body=BODY, response_body=BODY),
        read_url(f"postgresql://me:{KEY}@localhost/db"),
    ]
    for holder in holders:
        said = shown(holder)
        assert BODY not in said
        assert KEY not in said
        assert item.api_key[8:] not in said


def test_a_digest_is_a_text_like_any_other_but_for_its_repr() -> None:
    known = digest(KEY)
    assert isinstance(known, KeyDigest)
    assert f"{known}" == str(known) == "sha256:" + known[7:]
    assert repr(known) == "KeyDigest(...)"


async def test_what_the_store_returns_shows_no_body(store: RequestStore, rwriter_engines: TestDbEngines) -> None:
    item = record(request_body=BODY, response_body=BODY, status_code=500, api_key=KEY)
    await store.persist_completed([item])
    await store.bury(item, sqlstate=None, error=BODY)
    detail, page = await store.get_request(item.request_id), await store.list_requests()
    assert detail is not None
    assert detail.body == BODY
    assert isinstance(page, RequestPage)
    for value in (detail, page, page.data[0]):
        assert BODY not in shown(value)
    await RequestStore(rwriter_engines).bury(item, sqlstate=None, error=BODY)
    (letter,) = await DeadLetters(rwriter_engines).listing()
    assert letter.error == BODY
    assert BODY not in shown(letter)


# -- tracebacks with local variables


def frames(exc: BaseException | None) -> Iterator[types.FrameType]:
    while exc is not None:
        for frame, _ in traceback.walk_tb(exc.__traceback__):
            if frame.f_globals.get("__name__") != __name__:
                yield frame
        exc = exc.__cause__ or exc.__context__


def locals_of(exc: BaseException) -> str:
    """Return what a printer of tracebacks with local variables has to show, of all frames but this file's."""
    values = [value for frame in frames(exc) for value in frame.f_locals.values()]
    return "\n".join([*map(repr, values), *map(pretty_repr, values)])


@pytest.mark.parametrize("make", [record, new_request])
@pytest.mark.parametrize("wrong", [{"created_by": " "}, {"request_id": 1}, {"model": 7}, {"api_key": KEY.encode()}])
def test_a_refused_constructor_shows_no_body_and_no_key(make: Any, wrong: dict[str, Any]) -> None:
    bodies = ("request_body", "response_body") if make is record else ("body",)
    for changes in (wrong, *({body: BODY.encode()} for body in bodies)):
        with pytest.raises((TypeError, ValueError)) as caught:
            make(**dict.fromkeys(bodies, BODY) | {"api_key": KEY} | changes)
        inner = caught.value.__traceback__
        while inner is not None and "rwriter" not in inner.tb_frame.f_globals.get("__name__", ""):
            inner = inner.tb_next
        caught.value.__traceback__ = inner
        assert BODY not in locals_of(caught.value)
        assert KEY not in locals_of(caught.value)


def test_a_body_over_the_limit_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwriter.records.BODY_LIMIT", 8)
    with pytest.raises(ValueError, match="at most 8 bytes") as caught:
        CompletedRequest(
            **{name: getattr(record(), name) for name in record().__struct_fields__} | {"request_body": BODY}
        )
    assert BODY not in locals_of(caught.value)


async def test_a_refused_statement_shows_no_body(rwriter_engines: TestDbEngines) -> None:
    await refuse_bad_bodies(rwriter_engines)
    store = RequestStore(rwriter_engines)
    bad = [record(response_body="bad", request_body=BODY) for _ in range(3)]
    with pytest.raises(DBAPIError) as caught:
        await store.persist_completed(bad)
    assert BODY not in locals_of(caught.value)
    # the frames are there, without what was in them
    assert "persist_completed" in "".join(traceback.format_tb(caught.value.__traceback__))


async def test_an_engine_of_the_services_own_hides_the_parameters_of_our_statements(rwriter_database: str) -> None:
    url = rwriter_database.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, poolclass=NullPool)
    store = RequestStore(engine)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE dead_letters"))
        await connection.execute(text("ALTER TABLE requests DROP COLUMN response_body"))
    for work in (
        store.persist_completed([record(request_body=BODY, api_key=KEY)]),
        store.bury(record(request_body=BODY), sqlstate=None, error=BODY),
    ):
        with pytest.raises(DBAPIError) as caught:
            await work
        assert BODY not in str(caught.value) + repr(caught.value)
    assert not engine.sync_engine.hide_parameters
    await engine.dispose()


@pytest.mark.parametrize("where", ["127.0.0.1:1", "/no-such-folder"])
async def test_a_database_that_is_not_reached_shows_no_password(where: str) -> None:
    url = f"postgresql://me:{KEY}@" + (f"{where}/db" if ":" in where else f"/db?host={where}")
    async with DbEngines.from_url(url) as engines:
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)) as caught:
            await RequestStore(engines).check_schema()
    assert KEY not in locals_of(caught.value)


async def test_a_refused_password_is_not_shown(rwriter_database: str) -> None:
    url = make_url(rwriter_database).set(username="no_such_role", password=KEY)
    async with DbEngines.from_url(url) as engines:
        with pytest.raises(Exception, match="no_such_role") as caught:
            await RequestStore(engines).get_request(record().request_id)
    assert KEY not in locals_of(caught.value)
