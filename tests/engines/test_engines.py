"""Engine providers: the URLs they take, what they own, what they refuse, and what they ask of a real server."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rwriter import DbEngines, RequestStore
from rwriter._database_errors import Kind, failure_of, sqlstate_of
from rwriter.engines import schema_of
from rwriter.engines._urls import connect_arguments, read_url
from rwriter.schema import requests
from rwriter.testing import TestDbEngines
from tests.support.driving import eventually
from tests.support.faults import address_of
from tests.support.records import record
from tests.support.rows import need, rows, run_sql, sessions


@pytest.fixture
def dead_address() -> Iterator[str]:
    """A host and port where nobody listens, and nobody else will meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
async def pooled(database: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the service's own, with a pool."""
    url, connect_args = connect_arguments(database)
    engine = create_async_engine(url, connect_args={"server_settings": {"application_name": "theirs"}} | connect_args)
    yield engine
    await engine.dispose()


async def stores_a_row(engines: DbEngines) -> bool:
    store = RequestStore(engines)
    stored = record()
    await store.persist_completed([stored])
    return await store.get_request(stored.request_id) is not None


def with_scheme(scheme: str) -> Any:
    return lambda url, _dead: url.replace("postgresql://", f"{scheme}://")


def with_query(query: str) -> Any:
    return lambda url, _dead: f"{url}?{query}"


def dead_host_first(query: str) -> Any:
    return lambda url, dead: url.replace("@", f"@{dead},", 1) + query


@pytest.mark.parametrize(
    "spelled",
    [
        with_scheme("postgres"),
        with_scheme("postgresql"),
        with_scheme("postgresql+asyncpg"),
        with_query("sslmode=disable"),
        with_query("sslmode=prefer"),
        with_query("sslmode=allow"),
        with_query("connect_timeout=5"),
        with_query("target_session_attrs=primary"),
        dead_host_first(""),
        dead_host_first("?target_session_attrs=primary"),
        dead_host_first("?target_session_attrs=read-write&sslmode=disable"),
        lambda url, dead: make_url(url).set(host=None, port=None).update_query_dict(
            {"host": [dead, f"127.0.0.1:{make_url(url).port}"]}
        ).render_as_string(hide_password=False),
        lambda url, _dead: make_url(url),
        lambda url, _dead: make_url(url).set(drivername="postgresql+asyncpg"),
    ],
    ids=["postgres", "postgresql", "asyncpg", "ssl_disable", "ssl_prefer", "ssl_allow", "connect_timeout", "primary",
         "dead_host_first", "dead_host_first_and_primary", "dead_host_first_and_read_write", "sqlalchemys_own_hosts",
         "url_object", "url_object_with_driver"],
)  # fmt: skip
async def test_every_spelling_of_a_url_leads_to_the_server(
    rwriter_database: str, dead_address: str, spelled: Any
) -> None:
    async with DbEngines.from_url(spelled(rwriter_database, dead_address)) as engines:
        assert await stores_a_row(engines)


async def test_a_standby_is_not_written_to_where_a_primary_is_asked_for(
    rwriter_database: str,
) -> None:
    async with DbEngines.from_url(f"{rwriter_database}?target_session_attrs=standby") as engines:
        with pytest.raises(Exception, match="target attribute") as refused:
            await stores_a_row(engines)
    assert failure_of(refused.value) is Kind.TRANSIENT


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql://u:p@h1,h2:6000/db", {"host": ["h1", "h2"], "port": [5432, 6000]}),
        ("postgresql://h1:6000,h2", {"host": ["h1", "h2"], "port": [6000, 5432]}),
        ("postgresql://h1,h2", {"host": ["h1", "h2"], "port": [5432, 5432]}),
        ("postgresql://[::1]:6000,[fe80::2]/db", {"host": ["::1", "fe80::2"], "port": [6000, 5432]}),
        ("postgresql:///db?host=h1,h2&port=1,2", {"host": ["h1", "h2"], "port": [1, 2]}),
        ("postgresql:///db?host=h1,h2&port=7", {"host": ["h1", "h2"], "port": [7, 7]}),
        ("postgresql:///db?host=h1:1&host=h2:2", {"host": ["h1", "h2"], "port": [1, 2]}),
        ("postgresql://name:6000/db?hostaddr=10.0.0.1", {"host": "10.0.0.1", "port": 6000}),
        ("postgresql:///db?hostaddr=::1,10.0.0.1", {"host": ["::1", "10.0.0.1"], "port": [5432, 5432]}),
        ("postgresql:///db?host=/var/run/pg&port=6000", {"host": "/var/run/pg", "port": 6000}),
        ("postgresql://u@%2Fvar%2Frun%2Fpg/db", {"host": "/var/run/pg", "port": 5432}),
        ("postgres://u@h/db?sslmode=require", {"ssl": "require"}),
        ("postgres://u@h/db?sslmode=verify-full", {"ssl": "verify-full"}),
        (
            "postgres://u@h/db?sslmode=verify-ca&sslcert=/c.pem&sslkey=/k.pem&sslrootcert=/r.pem",
            {"dsn": "postgresql://?sslcert=%2Fc.pem&sslkey=%2Fk.pem&sslmode=verify-ca&sslrootcert=%2Fr.pem"},
        ),
        ("postgresql://u@h/db?application_name=svc", {"server_settings": {"application_name": "svc"}}),
        ("postgresql://u@h/db?options=-c%20geqo%3Doff", {"server_settings": {"options": "-c geqo=off"}}),
        ("postgresql://h/db?target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("postgresql://h/db?channel_binding=prefer&gssencmode=disable&sslsni=1", {}),
        ("postgresql://h/db?keepalives=1&tcp_user_timeout=5000&connect_timeout=3&pgbouncer=true", {}),
    ],
)
def test_what_libpq_reads_from_a_url_is_handed_to_the_driver(url: str, arguments: dict[str, Any]) -> None:
    made, connect_args = connect_arguments(url)
    assert (made.drivername, dict(made.query), connect_args) == ("postgresql+asyncpg", {}, arguments)


