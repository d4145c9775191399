"""The page's Flask application under a real gunicorn, with two workers: each call leaves a row that can be read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from rwriter.testing import TestDbEngines
from tests.docs.pages import ROOT, files
from tests.support.driving import eventually

PAGE = ROOT / "docs/how-to/threads.md"
CALLS = 40


@contextlib.asynccontextmanager
async def gunicorn(
    folder: Path, url: str, *options: str, application: str = "app:app"
) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application of the page; at the end tell gunicorn to end, and wait until it has."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--workers", "2", "--bind", f"127.0.0.1:{port}"]
    environment = os.environ | {"RWRITER_DATABASE_URL": url}
    with subprocess.Popen([*command, *options, application], cwd=folder, env=environment) as server:
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                await eventually(lambda: _answers(client))
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(server.wait, 60)
    assert code == 0


async def _answers(client: httpx.AsyncClient) -> bool:
    with contextlib.suppress(httpx.ConnectError):
        return (await client.get("/")).status_code == 404
    return False


async def respond(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/responses", json={"model": "m"}, headers={"Authorization": "Bearer sk-1"})
    assert answer.status_code == 200
    return str(answer.json()["id"]).removeprefix("resp_")


async def read(client: httpx.AsyncClient, request_id: str) -> Any:
    found = await client.get(f"/calls/{request_id}")
    return found.json() if found.status_code == 200 else None


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=str)
async def test_each_call_has_its_row_and_is_read_without_an_event_loop(
    tmp_path: Path, rwriter_engines: TestDbEngines, rwriter_database: str, options: tuple[str, ...]
) -> None:
    for name, written in files(PAGE).items():
        (tmp_path / name).write_text(written)
    async with gunicorn(tmp_path, rwriter_database, *options) as client:
        first, *others = [await respond(client) for _ in range(CALLS)]
        await eventually(lambda: read(client, first))
        seen = await read(client, first)
    assert (seen["state"], seen["model"], seen["response"]["id"]) == ("completed", "m", f"resp_{first}")
    async with rwriter_engines.read.connect() as connection:
        stored = {str(row) for row in (await connection.execute(text("SELECT id FROM requests"))).scalars()}
    assert stored == {first, *others}
