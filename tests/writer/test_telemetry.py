"""A service with the OpenTelemetry SDK sees a writer's figures, and nobody sees a body or a key."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from rwriter.engines._urls import connect_arguments
from rwriter.pytest_plugin import Databases
from rwriter.writer import _telemetry as telemetry

INSTRUMENTS = {
    "rwriter.records": "{record}",
    "rwriter.repaired": "{text}",
    "rwriter.flush.size": "{record}",
    "rwriter.flush.duration": "s",
    "rwriter.retries": "{attempt}",
    "rwriter.channel.depth": "{record}",
    "rwriter.channel.bytes": "By",
    "rwriter.oldest_age": "s",
    "rwriter.upkeep.backlog": "s",
    "rwriter.replayed": "{record}",
    "rwriter.dead_letters": "{record}",
    "rwriter.shutdown.records": "{record}",
    "rwriter.spool.records": "{record}",
    "rwriter.spool.set_aside": "{record}",
    "rwriter.spool.bytes": "By",
    "rwriter.spool.oldest_age": "s",
    "rwriter.table.rows": "{row}",
    "rwriter.table.size": "By",
}
ROOT = Path(__file__).parents[2]


async def refuse_one_model(url: str) -> None:
    parsed, arguments = connect_arguments(url)
    engine = create_async_engine(parsed, connect_args=arguments, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE requests ADD CHECK (model <> 'refused')"))


@pytest.fixture(scope="module")
def exported(_rwriter_databases: Databases) -> Iterator[dict[str, Any]]:
    """All that ``tests.support.observed`` exported."""
    name = _rwriter_databases.create(_rwriter_databases.template())
    url = _rwriter_databases.url(name)
    asyncio.run(refuse_one_model(url))
    command = [sys.executable, "-W", "error", "-m", "tests.support.observed", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    _rwriter_databases.drop(name)


def instruments(collected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics by name."""
    scopes = [scope for resource in collected["resource_metrics"] for scope in resource["scope_metrics"]]
    assert [scope["scope"]["name"] for scope in scopes] == ["rwriter"]
    return {metric["name"]: metric for metric in scopes[0]["metrics"]}


def points(collected: dict[str, Any], name: str, writer: str) -> dict[str | None, dict[str, Any]]:
    """The data points of one writer, by outcome."""
    found = instruments(collected)[name]["data"]["data_points"]
    return {p["attributes"].get("outcome"): p for p in found if p["attributes"].get("writer") == writer}


def values(collected: dict[str, Any], name: str, writer: str) -> dict[str | None, float]:
    """The values of one writer, by outcome."""
    return {outcome: point["value"] for outcome, point in points(collected, name, writer).items()}


def spans_of(exported: dict[str, Any], writer: str) -> list[dict[str, Any]]:
    """The spans of one writer."""
    return [span for span in exported["spans"]["all"] if span["attributes"].get("rwriter.writer") == writer]


def test_every_instrument_is_exported_with_its_unit(exported: dict[str, Any]) -> None:
    units = {name: metric["unit"] for name, metric in instruments(exported["metrics"]).items()}
    # the gauges of a writer that is gone are gone too
    for gauges in (exported["waiting"]["gauges"], exported["spooled"]["gauges"], exported["kept"]):
        units |= {name: metric["unit"] for name, metric in instruments(gauges).items()}
    assert units.items() >= INSTRUMENTS.items()
    for metric in instruments(exported["metrics"]).values():
        assert metric["description"]


def test_upkeep_tells_by_how_much_it_is_behind(exported: dict[str, Any]) -> None:
    (point,) = points(exported["kept"], "rwriter.upkeep.backlog", "kept").values()
    # the row began in the spring of 2026, and a day later it was due
    assert point["value"] > 0


def test_records_are_counted_by_outcome_and_each_once(exported: dict[str, Any]) -> None:
    stored = values(exported["metrics"], "rwriter.records", "stored")
    assert stored == {"persisted": 7, "skipped": 2, "dead": 2}
    assert sum(stored.values()) == exported["stored"]["accepted"]
    assert values(exported["metrics"], "rwriter.records", "dropped") == {"dropped": 3}


def test_retries_are_counted_by_what_followed(exported: dict[str, Any]) -> None:
    retries = values(exported["metrics"], "rwriter.retries", "dropped")
    assert set(retries) == {"retried", "exhausted"}
    assert min(retries.values()) >= 1
    assert points(exported["metrics"], "rwriter.retries", "stored") == {}


@pytest.mark.parametrize("writer", ["stored", "dropped"])
def test_each_flush_has_a_span_a_size_and_a_duration(exported: dict[str, Any], writer: str) -> None:
    spans = spans_of(exported, writer)
    size = points(exported["metrics"], "rwriter.flush.size", writer)[None]
    durations = points(exported["metrics"], "rwriter.flush.duration", writer).values()
    assert {span["name"] for span in spans} == {"rwriter.flush"}
    assert len(spans) == size["count"] == sum(each["count"] for each in durations) >= 1
    sizes = [span["attributes"]["rwriter.flush.size"] for span in spans]
    assert sum(sizes) == size["sum"] == exported[writer]["accepted"]
    assert 0 < sum(each["sum"] for each in durations) < 60


@pytest.mark.parametrize("writer", ["stored", "dropped"])
def test_failed_flushes_are_told_apart_as_their_spans_tell(exported: dict[str, Any], writer: str) -> None:
    codes = Counter(span["status"]["status_code"] for span in spans_of(exported, writer))
    found = points(exported["metrics"], "rwriter.flush.duration", writer)
    assert {outcome: point["count"] for outcome, point in found.items()} == {
        outcome: codes[code] for outcome, code in {"failed": "ERROR", "stored": "UNSET"}.items() if codes[code]
    }
    assert codes["ERROR"]


