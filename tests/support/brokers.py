"""A real NATS server with JetStream on disk, to publish to and to kill."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from rwriter import CompletedRequest
from rwriter.stream import _messages as messages

T = TypeVar("T")

PROGRAM: Final = Path(sys.executable).with_name("nats-server")
PATIENCE: Final = 60.0


class Broker:
    """A server that keeps what it acknowledged, at an address that stays the same when it starts again.

    ``settings`` are lines of its configuration. ``sync_interval: always`` is among them, so that a power cut would lose
    nothing either.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        self.port: Final = _free_port()
        self.url: Final = f"nats://127.0.0.1:{self.port}"
        self.store: Final = folder / "jetstream"
        self._log: Final = folder / "log"
        self._configuration: Final = folder / "nats.conf"
        jetstream = f'jetstream {{store_dir: "{self.store}", sync_interval: always}}'
        lines = ("host: 127.0.0.1", f"port: {self.port}", jetstream, *settings)
        self._configuration.write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and return when it welcomes clients. Does nothing while it runs."""
        if self._process is not None:
            return
        command = [str(PROGRAM), "-c", str(self._configuration), "-l", str(self._log)]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + PATIENCE
        while not self._welcomes():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """``kill -9`` the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Remove everything that a stopped server kept."""
        shutil.rmtree(self.store, ignore_errors=True)

    def _welcomes(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
            return line.recv(4) == b"INFO"
        return False


@contextlib.contextmanager
def broker_in(folder: Path, *settings: str) -> Iterator[Broker]:
    """Yield a running server; it is killed in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Broker(folder, *settings)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


@contextlib.contextmanager
def brokers_in(folder: Path, number: int) -> Iterator[list[Broker]]:
    """Yield one running server, or a cluster of ``number``; they are killed in the end."""
    ports = [_free_port() for _ in range(number)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    brokers = []
    for node, port in enumerate(ports):
        cluster = f"cluster {{name: c, listen: 127.0.0.1:{port}, routes: [{routes}]}}" if number > 1 else ""
        own = folder / str(node)
        own.mkdir()
        brokers.append(Broker(own, f"server_name: n{node}", cluster))
    try:
        for broker in brokers:
            broker.start()
        yield brokers
    finally:
        for broker in brokers:
            broker.kill()


async def asked(broker: Broker, question: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Return the server's answer to ``question``, over a connection of its own."""
    client = await nats.connect(broker.url, allow_reconnect=False)
    try:
        return await question(client.jetstream())
    finally:
        await client.close()


async def raw_messages(broker: Broker, stream: str) -> list[Any]:
    """Return every message that is in ``stream``, in order; none is taken out."""

    async def read(jetstream: JetStreamContext) -> list[Any]:
        state = (await jetstream.stream_info(stream)).state
        found = []
        for number in range(state.first_seq, state.last_seq + 1):
            with contextlib.suppress(NotFoundError):  # taken out since
                found.append(await jetstream.get_msg(stream, number))
        return found

    return await asked(broker, read)


async def records_in(broker: Broker, stream: str) -> list[CompletedRequest]:
    """Return the records in the messages of ``stream``, each as often as it is there."""
    found = [messages.unpack_records(message.data) for message in await raw_messages(broker, stream)]
    return [record for records in found for record in records]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
