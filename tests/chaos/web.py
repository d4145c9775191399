"""A web server with workers as a process of its own, and clients that load it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.chaos.harness import PATIENCE, ROOT
from tests.support.driving import eventually

UVICORN: Final = ("uvicorn", "tests.chaos.web_app:app", "--host", "127.0.0.1", "--workers", "2", "--port")
GUNICORN: Final = (
    "gunicorn", "tests.chaos.web_app:app", "--preload", "--workers", "2", "--no-control-socket",
    "--worker-class", "uvicorn_worker.UvicornWorker", "--bind",
)  # fmt: skip


class WebServer:
    """``command`` run as a module with the port as its last argument; ``environment`` is for the application."""

    def __init__(self, command: tuple[str, ...], log: Path, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: Final[int] = probe.getsockname()[1]
        self.log: Final = log
        address = f"127.0.0.1:{self.port}" if command[-1] == "--bind" else str(self.port)
        self._command: Final = [sys.executable, "-m", *command, address]
        self._environment: Final = os.environ | environment
        self._process: Process | None = None
        self.answered: Final[list[str]] = []
        self.workers: Final[set[str]] = set()

    async def __aenter__(self) -> Self:
        with self.log.open("ab") as log:
            # a session of its own, so that workers can be found and ended with it
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=log, stderr=log, cwd=ROOT, env=self._environment, start_new_session=True
            )
        await eventually(self._listens, within=PATIENCE)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()

    @property
    def process(self) -> Process:
        assert self._process is not None, "the server was not started"
        return self._process

    async def terminate(self) -> None:
        """Send SIGTERM to the parent alone; it must end with its workers, by itself."""
        self.process.terminate()
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()

    async def load(self) -> None:
        """Act as one client: make a call after the other, until the server takes no more."""
        while True:
            try:
                self.answered.append(await self.call("POST", "/"))
            except OSError:
                return

    async def call(self, method: str, path: str) -> str:
        """Return the body of a complete answer with status 200; raise ``OSError`` for anything less."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n".encode())
            answer = (await reader.read()).decode()
        finally:
            writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        status, *lines = head.splitlines() or [""]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if not status.startswith("HTTP/1.1 200") or len(body) != int(headers["content-length"]):
            raise ConnectionError(head)
        self.workers.add(headers["x-pid"])
        return body

    async def _listens(self) -> bool:
        assert self.process.returncode is None, self.log.read_text()[-3000:]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True
