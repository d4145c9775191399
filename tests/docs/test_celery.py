"""The page's tasks under a real Celery worker with forked processes, told to end as by a deploy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, files
from tests.support.driving import eventually
from tests.support.migrations import column
from tests.support.redis_server import redis

PAGE = ROOT / "docs/how-to/celery.md"
TASKS = 20

ENQUEUE = f"""
from tasks import summarize
for number in range({TASKS}):
    summarize.delay(str(number))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="Celery needs a broker: redis-server")
async def test_what_the_tasks_of_a_worker_sent_is_stored_when_it_is_told_to_end(
    tmp_path: Path, rwriter_database: str
) -> None:
    code = files(PAGE)["tasks.py"]
    assert "ThreadedWriter()" in code
    # nothing is stored before the end: only closing the writers does it
    (tmp_path / "tasks.py").write_text(code.replace("ThreadedWriter()", "ThreadedWriter(linger=600)"))
    with redis(tmp_path) as broker:
        environment = os.environ | {"RWRITER_DATABASE_URL": rwriter_database, "BROKER_URL": broker}
        command = [
            sys.executable,
            "-m",
            "celery",
            "--app",
            "tasks",
            "worker",
            "--pool",
            "prefork",
            "--concurrency",
            "2",
        ]
        log = tmp_path / "log"
        with log.open("w") as output:
            worker = subprocess.Popen(
                [*command, "--loglevel", "info"], cwd=tmp_path, env=environment, stdout=output, stderr=output
            )
        try:
            enqueue = [sys.executable, "-c", ENQUEUE]
            await asyncio.to_thread(subprocess.run, enqueue, cwd=tmp_path, env=environment, check=True)
            await eventually(lambda: log.read_text().count("succeeded") == TASKS, within=60)
            assert await column(rwriter_database, "SELECT id FROM requests") == []
        finally:
            worker.send_signal(signal.SIGTERM)
            code_of_exit = await asyncio.to_thread(worker.wait, 60)
    assert code_of_exit == 0, log.read_text()
    found = await column(rwriter_database, "SELECT body FROM request_templates ORDER BY body::int")
    assert found == [str(number) for number in range(TASKS)]