def test_what_is_not_the_drivers_is_read_for_the_library() -> None:
    read = read_url("postgresql://h/db?keepalives_idle=7&tcp_user_timeout=5000&connect_timeout=3&pgbouncer=on")
    assert (read.tcp, read.connect_timeout, read.pgbouncer) == (
        {"keepalives_idle": 7, "tcp_user_timeout": 5000},
        3.0,
        True,
    )
    plain = read_url("postgresql://h/db")
    assert (plain.tcp, plain.connect_timeout, plain.pgbouncer) == ({}, None, False)
    everything = read_url("postgresql://h?user=u&password=p%40&dbname=d").url
    assert (everything.username, everything.password, everything.database) == ("u", "p@", "d")


def test_the_roots_of_the_system_are_trusted_where_the_url_says_so() -> None:
    _, arguments = connect_arguments("postgresql://h/db?sslmode=verify-full&sslrootcert=system")
    assert isinstance(arguments["ssl"], ssl.SSLContext)
    assert arguments["ssl"].check_hostname


async def test_a_service_of_the_environment_is_read_as_one_in_the_url(
    rwriter_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = address_of(rwriter_database)
    made = make_url(rwriter_database)
    file = tmp_path / "services"
    file.write_text(f"[mine]\nhost={host}\nport={port}\ndbname={made.database}\nuser={made.username}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGSERVICE", "mine")
    async with DbEngines.from_url("postgresql://") as engines:
        assert await stores_a_row(engines)


@pytest.mark.parametrize("password", ["plain", "a,b", "a%40b", "a%2Cb%2F", "a:b", "%C3%BC,"])
@pytest.mark.parametrize("hosts", ["h", "h:6000", "h1,h2:6000"])
def test_a_password_is_read_whole_whatever_is_in_it(password: str, hosts: str) -> None:
    url, _ = connect_arguments(f"postgresql://u:{password}@{hosts}/db")
    plain = make_url(f"postgresql://u:{password}@h/db")
    assert (url.username, url.password, url.database) == (plain.username, plain.password, "db")
    assert url.host in {"h", "h1"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u@h/db", "postgresql://"),
        ("postgresql+psycopg://u@h/db", "postgresql://"),
        ("not a url", "URL"),
        ("", "URL"),
        ("postgresql://u@h:port/db", "URL"),
        ("postgresql://u@h/db?sslmode=on", "sslmode must be one of disable, allow, prefer, require"),
        ("postgresql://u@h/db?sslmode=verify-full&sslrootcert=/no/such.pem", "sslrootcert"),
        ("postgresql://u@h/db?channel_binding=require", "channel_binding"),
        ("postgresql://u@h/db?require_auth=scram-sha-256", "remove require_auth"),
        ("postgresql://u@h/db?target_session_attrs=leader", "target_session_attrs"),
        ("postgresql://u@h/db?pgbouncer=maybe", "pgbouncer must be one of"),
        ("postgresql://u@h/db?connect_timeout=soon", "connect_timeout"),
        ("postgresql://u@h/db?sslmode=require&sslrootcert=system", "sslmode=verify-full"),
        ("postgresql:///db?host=a,b,c&port=1,2", "3 hosts and 2 ports"),
        ("postgresql://u@h/db?prepare=0", "does not know: prepare"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused_at_once_and_says_why(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DbEngines.from_url(url)
    with pytest.raises(ValueError, match=message):
        DbEngines.from_url("postgresql://h/db", url)


def test_an_error_about_a_url_does_not_show_its_password() -> None:
    with pytest.raises(ValueError, match="postgresql://") as refused:
        DbEngines.from_url("mysql://user:hunter2@h/db")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [{"pool_timeout": 0}, {"connect_timeout": -1}, {"statement_timeout": float("nan")}, {"pool_size": 0},
     {"pool_size": -1}, {"max_overflow": -1}],
    ids=str,
)  # fmt: skip
def test_an_option_that_would_bound_nothing_is_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=name):
        DbEngines.from_url("postgresql://h/db", **option)


def test_the_pool_is_bounded_as_asked() -> None:
    engines = DbEngines.from_url("postgresql://h/db", "postgresql://h2/db", pool_size=3)
    for engine in (engines.write, engines.read):
        assert "Pool size: 3" in engine.pool.status()


@pytest.mark.parametrize("value", [None, "postgresql://h/db", object()], ids=["none", "url", "object"])
def test_what_is_no_engine_is_refused_with_a_hint(value: Any) -> None:
    with pytest.raises(TypeError, match="from_url"):
        DbEngines(value)
    with pytest.raises(TypeError, match="DbEngines"):
        RequestStore(value)


def test_without_a_replica_reads_go_to_the_primary(pooled: AsyncEngine) -> None:
    assert DbEngines(pooled).read is DbEngines(pooled).write is pooled


async def test_engines_handed_in_stay_open_when_the_provider_closes(pooled: AsyncEngine, engine: AsyncEngine) -> None:
    async with DbEngines(pooled, pooled):
        async with pooled.connect():
            pass
    assert await sessions(engine, "theirs") == 1
    async with pooled.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1


async def test_engines_made_from_a_url_close_their_connections(
    database: str, schema: str | None, engine: AsyncEngine
) -> None:
    async with DbEngines.from_url(database, database, schema, application_name="ours") as engines:
        assert await stores_a_row(engines)
        assert await sessions(engine, "ours") == 2

    async def none_left() -> bool:
        return await sessions(engine, "ours") == 0

    await eventually(none_left)
    await engines.aclose()


async def test_a_plain_engine_means_both_and_is_told_the_schema(
    pooled: AsyncEngine, schema: str | None, engine: AsyncEngine
) -> None:
    store = RequestStore(pooled, schema=schema)
    stored = record()
    await store.persist_completed([stored])
    assert await store.get_request(stored.request_id) is not None
    assert [row["id"] for row in await rows(engine, requests)] == [stored.request_id]
    assert schema_of(pooled) is None


async def test_an_empty_schema_is_no_schema(rwriter_database: str) -> None:
    async with DbEngines.from_url(rwriter_database, schema="") as engines:
        assert await stores_a_row(engines)


async def test_a_schema_given_to_the_store_wins_over_the_engines(database: str, engine: AsyncEngine) -> None:
    async with DbEngines.from_url(database, schema="elsewhere") as engines:
        with pytest.raises(Exception, match="elsewhere"):
            await RequestStore(engines).persist_completed([record()])
        await RequestStore(engines, schema=schema_of(engine) or "public").persist_completed([record()])
    assert len(await rows(engine, requests)) == 1


@pytest.mark.parametrize(("query", "name"), [("", "rwriter"), ("?application_name=svc", "svc")])
async def test_the_server_is_told_who_connects(rwriter_database: str, query: str, name: str) -> None:
    async with DbEngines.from_url(rwriter_database + query) as engines:
        assert await run_sql(engines.write, "SHOW application_name") == [(name,)]


def test_only_engines_with_no_pooler_in_between_are_direct() -> None:
    url = "postgresql://gateway@db/gateway"
    assert DbEngines.from_url(url).direct
    assert not DbEngines.from_url(url, pgbouncer=True).direct


async def test_commits_wait_for_the_disk_unless_told_not_to(rwriter_database: str) -> None:
    for waits, setting in ((True, "on"), (False, "off")):
        async with DbEngines.from_url(rwriter_database, synchronous_commit=waits) as engines:
            async with engines.write.connect() as connection:
                assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == setting
    with pytest.raises(ValueError, match="ALTER ROLE"):
        DbEngines.from_url(rwriter_database, pgbouncer=True, synchronous_commit=False)


async def test_the_read_engine_of_a_test_provider_refuses_writes_and_the_write_engine_does_not(
    engines: TestDbEngines,
) -> None:
    assert await run_sql(engines.read, "SHOW transaction_read_only") == [("on",)]
    assert await run_sql(engines.write, "SHOW transaction_read_only") == [("off",)]


async def test_the_store_reads_in_read_only_transactions_of_a_test_provider(rwriter_engines: TestDbEngines) -> None:
    store = RequestStore(rwriter_engines)
    async with store._connections.query(consistent=False) as connection:
        with pytest.raises(DBAPIError) as refused:
            await connection.execute(text("CREATE TABLE scratch ()"))
    assert sqlstate_of(refused.value) == "25006"


async def test_an_error_of_the_database_shows_no_body_and_no_prompt(rwriter_database: str) -> None:
    async with DbEngines.from_url(rwriter_database) as engines:
        await run_sql(engines.write, "ALTER TABLE requests ADD CONSTRAINT no_poison CHECK (model <> 'poison')")
        secret = record(model="poison", request_body="prompt-secret", response_body="answer-secret")
        with pytest.raises(Exception, match="no_poison") as refused:
            await RequestStore(engines).persist_completed([secret])
    assert "secret" not in str(refused.value)


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """A certificate authority of nobody's."""
    path = tmp_path / "ca.pem"
    subprocess.run(
        [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "key.pem"),
         "-out", str(path), "-days", "2", "-subj", "/CN=nobody"],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(path)


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(rwriter_database: str, certificate: str) -> None:
    for query in ("sslmode=require", f"sslmode=verify-ca&sslrootcert={certificate}"):
        async with DbEngines.from_url(f"{rwriter_database}?{query}") as engines:
            with pytest.raises(Exception, match="SSL"):
                await stores_a_row(engines)


async def test_a_root_certificate_does_not_turn_tls_on_where_it_is_disabled(
    rwriter_database: str, certificate: str
) -> None:
    for mode in ("disable", "prefer"):
        async with DbEngines.from_url(f"{rwriter_database}?sslmode={mode}&sslrootcert={certificate}") as engines:
            assert await stores_a_row(engines)
