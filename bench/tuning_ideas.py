"""The ideas: what the library does first, then what it might do."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench import tuning_process, tuning_statements, tuning_ways
from bench.axes import Path, Setting
from bench.tuning_rounds import Comparison, Open, Variant
from bench.tuning_statements import Statement

WRITING: Final = tuning_ways.writing()
MIB: Final = 1024 * 1024

_ONE: Final = Setting(batch=1)
_BODIES: Final = (("requests", "response_body"), ("request_templates", "body"))


def _statements(named: Mapping[str, Statement], setting: Setting | None = None) -> dict[str, Variant]:
    chosen = setting if setting is not None else Setting()
    return {label: Variant(tuning_ways.executing(each.store), chosen) for label, each in named.items()}


def _sizes() -> Sequence[Comparison]:
    both = {"octet_length": tuning_statements.LIBRARY, "two int arrays": tuning_statements.SIZES}
    return (
        Comparison("Sizes, 2 + 4 kB", _statements(both)),
        Comparison("Sizes, 0.2 + 0.3 kB", _statements(both, Setting(request_bytes=200, response_bytes=300)), share=2),
    )


def _arrays() -> Sequence[Comparison]:
    statements = {
        "as it is": tuning_statements.LIBRARY,
        "times as int8 microseconds": tuning_statements.MICROSECONDS,
        "times as float8 seconds": tuning_statements.SECONDS,
        "ids as uuid_utils.UUID": tuning_statements.UTILS_IDS,
        "ids as text": tuning_statements.TEXT_IDS,
        "model and path sent once": tuning_statements.ONCE,
        "bodies in one bytea": tuning_statements.JOINED,
    }
    return (Comparison("Arrays of the whole statement, 2 + 4 kB", _statements(statements)),)


def _uvloop() -> Sequence[Comparison]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop  # noqa: PLC0415 -- in an extra, and not everywhere to be had

        factories["uvloop"] = uvloop.new_event_loop
    else:
        print("uvloop: left out, it is not installed (pip install 'rwriter[bench]')")
    return tuple(
        Comparison(f"Event loop, batch {setting.batch}", _on_loops(factories, setting), share=share)
        for setting, share in ((Setting(), 1), (_ONE, 0.25))
    )


def _on_loops(factories: Mapping[str, Any], setting: Setting) -> dict[str, Variant]:
    return {label: Variant(tuning_process.on_loop(each, WRITING), setting) for label, each in factories.items()}


def _gc() -> Sequence[Comparison]:
    ways = {
        "default": tuning_process.queued(),
        "gc.freeze() after start": tuning_process.queued(tuning_process.frozen),
        "gc disabled": tuning_process.queued(tuning_process.disabled),
        "records without gc=False": tuning_process.queued(tracked=True),
    }
    return (Comparison("Garbage collector, everything queued", _opening(ways), share=2.5),)


def _opening(ways: Mapping[str, Open], setting: Setting | None = None) -> dict[str, Variant]:
    return {label: Variant(way, setting if setting is not None else Setting()) for label, way in ways.items()}


def _fillfactor() -> Sequence[Comparison]:
    tables: dict[str, Sequence[str]] = {
        str(factor): (f"ALTER TABLE requests SET (fillfactor = {factor})",) for factor in (100, 90, 70)
    }
    # no update is HOT that changes a column of an index, its WHERE included
    tables["70, no ix_requests_active"] = (*tables["70"], "DROP INDEX ix_requests_active")
    return tuple(
        Comparison(
            f"fillfactor, {path}",
            {label: Variant(tuning_ways.updating(), Setting(path=path), ddl) for label, ddl in tables.items()},
            share=0.5,
        )
        for path in (Path.UPDATE, Path.INSERT)
    )


def _batch_bytes() -> Sequence[Comparison]:
    ways = {f"{size} MiB": tuning_process.growing(batch_bytes=size * MIB) for size in (8, 1, 2, 4)}
    more = ways | {"32 MiB": tuning_process.growing(batch_bytes=32 * MIB)}
    return (
        Comparison("batch_bytes, 20 + 40 kB, batch 100", _opening(ways, _large(100)), share=0.3),
        Comparison("batch_bytes, 20 + 40 kB, batch 500", _opening(more, _large(500)), share=0.5),
    )


def _large(batch: int) -> Setting:
    return Setting(batch=batch, request_bytes=20_000, response_bytes=40_000)


def _synchronous_commit() -> Sequence[Comparison]:
    ways = {
        word: tuning_ways.writing(arguments={"server_settings": {"synchronous_commit": word}}) for word in ("on", "off")
    }
    return (
        Comparison("synchronous_commit, batch 100", _opening(ways)),
        Comparison("synchronous_commit, batch 1", _opening(ways, _ONE), share=0.25),
    )


def _compression() -> Sequence[Comparison]:
    clauses = {"lz4": "COMPRESSION lz4", "pglz": "COMPRESSION pglz", "none": "STORAGE EXTERNAL"}
    tables = {
        label: [f"ALTER TABLE {table} ALTER COLUMN {column} SET {clause}" for table, column in _BODIES]
        for label, clause in clauses.items()
    }
    return (Comparison("Compression", _tables(tables), needs_lz4=True),)


def _tables(tables: Mapping[str, Sequence[str]]) -> dict[str, Variant]:
    return {label: Variant(tuning_ways.updating(), Setting(), ddl) for label, ddl in tables.items()}


def _toast_tuple_target() -> Sequence[Comparison]:
    larger = [f"ALTER TABLE {table} SET (toast_tuple_target = 4096)" for table, _ in _BODIES]
    return (Comparison("toast_tuple_target", _tables({"default": (), "4096": larger})),)


def _indexes() -> Sequence[Comparison]:
    names = ("created_by_created_at_id", "created_at_id", "template_id")
    drops = {f"without {name}": [f"DROP INDEX ix_requests_{name}"] for name in names}
    foreign = ["ALTER TABLE requests DROP CONSTRAINT requests_template_id_fkey"]
    none = [statement for each in drops.values() for statement in each]
    tables = {"all": (), **drops, "without these three": none, "without the foreign key": foreign}
    return (Comparison("Indexes of requests", _tables(tables)),)


def _back_to_back() -> Sequence[Comparison]:
    ways = {"straight on": WRITING, "one turn between": tuning_ways.taking_turns(1), "two": tuning_ways.taking_turns(2)}
    return (
        Comparison("From one batch to the next, batch 100", _opening(ways)),
        Comparison("From one batch to the next, batch 10", _opening(ways, Setting(batch=10))),
    )


def _linger() -> Sequence[Comparison]:
    ways = {f"{seconds * 1e3:g} ms": tuning_ways.paced(500, linger=seconds) for seconds in (0, 0.005, 0.05)}
    return (Comparison("linger, 500 records/s offered", _opening(ways), share=0.25),)


def _flush_concurrency() -> Sequence[Comparison]:
    numbers = {str(number): Variant(WRITING, Setting(flushes=number)) for number in (2, 1, 4)}
    return (Comparison("flush_concurrency, batch 100", numbers),)


def _round_trips() -> Sequence[Comparison]:
    ways = {"one statement that commits": WRITING, "BEGIN and COMMIT around it": tuning_ways.writing(direct=False)}
    return tuple(
        Comparison(f"Round trips, batch {setting.batch}", _opening(ways, setting), share=share)
        for setting, share in ((Setting(), 1), (Setting(batch=10), 1), (_ONE, 0.25))
    )


def _prepared() -> Sequence[Comparison]:
    # what pgbouncer=True asks of the driver; its NullPool is left out, as there is no pooler here to connect to
    anew = tuning_ways.writing(
        arguments={
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        }
    )
    ways = {"prepared once": WRITING, "prepared for each batch": anew}
    return (
        Comparison("Prepared statement, batch 100", _opening(ways)),
        Comparison("Prepared statement, batch 10", _opening(ways, Setting(batch=10))),
        Comparison("Prepared statement, batch 1", _opening(ways, _ONE), share=0.25),
    )


IDEAS: Final[Mapping[str, Callable[[], Sequence[Comparison]]]] = {
    "sizes": _sizes,
    "arrays": _arrays,
    "prepared": _prepared,
    "round_trips": _round_trips,
    "back_to_back": _back_to_back,
    "linger": _linger,
    "flush_concurrency": _flush_concurrency,
    "batch_bytes": _batch_bytes,
    "gc": _gc,
    "uvloop": _uvloop,
    "indexes": _indexes,
    "fillfactor": _fillfactor,
    "toast_tuple_target": _toast_tuple_target,
    "compression": _compression,
    "synchronous_commit": _synchronous_commit,
}
