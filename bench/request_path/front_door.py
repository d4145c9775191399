"""Measure what a request pays: building a record and handing it over, in microseconds and in blocks of memory."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bench.peers.common import cut
from bench.report import percentiles
from bench.traffic import MODEL, Bodies
from rwriter import CompletedRequest, RequestsWriter, new_request_id

CHUNK: Final = 500
"""Records between two waits for the writer: the buffer never fills."""


def build(bodies: Bodies) -> CompletedRequest:
    """Build a record as a handler does: it has the bodies and both times, and makes the id."""
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
    """Return percentiles of building, ``send_nowait`` and ``send`` over all of ``bodies``, and what stays allocated."""
    await _in_chunks(writer, bodies)  # warm
    nowait = await _in_chunks(writer, bodies)
    waited = await _in_chunks(writer, bodies, waiting=True)
    return {
        "build": _microseconds(built for built, _ in nowait),
        "send_nowait": _microseconds(sent for _, sent in nowait),
        "build_and_send_nowait": _microseconds(map(sum, nowait)),
        "send": _microseconds(sent for _, sent in waited),
        "clock": _microseconds(-(time.perf_counter_ns() - time.perf_counter_ns()) for _ in bodies),
        "kept": await _kept(writer, bodies[:CHUNK]),
    }


def _microseconds(nanoseconds: Iterable[int]) -> dict[str, float]:
    return percentiles([value / 1_000 for value in nanoseconds], 2)


async def _in_chunks(
    writer: RequestsWriter, bodies: Sequence[Bodies], *, waiting: bool = False
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for chunk in cut(bodies, CHUNK):
        found += await _timed(writer, chunk, waiting=waiting)
        await writer.flush()
    return found


async def _timed(writer: RequestsWriter, bodies: Sequence[Bodies], *, waiting: bool = False) -> list[tuple[int, int]]:
    """Return the nanoseconds that each record's building took, and ``send_nowait``, or ``send`` if ``waiting``."""
    found, clock = [], time.perf_counter_ns
    for each in bodies:
        started = clock()
        record = build(each)
        built = clock()
        if waiting:
            await writer.send(record)
        else:
            writer.send_nowait(record)
        found.append((built - started, clock() - built))
    return found


async def _kept(writer: RequestsWriter, bodies: Sequence[Bodies]) -> dict[str, float]:
    """Return what a record and its place in the buffer keep allocated, its two bodies aside, which the handler made."""
    await _timed(writer, bodies)  # the buffer's tables grow in steps: let them be large already
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
