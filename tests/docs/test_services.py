"""A FastAPI and a Flask service gain rwriter in a few lines: the page's files, on the wheel, under real servers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.docs.pages import ROOT, blocks, noted
from tests.support.driving import eventually
from tests.support.migrations import column
from tests.support.wheel import Environment

PAGE: Final = ROOT / "docs/first-service.md"
MOST_LINES: Final = 15
KEY: Final = {"Authorization": "Bearer sk-test"}
SERVERS: Final = {
    "fastapi": ("uvicorn", "--port", "{port}", "service:app"),
    "flask": (
        "gunicorn",
        "--no-control-socket",
        "--preload",
        "--workers",
        "2",
        "--bind",
        "127.0.0.1:{port}",
        "service:app",
    ),
}


@dataclass
class Project:
    """The files of one service, before and after, and the lines that it gained."""

    before: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)

    def write(self, folder: Path, files: dict[str, str]) -> None:
        for name, written in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(written)


def project(framework: str) -> Project:
    """Read the files of one service from the page."""
    found = Project()
    for block in blocks(PAGE):
        _, _, name = block.note.partition("service: ")
        whose, _, file = name.partition(" ")
        if whose not in {"both", framework}:
            continue
        lines = block.code.splitlines()
        if block.language != "diff":
            lines = [f" {line}" for line in lines]
        found.before[file] = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
        found.after[file] = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
        found.added += [line[1:] for line in lines if line[:1] == "+" and line[1:].strip()]
    return found


@contextlib.contextmanager
def served(environment: Environment, framework: str, folder: Path, url: str) -> Iterator[str]:
    """Run the service under its server, and end it as a deploy does."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    name, *arguments = (argument.format(port=port) for argument in SERVERS[framework])
    with environment.start(name, *arguments, cwd=folder, RWRITER_DATABASE_URL=url) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            code = server.wait(60)
    # uvicorn ends by the signal that told it to
    assert code in {0, -15}


@pytest.mark.slow
@pytest.mark.parametrize("framework", SERVERS)
async def test_a_service_gains_rwriter_in_at_most_fifteen_lines(
    installed: Environment, tmp_path: Path, empty_database: str, rwriter_postgres: str, framework: str
) -> None:
    service = project(framework)
    assert {"service.py", "test_service.py", "migrations/env.py", "models.py"} <= set(service.after)
    assert 0 < len(service.added) <= MOST_LINES, service.added
    variables = {
        "DATABASE_URL": empty_database.replace("postgresql://", "postgresql+asyncpg://", 1),
        "RWRITER_DATABASE_URL": empty_database,
        "RWRITER_TEST_DATABASE_URL": rwriter_postgres,
    }

    def run(command: str) -> str:
        program, *arguments = command.removeprefix("python -m ").split()
        module = {"rwriter": "rwriter.cli"}.get(program, program)
        # a service's own pytest says more than errors
        done = installed.module(module, *arguments, cwd=tmp_path, code=0, warnings="default", **variables)
        return done.stdout + done.stderr

    # as it was: its own tables, its own tests
    service.write(tmp_path, service.before)
    run("alembic upgrade head")
    assert "1 passed" in run("python -m pytest")

    service.write(tmp_path, service.after)
    # the environment has the wheel by now
    said = [run(line) for line in noted(PAGE, "service: commands").splitlines() if not line.startswith("pip ")]
    assert "No new upgrade operations detected." in said[-2]
    assert "1 passed" in said[-1]

    with served(installed, framework, tmp_path, empty_database) as url:
        async with httpx.AsyncClient(base_url=url, headers=KEY, timeout=30) as client:

            async def is_up() -> bool:
                with contextlib.suppress(httpx.ConnectError):
                    return (await client.get("/")).status_code == 404
                return False

            await eventually(is_up, within=60)
            answer = await client.post("/v1/chat/completions", json={"model": "m", "messages": []})
            assert answer.status_code == 200

            async def is_found() -> bool:
                # the other worker finds it once it is stored
                return bool((await client.get("/v1/chat/completions/chatcmpl-1")).json() == answer.json())

            await eventually(is_found, within=60)
    assert await column(empty_database, "SELECT created_by || state FROM requests") == ["tenant-7completed"]


def test_the_page_says_how_many_lines_each_gains() -> None:
    numbers = {"fastapi": "Twelve", "flask": "fourteen"}
    words = {"Twelve": 12, "fourteen": 14}
    page = PAGE.read_text(encoding="utf-8")
    for framework, word in numbers.items():
        assert word in page
        assert len(project(framework).added) == words[word]
