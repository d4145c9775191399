"""The conformance kit for a ``RecordSink``: checks that need no pytest, for whatever runs an implementation's tests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from rwriter.records import CompletedRequest, new_request_id
from rwriter.sink import RecordSink

PATIENCE: Final = 60.0
"""Seconds that one call may take before its check fails."""

_BEGAN: Final = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


class Kept(NamedTuple):
    """The records at their last place: those with a row of their own, and those that were buried."""

    stored: Sequence[CompletedRequest]
    buried: Sequence[CompletedRequest] = ()


ReadBack = Callable[[], Awaitable[Kept]]
"""Reads what the sink keeps, each record as often as it is there, once nothing is on its way any more."""

SinkCheck = Callable[[RecordSink, ReadBack], Awaitable[None]]
"""One check. Raises ``AssertionError`` with the rule that was broken; the sink must be empty before it."""


async def takes_nothing(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that a call without records changes nothing and counts nothing."""
    result = await _within(sink.persist_completed([]))
    _expect(
        (result.inserted, result.updated, result.skipped, result.written) == (0, 0, 0, frozenset()),
        f"no records were given, and the answer is {result}",
    )
    await _holds(read_back, [])


async def takes_a_batch_whole(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that every record arrives as it was given, and that the answer names each of them."""
    batch = [*_records(20), _awkward(), _failed(), _bare()]
    result = await _within(sink.persist_completed(iter(batch)))
    _expect(result.written == _ids(batch), f"written names {len(result.written)} of {len(batch)} records")
    _expect(
        (result.inserted + result.updated, result.skipped) == (len(batch), 0),
        f"{len(batch)} records were taken, and the answer is {result}",
    )
    await _holds(read_back, batch)


async def takes_a_repeated_batch_once(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that the same call again, as after a lost acknowledgement, leaves no second row and forgets no record."""
    batch = _records(10)
    await _within(sink.persist_completed(batch))
    more = [*batch, *_records(3)]
    result = await _within(sink.persist_completed(more))
    _expect(
        result.inserted + result.updated + result.skipped == len(more), f"{len(more)} records, and the answer {result}"
    )
    skipped = _ids(more) - result.written
    known = await _within(sink.finished_ids(skipped))
    _expect(known == skipped, f"{len(skipped - known)} skipped records are not among the finished ids")
    await _holds(read_back, more)


async def takes_the_first_of_one_id(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that of an id given twice in one call the first record counts and the second is skipped."""
    first, other = _records(2)
    second = _record(request_id=first.request_id, response_body='{"n":"second"}')
    result = await _within(sink.persist_completed([first, other, second]))
    _expect(result.skipped == 1, f"the id was given twice, and {result.skipped} records were skipped")
    _expect(result.written == {first.request_id, other.request_id}, "written does not name both ids")
    await _holds(read_back, [first, other])


async def keeps_one_of_two_calls(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that of two calls' records with one id one is kept, as it was given, and never a mixture."""
    (first,) = _records(1)
    second = _record(request_id=first.request_id, request_body='{"n":2}', response_body='{"n":2}', status_code=503)
    for record in (first, second):
        await _within(sink.persist_completed([record]))
    stored = (await _within(read_back())).stored
    _expect(len(stored) == 1, f"the id was given by two calls, and {len(stored)} records are stored")
    _expect(stored[0] in {first, second}, "what is stored is neither of the two records")


async def takes_overlapping_calls(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that calls at the same time, with records in common and in any order, neither fail nor store twice."""
    batch = _records(30)
    orders = (batch[:20], batch[10:], batch[::-1], batch[5:25:2])
    await asyncio.gather(*(_within(sink.persist_completed(records)) for records in orders))
    await _holds(read_back, batch)


async def survives_a_cancelled_call(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that a call cancelled anywhere leaves a sink that takes the same records, once."""
    batch = _records(10)
    for turns in range(12):
        call = asyncio.ensure_future(sink.persist_completed(batch))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call}, timeout=PATIENCE)
        _expect(call.done(), f"a call cancelled after {turns} turns of the loop does not end")
    await _within(sink.persist_completed(batch))
    await _holds(read_back, batch)


async def buries_a_record_once(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that a buried record is kept complete and apart, however often it is buried, whatever the reason holds."""
    (stored,) = _records(1)
    buried = _awkward()
    await _within(sink.persist_completed([stored]))
    for _ in range(2):
        await _within(sink.bury(buried, sqlstate="23514", error="refused: \0 and \ud800, and \x1b[31m"))
    nameless = _bare()
    await _within(sink.bury(nameless, sqlstate=None, error=""))
    await _holds(read_back, [stored], [buried, nameless])


async def knows_its_finished_ids(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that no id is called finished that was never given, and that asking for none is allowed."""
    await _within(sink.persist_completed(_records(2)))
    asked = {new_request_id(), uuid.UUID(int=0)}
    _expect(not await _within(sink.finished_ids(iter(asked))), "ids that were never given are called finished")
    _expect(await _within(sink.finished_ids(())) == set(), "no ids were asked for, and some came back")
    await _within(read_back())


async def tells_who_it_is(sink: RecordSink, read_back: ReadBack) -> None:
    """Check that the start check passes and that the identity is a text that stays as it is."""
    await _within(sink.check_schema())
    before = await _within(sink.identity())
    await _within(sink.persist_completed(_records(1)))
    _expect(isinstance(before, str) and bool(before), "the identity is no text")
    _expect(await _within(sink.identity()) == before, "the identity has changed")
    await _within(read_back())


SINK_CHECKS: Final[tuple[SinkCheck, ...]] = (
    takes_nothing,
    takes_a_batch_whole,
    takes_a_repeated_batch_once,
    takes_the_first_of_one_id,
    keeps_one_of_two_calls,
    takes_overlapping_calls,
    survives_a_cancelled_call,
    buries_a_record_once,
    knows_its_finished_ids,
    tells_who_it_is,
)
"""Every check, for ``pytest.mark.parametrize`` or a loop: ``await check(sink, read_back)`` on an empty sink each."""


async def _within(call: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await call


def _expect(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(rule)


async def _holds(
    read_back: ReadBack, stored: Iterable[CompletedRequest], buried: Iterable[CompletedRequest] = ()
) -> None:
    kept = await _within(read_back())
    for place, expected, found in (("stored", stored, kept.stored), ("buried", buried, kept.buried)):
        wanted = {record.request_id: record for record in expected}
        ids = [record.request_id for record in found]
        _expect(len(ids) == len(set(ids)), f"{len(ids) - len(set(ids))} records are {place} twice")
        _expect(set(ids) == set(wanted), f"{len(ids)} records are {place}, {len(set(ids) & set(wanted))} of them right")
        changed = [record.request_id for record in found if record != wanted[record.request_id]]
        _expect(not changed, f"{len(changed)} {place} records are not what was given, the first {changed[:1]}")


def _ids(records: Iterable[CompletedRequest]) -> set[uuid.UUID]:
    return {record.request_id for record in records}


def _records(number: int) -> list[CompletedRequest]:
    return [_record(response_body=f'{{"n":{number}}}') for number in range(number)]


def _record(**changes: Any) -> CompletedRequest:
    fields: dict[str, Any] = {
        "request_id": new_request_id(),
        "status_code": 200,
        "request_body": '{"input":"a question"}',
        "response_body": '{"output":"an answer"}',
        "model": "a-model",
        "endpoint": "/v1/responses",
        "api_key": "sk-conformance",
        "created_by": "tenant-of-the-kit",
        "started_at": _BEGAN,
        "completed_at": _BEGAN + timedelta(milliseconds=1500),
    }
    return CompletedRequest(**(fields | changes))


def _awkward() -> CompletedRequest:
    """Return a record with every field set, and texts that are easily lost on the way."""
    return _record(
        request_body='{"input":"\\u0000 \U0001f600 \u2028 \r\n\t"}',
        response_body="\x1b[31m\u0301 not JSON \U0010ffff" + "ü" * 10_000,
        created_by="sha256:0123456789abcdef0123456789abcdef",
        api_key="sha256:0123456789abcdef0123456789abcdef",
        custom_id="chatcmpl-\u00e9",
        input_tokens=2**31 - 1,
        output_tokens=0,
        cached_input_tokens=7,
        reasoning_tokens=1,
        first_token_at=_BEGAN + timedelta(microseconds=1),
        metadata={"trace": "00-ab", "turn": 3, "share": 0.25, "cached": False, "none": None},
    )


def _failed() -> CompletedRequest:
    return _record(status_code=503, response_body='{"error":{"message":"overloaded"}}', model="m" * 512)


def _bare() -> CompletedRequest:
    return _record(request_body="", response_body="", model="", endpoint="", api_key="", completed_at=_BEGAN)
