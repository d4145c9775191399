"""A threaded writer between the signals of its process and sinks that end in ways of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

import pytest

from rwriter import CompletedRequest, PersistResult, WriterClosed
from rwriter.threaded import ThreadedWriter
from tests.support.records import record
from tests.support.sinks import MemorySink

SIGNAL = signal.SIGURG
"""One that ends no process whose handler is the default."""


class Shelf(MemorySink):
    """A sink that takes records while it is open, and has nothing to close."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = threading.Event()
        self.is_open.set()

    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        while not self.is_open.is_set():
            await asyncio.sleep(0.001)
        return await super().persist_completed(records)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def _handler_of_before() -> Iterator[None]:
    before = signal.getsignal(SIGNAL)
    yield
    signal.signal(SIGNAL, before)


def test_a_sink_without_an_end_is_just_left(shelf: Shelf) -> None:
    with ThreadedWriter(lambda: shelf) as writer:
        assert writer.open() is writer
        writer.send(record(), wait="committed")
    assert len(shelf.stored) == 1
    writer.close()


def test_what_stands_before_a_writer_and_breaks_keeps_no_record_from_being_stored(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_() -> None:
        raise OSError("no more threads")

    writer = ThreadedWriter(lambda: shelf, linger=60).open()
    writer.drain_first(break_)
    writer.send(record())
    writer.close()
    assert (len(shelf.stored), writer.stats.persisted) == (1, 1)
    assert "was not drained: OSError" in caplog.text


def test_a_writer_closed_before_it_was_opened_stays_closed(shelf: Shelf) -> None:
    writer = ThreadedWriter(lambda: shelf)
    writer.close()
    with pytest.raises(WriterClosed, match="used once"):
        writer.open()


@pytest.mark.usefixtures("_handler_of_before")
def test_a_handler_of_the_services_own_runs_after_the_drain(shelf: Shelf) -> None:
    seen: list[tuple[int, int]] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        seen.append((number, len(shelf.stored)))

    signal.signal(SIGNAL, handle)
    with ThreadedWriter(lambda: shelf) as writer:
        writer.install_signal_handlers(SIGNAL)
        writer.send(record())
        signal.raise_signal(SIGNAL)
        assert seen == [(SIGNAL, 1)]


@pytest.mark.usefixtures("_handler_of_before")
@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_signal_that_ended_nothing_before_ends_nothing_afterwards(shelf: Shelf, before: signal.Handlers) -> None:
    signal.signal(SIGNAL, before)
    with ThreadedWriter(lambda: shelf) as writer:
        writer.install_signal_handlers(SIGNAL)
        writer.send(record())
        signal.raise_signal(SIGNAL)
        assert len(shelf.stored) == 1
    # of the default nothing is left to undo; what was ignored still comes here first
    assert (signal.getsignal(SIGNAL) == signal.SIG_DFL) == (before == signal.SIG_DFL)


@pytest.mark.usefixtures("_handler_of_before")
def test_a_signal_before_the_writer_is_open_is_handed_on(shelf: Shelf) -> None:
    seen: list[int] = []
    signal.signal(SIGNAL, lambda number, _: seen.append(number))
    ThreadedWriter(lambda: shelf).install_signal_handlers(SIGNAL)
    signal.raise_signal(SIGNAL)
    assert seen == [SIGNAL]


def test_a_caller_waits_for_as_long_as_the_thread_is_alive(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    monkeypatch.setattr("rwriter.threaded._writer.LIVENESS_CHECK", 0.001)
    with ThreadedWriter(lambda: shelf) as writer:
        _, _, thread = writer._opened()

        def is_alive() -> bool:
            looks.append(True)
            if len(looks) > 3:
                shelf.is_open.set()
            return threading.Thread.is_alive(thread)

        shelf.is_open.clear()
        monkeypatch.setattr(thread, "is_alive", is_alive)
        writer.send(record(), wait="committed")
    assert len(looks) > 3


def waits_for_an_answer(thread: int) -> bool:
    frame = sys._current_frames()[thread]
    codes = [each.f_code for each, _ in traceback.walk_stack(frame)]
    return concurrent.futures.Future.result.__code__ in codes


@pytest.mark.usefixtures("_handler_of_before")
def test_a_caller_that_is_interrupted_wants_its_answer_no_more(shelf: Shelf) -> None:
    caller = threading.get_ident()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def send_the_signal() -> None:
        while not waits_for_an_answer(caller):
            time.sleep(0.001)
        signal.pthread_kill(caller, SIGNAL)

    signal.signal(SIGNAL, interrupt)
    with ThreadedWriter(lambda: shelf) as writer:
        shelf.is_open.clear()
        writer.send(record())
        threading.Thread(target=send_the_signal, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            writer.flush(timeout=30)
        shelf.is_open.set()
        writer.flush(timeout=30)
    assert len(shelf.stored) == 1
