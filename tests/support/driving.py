"""Steps a coroutine by hand: the way to cancel it at each of its awaits in turn."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def settle_loop(rounds: int = 20) -> None:
    """Let every task that is ready run."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, within: float = 20.0) -> None:
    """Poll ``condition`` until it holds; fail after ``within`` seconds."""
    async with asyncio.timeout(within):
        while True:
            answer = condition()
            if (await answer) if isinstance(answer, Awaitable) else answer:
                return
            await asyncio.sleep(0.005)


class CancelAt:
    """Runs a coroutine in the current task and cancels the task at its ``number``-th suspension.

    ``late`` cancels in the moment between the awaited future's completion and the task's own wake-up, where a result
    is easily lost. ``reached`` says whether there was such a suspension.
    """

    def __init__(self, number: int, *, late: bool = False) -> None:
        self.number = number
        self.late = late
        self.seen = 0
        self.reached = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
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
            except BaseException as exc:  # noqa: BLE001 -- handed on to the coroutine
                resume = (work.throw, exc)
            else:
                resume = (work.send, value)