def test_buckets_tell_a_millisecond_from_five_seconds(exported: dict[str, Any]) -> None:
    for point in points(exported["metrics"], "rwriter.flush.duration", "stored").values():
        assert set(point["explicit_bounds"]) >= {0.001, 0.01, 0.1, 1, 5}
    (size,) = points(exported["metrics"], "rwriter.flush.size", "stored").values()
    assert {1, 100, 1_000} <= set(size["explicit_bounds"])


def test_a_span_says_that_a_flush_failed_and_why_but_records_no_exception(exported: dict[str, Any]) -> None:
    stored, dropped = spans_of(exported, "stored"), spans_of(exported, "dropped")
    failed = [span["status"] for span in stored if span["status"]["status_code"] == "ERROR"]
    assert failed == [{"status_code": "ERROR", "description": "CheckViolationError (SQLSTATE 23514)"}] * 2
    for span in dropped:
        assert span["status"] == {"status_code": "ERROR", "description": "ConnectionRefusedError"}
    assert [span["events"] for span in (*stored, *dropped)] == [[] for _ in (*stored, *dropped)]


def test_the_gauges_show_what_is_in_the_buffer(exported: dict[str, Any]) -> None:
    gauges = exported["waiting"]["gauges"]
    assert values(gauges, "rwriter.channel.depth", "waiting") == {None: 2}
    assert values(gauges, "rwriter.channel.bytes", "waiting") == {None: exported["waiting"]["pending_bytes"]}
    assert 0 < values(gauges, "rwriter.oldest_age", "waiting")[None] <= exported["waiting"]["age_soon_after"]


def test_a_flush_is_linked_to_the_spans_that_its_records_were_sent_in_and_to_each_once(
    exported: dict[str, Any],
) -> None:
    links = [[link["context"]["span_id"] for link in span["links"]] for span in spans_of(exported, "stored")]
    # two records of one span, then three of another; those sent outside of any span have none
    assert [each for each in links if each] == [[span] for span in exported["stored"]["sent_in"]]
    assert len(links) == 4
    assert all(span["links"] == [] for span in spans_of(exported, "dropped"))


def test_a_flush_is_linked_to_so_many_spans_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("rwriter"))
    sent_in = [SpanContext(1, number, is_remote=False) for number in range(1, 2 * telemetry.MOST_LINKS)]
    with telemetry.flush_span("one", 1, [*sent_in, *sent_in]):
        pass
    (span,) = spans.get_finished_spans()
    assert [link.context for link in span.links] == sent_in[: telemetry.MOST_LINKS]


def test_the_line_of_a_refused_record_names_its_request_and_its_trace(exported: dict[str, Any]) -> None:
    for request_id, trace_id in exported["stored"]["refused"].items():
        assert f"record {request_id} (trace {trace_id}) is in dead_letters" in exported["logs"]["all"]


def test_refused_records_are_counted_by_what_refused_them(exported: dict[str, Any]) -> None:
    found = instruments(exported["metrics"])["rwriter.dead_letters"]["data"]["data_points"]
    assert [(point["attributes"], point["value"]) for point in found] == [
        ({"writer": "stored", "sqlstate": "23514"}, 2)
    ]


def test_the_gauges_show_what_is_in_the_spool(exported: dict[str, Any]) -> None:
    gauges = exported["spooled"]["gauges"]
    assert values(gauges, "rwriter.spool.records", "spooled") == {None: 2}
    assert values(gauges, "rwriter.spool.set_aside", "spooled") == {None: 0}
    assert values(gauges, "rwriter.spool.bytes", "spooled")[None] >= 4096
    assert 0 < values(gauges, "rwriter.spool.oldest_age", "spooled")[None] < 60 + exported["spooled"]["took"]


def test_the_gauges_show_how_large_the_tables_are(exported: dict[str, Any]) -> None:
    found = instruments(exported["kept"])["rwriter.table.size"]["data"]["data_points"]
    sizes = {(point["attributes"]["table"], point["attributes"]["part"]): point["value"] for point in found}
    assert {table for table, _ in sizes} == {"requests", "request_templates", "dead_letters"}
    assert sizes["requests", "rows"] > 0 < sizes["requests", "indexes"]


def test_records_that_were_pending_at_the_end_are_counted_by_outcome(exported: dict[str, Any]) -> None:
    assert values(exported["metrics"], "rwriter.shutdown.records", "spooled") == {"spooled": 1}
    assert values(exported["metrics"], "rwriter.shutdown.records", "waiting") == {"persisted": 2}
    assert points(exported["metrics"], "rwriter.shutdown.records", "stored") == {}


def test_opening_flushing_draining_and_closing_are_told(exported: dict[str, Any]) -> None:
    lines = [line for line in exported["logs"]["all"].splitlines() if ":rwriter:waiting:" in line]
    assert [line.split(":")[0] for line in lines] == ["INFO", "INFO", "DEBUG", "INFO"]
    for line, words in zip(
        lines, ("open, batches", "draining 2 records", "a flush of 2 records stored all", "2 persisted"), strict=True
    ):
        assert words in line


def test_repaired_texts_are_counted_once_each(exported: dict[str, Any]) -> None:
    (repaired,) = instruments(exported["metrics"])["rwriter.repaired"]["data"]["data_points"]
    assert repaired["value"] == 2


def test_no_body_and_no_key_is_in_anything_exported_or_logged(exported: dict[str, Any]) -> None:
    assert "CheckViolationError (SQLSTATE 23514)" in exported["logs"]["all"]
    assert "MARKER" not in json.dumps(exported)
    assert "sha256:" not in json.dumps(exported)
