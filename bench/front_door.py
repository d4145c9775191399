"""What a request pays: building a record and handing it over, in microseconds and in blocks of memory."""

from __future__ import annotations

import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bench.traffic import MODEL, Bodies
from rwriter import CompletedRequest, RequestsWriter, new_request_id

CHUNK: Final = 500
"""Records between two waits for the writer: the buffer never fills."""

Samples = list[int]
"""Nanoseconds, one for each record."""


def build(bodies: Bodies) -> CompletedRequest:
    """A record as a handler builds it: it has the bodies and both times, and makes the id."""
    request_body, response_body = bodies
    return CompletedRequest(
        request_id=new_request_id(),
        status_code=200,
        request_body=request_body,
        response_body=response_body,
        model=MODEL,
        endpoint="/v1/responses",
        api_key="sk-bench-0123456789abcdef",
        created_by="bench",
        started_at=_STARTED,
        completed_at=_ENDED,
    )


_STARTED: Final = datetime.now(UTC)
_ENDED: Final = _STARTED + timedelta(seconds=1)


async def measure(writer: RequestsWriter, bodies: Sequence[Bodies]) -> dict[str, Any]:
    """Percentiles of building, ``send_nowait`` and ``send``, each over all of ``bodies``, and what stays allocated."""
    await _in_chunks(writer, bodies, _timed_nowait)  # warm
    nowait = await _in_chunks(writer, bodies, _timed_nowait)
    waited = await _in_chunks(writer, bodies, _timed_send)
    built, sent = zip(*nowait, strict=True)
    return {
        "build": percentiles(list(built)),
        "send_nowait": percentiles(list(sent)),
        "build_and_send_nowait": percentiles([sum(pair) for pair in nowait]),
        "send": percentiles([sent for _, sent in waited]),
        "clock": percentiles([time.perf_counter_ns() - time.perf_counter_ns() for _ in bodies], sign=-1),
        "kept": await _kept(writer, bodies[:CHUNK]),
    }


def percentiles(samples: Samples, *, sign: int = 1) -> dict[str, float]:
    """Microseconds."""
    cuts = statistics.quantiles([sign * value / 1_000 for value in samples], n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2)}


async def _in_chunks(
    writer: RequestsWriter,
    bodies: Sequence[Bodies],
    timed: Callable[[RequestsWriter, Sequence[Bodies]], Awaitable[list[tuple[int, int]]]],
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start in range(0, len(bodies), CHUNK):
        found += await timed(writer, bodies[start : start + CHUNK])
        await writer.flush()
    return found


async def _timed_nowait(writer: RequestsWriter, bodies: Sequence[Bodies]) -> list[tuple[int, int]]:
    found, clock = [], time.perf_counter_ns
    for each in bodies:
        started = clock()
        record = build(each)
        built = clock()
        writer.send_nowait(record)
        found.append((built - started, clock() - built))
    return found


async def _timed_send(writer: RequestsWriter, bodies: Sequence[Bodies]) -> list[tuple[int, int]]:
    found, clock = [], time.perf_counter_ns
    for each in bodies:
        started = clock()
        record = build(each)
        built = clock()
        await writer.send(record)
        found.append((built - started, clock() - built))
    return found


async def _kept(writer: RequestsWriter, bodies: Sequence[Bodies]) -> dict[str, float]:
    """What a record and its place in the buffer keep allocated, its two bodies aside, which the handler made."""
    await _timed_nowait(writer, bodies)  # the buffer's tables grow in steps: let them be large already
    await writer.flush()
    gc.collect()
    before = sys.getallocatedblocks()
    for each in bodies:
        writer.send_nowait(build(each))
    blocks = sys.getallocatedblocks() - before
    await writer.flush()
    tracemalloc.start()
    try:
        for each in bodies:
            writer.send_nowait(build(each))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    await writer.flush()
    number = len(bodies)
    return {"blocks": round(blocks / number, 2), "bytes": round(kept / number), "peak_bytes": round(peak / number)}
