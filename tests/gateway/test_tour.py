"""The tour: it runs, it shows every call, and it says so when a row is not what the client saw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from examples.gateway import model_server, tour
from examples.gateway.app import make_app, models_at
from examples.gateway.model_server import KEY
from examples.gateway.serving import Serving
from rwriter import DbEngines
from rwriter.pytest_plugin import Databases

ROOT = Path(__file__).parents[2]

# a database that is not told the truth
LIE = """
CREATE FUNCTION lie() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.response_body = replace(NEW.response_body, 'Hello!', 'Goodbye!'); RETURN NEW; END $$
"""
LYING = "CREATE TRIGGER lie BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION lie()"


@pytest.fixture
def database(_rwriter_databases: Databases) -> Iterator[str]:
    """One of this test's own."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    yield _rwriter_databases.url(name)
    _rwriter_databases.drop(name)


def test_the_tour_ends_well() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "examples.gateway"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert "13 calls of the official client: each is found again as the client saw it" in result.stdout
    for words in ("completed 200", "failed 429", "failed 499", "failed 502", 'weather({"city":"Trondheim"})'):
        assert words in result.stdout
    assert "WRONG" not in result.stdout


async def test_a_row_that_is_not_what_the_client_saw_is_told(
    models: Serving, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with DbEngines.from_url(database) as engines, engines.write.begin() as connection:
        for statement in (LIE, LYING):
            await connection.execute(text(statement))
    app = make_app(database_url=database, models=models_at(models.url, key=KEY), tenants=tour.TENANTS)
    with Serving(app) as server:
        lines = await tour.visit(server.url, database)
    assert tour.show(lines) == 1
    printed = capsys.readouterr().out
    assert "13 calls of the official client: 1 are NOT what the client saw" in printed
    assert "You said: Goodbye!" in printed
    assert [line.call for line in lines if line.fault] == ["chat.completions.create"]


def test_an_application_that_does_not_start_is_told() -> None:
    async def broken(scope: object, receive: object, send: object) -> None:
        raise ValueError("no configuration")

    with pytest.raises(RuntimeError, match="did not start"), Serving(broken):
        pass


def test_a_server_that_was_left_takes_no_calls() -> None:
    with Serving(model_server.app) as server:
        assert httpx.get(server.url).status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)
