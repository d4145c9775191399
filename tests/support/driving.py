"""Wait for conditions on the event loop, and cancel a coroutine at each of its awaits in turn."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def settle_loop(rounds: int = 20) -> None:
    """Yield to the event loop ``rounds`` times, so that every task that is ready runs."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within: float = 20.0) -> None:
    """Poll ``condition`` until it returns true. Raises ``TimeoutError`` after ``within`` seconds."""
    async with asyncio.timeout(within):
        while True:
            answer = condition()
            if (await answer) if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.005)


class CancelAt:
    """Run a coroutine in the current task and cancel the task at its suspension ``number``, counted from 0.

    With ``late`` the task is cancelled after the awaited future has completed and before the task wakes up: a result
    is easily lost there. ``reached`` is true if the coroutine suspended that often.
    """

    def __init__(self, number: int, *, late: bool = False) -> None:
        self.number = number
        self.late = late
        self.seen = 0
        self.reached = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``, or raise the ``CancelledError`` that it let through."""
        return await self._step(work)

    @types.coroutine
    def _step(self, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        resume: tuple[Callable[[Any], Any], Any] = (work.send, None)
        while True:
            step, argument = resume
            try:
                awaited = step(argument)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if self.seen == self.number:
                self.reached = True
                if self.late and asyncio.isfuture(awaited):
                    awaited.add_done_callback(lambda _: task.cancel())
                else:
                    task.cancel()
            self.seen += 1
            try:
                value = yield awaited
            except BaseException as exc:  # noqa: BLE001 -- raised again inside the coroutine
                resume = (work.throw, exc)
            else:
                resume = (work.send, value)
