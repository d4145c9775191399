"""The page's Django project under gunicorn, and its test under pytest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docs.pages import ROOT, files
from tests.docs.test_flask import gunicorn
from tests.support.driving import eventually
from tests.support.migrations import column, run

PAGE = ROOT / "docs/how-to/django.md"


def write(folder: Path) -> None:
    written = files(PAGE)
    assert {"settings.py", "wsgi.py", "recording.py", "urls.py", "gunicorn.conf.py"} < set(written)
    for name, code in written.items():
        (folder / name).write_text(code)


@pytest.mark.slow
async def test_a_view_is_recorded_and_read_back_by_another(tmp_path: Path, rwriter_database: str) -> None:
    write(tmp_path)
    headers = {"Authorization": "Bearer sk-test"}

    async def read(client: httpx.AsyncClient, request_id: str) -> Any:
        found = await client.get(f"/calls/{request_id}")
        return found.json() if found.status_code == 200 else None

    async with gunicorn(tmp_path, rwriter_database, application="wsgi:application") as client:
        sent = []
        for _ in range(20):
            answer = await client.post("/v1/chat/completions", json={"model": "m"}, headers=headers)
            assert answer.status_code == 200
            sent.append(answer.headers["x-rwriter-id"].removeprefix("resp_"))
        await eventually(lambda: read(client, sent[0]))
        seen = await read(client, sent[0])
    assert (seen["state"], seen["model"], seen["response"]["id"]) == ("completed", "m", "chatcmpl-1")
    # the rest when the workers ended
    assert sorted(await column(rwriter_database, "SELECT id::text FROM requests")) == sorted(sent)


@pytest.mark.slow
def test_the_test_of_the_page_passes(tmp_path: Path, rwriter_postgres: str) -> None:
    write(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert "1 passed" in run(*command, cwd=tmp_path, RWRITER_TEST_DATABASE_URL=rwriter_postgres).stdout
