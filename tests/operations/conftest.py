"""A gateway whose metrics a real Prometheus scrapes, with the alert rules of the docs loaded."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest

from rwriter.pytest_plugin import Databases
from tests.docs.pages import ROOT
from tests.support.migrations import execute
from tests.support.rows import need

ALERTS: Final = ROOT / "docs/operations/alerts.yml"
PATIENCE: Final = 60.0

CONFIGURATION: Final = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: gateway
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    """A running server, asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self._base: Final = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return ``data`` of an answer; an error of Prometheus' fails the test with its words."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- of this host
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            if exc.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise  # it has not read its log yet
            pytest.fail(f"{parameters}: {json.load(exc).get('error')}")

    def values(self, query: str) -> list[dict[str, Any]]:
        """Return the samples that a query gives now."""
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def labels(self, metric: str) -> set[str]:
        """Return the labels that a metric has on some series; none for a metric that there is not."""
        return {label for series in self.ask("series", **{"match[]": metric}) for label in series}

    def is_ready(self) -> bool:
        """True once there are two samples of what comes last, so that there are rates."""
        try:
            return bool(self.values("rate(rwriter_captures_total[1m])") and self.values("rwriter_table_rows"))
        except OSError:
            return False


@pytest.fixture(scope="module")
def exposed(_rwriter_databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port under which ``tests.support.exposed`` tells its metrics."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    url = _rwriter_databases.url(name)
    asyncio.run(execute(url, "ALTER TABLE requests ADD CHECK (model <> 'refused')"))
    command = [sys.executable, "-W", "error", "-m", "tests.support.exposed", url, str(tmp_path_factory.mktemp("spool"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        port = running.stdout.readline()
        assert port, "the gateway ended before it told its port"
        yield int(port)
        running.stdin.close()
        assert running.wait(PATIENCE) == 0
    _rwriter_databases.drop(name)


@pytest.fixture(scope="module")
def prometheus(exposed: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the gateway at least twice."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(rules=ALERTS, port=exposed))
    port = _free_port()
    command = [
        need("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder) as running:
        try:
            yield _ready(Prometheus(port), running)
        finally:
            running.kill()


def _ready(server: Prometheus, running: subprocess.Popen[bytes]) -> Prometheus:
    deadline = time.monotonic() + PATIENCE
    while not server.is_ready():
        assert running.poll() is None, "prometheus ended: is its configuration right?"
        assert time.monotonic() < deadline, "prometheus has scraped nothing"
        time.sleep(0.05)
    return server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def promtool(*arguments: str | Path) -> str:
    """Run ``promtool`` and return what it prints; a failure fails the test with it."""
    done = subprocess.run([need("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
