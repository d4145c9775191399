"""Notices that the client has left while the app is not listening."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rwriter.asgi._types import Message, Receive


class ClientWatch:
    """Asks the server for its next message once the request has been read, and reports a disconnect.

    An app that waits for its upstream does not listen, and the server swallows what the app sends after a disconnect:
    without the watch such a call would look answered.
    """

    def __init__(self) -> None:
        self._listening: asyncio.Task[Message] | None = None

    def start(self, receive: Receive, on_left: Callable[[], None]) -> None:
        """Listen beside the app from now on, and call ``on_left`` if the client disconnects."""

        def on_client_message(listening: asyncio.Task[Message]) -> None:
            failed = listening.cancelled() or listening.exception() is not None
            if not failed and listening.result()["type"] == "http.disconnect":
                on_left()

        self._listening = asyncio.ensure_future(receive())
        self._listening.add_done_callback(on_client_message)

    def stop(self) -> None:
        """Stop listening: the app has returned, or the client's leaving means nothing any more."""
        if self._listening is not None:
            self._listening.cancel()

    async def next_message(self, receive: Receive) -> Message:
        """Return the server's next message to an app that listens too."""
        # only one may ask the server at a time, so the app shares the watch's answer
        return await (receive() if self._listening is None else asyncio.shield(self._listening))
