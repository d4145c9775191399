"""Runs an application under uvicorn on a thread of this process: for the tour, and for tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Any, Final, Self

import uvicorn

_START_TIMEOUT: Final = 30
_GRACE: Final = 10


class Serving:
    """``with Serving(app) as server``: from then on ``server.url`` answers, on a port of its own on 127.0.0.1.

    ``app`` is an ASGI application; its lifespan is run. Leaving lets calls finish, for up to 10 seconds.
    Raises ``RuntimeError`` where the application does not start.
    """

    def __init__(self, app: Any) -> None:
        # the listening socket is made here, so that the port is known, and takes connections, before uvicorn runs
        self._socket: Final = _listening()
        self.port: Final[int] = self._socket.getsockname()[1]
        config = uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=_GRACE)
        self._server: Final = _Announcing(config)
        self._thread: Final = threading.Thread(target=self._run, name=f"uvicorn-{self.port}", daemon=True)

    @property
    def url(self) -> str:
        """The address at which the application answers."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._server.settled.wait(_START_TIMEOUT) or not self._server.started:
            self.__exit__(None, None, None)
            raise RuntimeError("the application did not start; its log says why")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            # it exits, as a program of its own would, where the application does not start
            with contextlib.suppress(SystemExit):
                self._server.run(sockets=[self._socket])
        finally:
            self._server.settled.set()


def _listening() -> socket.socket:
    # TCP by its number: asyncio sets TCP_NODELAY only where it is told so, and each answer would wait 40 ms without
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


class _Announcing(uvicorn.Server):
    """Says when it has started, or failed to."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled: Final = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.settled.set()
