"""The kit for sinks: the store passes it, and so does any other sink that keeps the rules, and no other."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from rwriter import CompletedRequest, PersistResult, RecordSink, RequestStore
from rwriter.testing import SINK_CHECKS, SinkCheck, TestDbEngines
from tests.support.sinks import MemorySink, kept_in


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
async def test_the_store_is_a_sink(check: SinkCheck, rwriter_engines: TestDbEngines) -> None:
    await check(RequestStore(rwriter_engines), lambda: kept_in(rwriter_engines.write))


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
async def test_a_sink_in_memory_passes_as_well(check: SinkCheck) -> None:
    sink = MemorySink()
    await check(sink, sink.kept)


class LosesTheLast(MemorySink):
    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        return await super().persist_completed(list(records)[:-1])


class TakesTheLatest(MemorySink):
    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        batch = list(records)
        result = await super().persist_completed(batch)
        self.stored |= {record.request_id: record for record in batch}
        return result


class FailsOnRepeats(MemorySink):
    async def persist_completed(self, records: Iterable[CompletedRequest]) -> PersistResult:
        batch = list(records)
        if any(record.request_id in self.stored for record in batch):
            raise KeyError("a duplicate")
        return await super().persist_completed(batch)


class BuriesAmongTheStored(MemorySink):
    async def bury(self, record: CompletedRequest, *, sqlstate: str | None, error: str) -> None:
        await super().bury(record, sqlstate=sqlstate, error=error)
        self.stored |= self.buried


class ChangesItsName(MemorySink):
    async def identity(self) -> str:
        return f"memory {len(self.stored)}"


@pytest.mark.parametrize("broken", [LosesTheLast, TakesTheLatest, FailsOnRepeats, BuriesAmongTheStored, ChangesItsName])
async def test_a_sink_that_breaks_a_rule_fails_a_check(broken: type[MemorySink]) -> None:
    failed = []
    for check in SINK_CHECKS:
        sink = broken()
        try:
            await check(sink, sink.kept)
        except (AssertionError, KeyError):
            failed.append(check.__name__)
    assert failed


def test_what_is_a_sink_is_told_by_its_methods(rwriter_engines: TestDbEngines) -> None:
    assert isinstance(RequestStore(rwriter_engines), RecordSink)
    assert isinstance(MemorySink(), RecordSink)
    assert not isinstance(rwriter_engines, RecordSink)
