"""The library's statement with its arrays given in other ways, each executed alike over raw asyncpg."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final

import uuid_utils
from sqlalchemy import make_url

from bench.batches import Store
from bench.peer_asyncpg import Driver
from rwriter import CompletedRequest
from rwriter._urls import DRIVER
from rwriter.records import utf8_size
from rwriter.store._persist import arrays_of, statement

Arrays = dict[str, Any]

_TYPES: Final = {
    "id": "uuid[]",
    "template_id": "uuid[]",
    "custom_id": "text[]",
    "model": "text[]",
    "path": "text[]",
    "api_key": "text[]",
    "created_by": "text[]",
    "request_body": "text[]",
    "status": "smallint[]",
    "response_body": "text[]",
    "error": "text[]",
    "started_at": "timestamptz[]",
    "finished_at": "timestamptz[]",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Statement:
    """``types``: of the parameters that differ from the library's (``""``: none); ``arrays`` makes them of its own.

    ``columns``: what a column of the statement's source is, where that is not an array. ``replaced``: in the rest.
    """

    types: dict[str, str] = dataclasses.field(default_factory=dict)
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    arrays: Callable[[Arrays], Arrays] = lambda given: given
    replaced: dict[str, str] = dataclasses.field(default_factory=dict)

    def store(self, driver: Driver) -> Store:
        """Stores a batch with one prepared statement in one transaction."""
        types = {name: type_ for name, type_ in (_TYPES | self.types).items() if type_}
        sql = self._sql(types)

        async def store(batch: Sequence[CompletedRequest]) -> None:
            given = self.arrays(arrays_of(batch))
            async with driver.transaction():
                await driver.fetchrow(sql, *[given[name] for name in types])

        return store

    def _sql(self, types: dict[str, str]) -> str:
        parameters = {name: f"${number}::{type_}" for number, (name, type_) in enumerate(types.items(), 1)}
        arrays = {name: parameter for name, parameter in parameters.items() if parameter.endswith("[]")}
        columns = dict(zip(arrays, arrays, strict=True)) | self.columns
        source = ", ".join(f"{made.format(**parameters)} AS {name}" for name, made in columns.items())
        unnest = f"unnest({', '.join(arrays.values())}) AS source ({', '.join(arrays)})"
        _, up, rest = str(statement().compile(dialect=make_url(f"{DRIVER}://").get_dialect()())).partition("up AS")
        for old, new in self.replaced.items():
            rest = _replaced(rest, old, new)
        return f"WITH v AS (SELECT {source} FROM {unnest}), {up}{rest}"


def _replaced(sql: str, old: str, new: str) -> str:
    if old not in sql:
        msg = f"the library's statement has no {old} any more"
        raise LookupError(msg)
    return sql.replace(old, new)


_GIVEN_SIZES: Final = {
    "octet_length(v.request_body)": "v.request_size",
    "octet_length(v.response_body)": "v.response_size",
}


def _sized(given: Arrays) -> Arrays:
    return given | {
        "request_size": [utf8_size(body) for body in given["request_body"]],
        "response_size": [utf8_size(body) for body in given["response_body"]],
    }


def _numbered(number: Callable[[datetime], float]) -> Callable[[Arrays], Arrays]:
    def arrays(given: Arrays) -> Arrays:
        return given | {name: [number(at) for at in given[name]] for name in ("started_at", "finished_at")}

    return arrays


def microseconds(at: datetime) -> int:
    """Since 1970, exactly."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _joined(given: Arrays) -> Arrays:
    """Both kinds of bodies in one parameter each, and where each body ends."""
    made: Arrays = {}
    for name in ("request", "response"):
        encoded = [body.encode() for body in given[f"{name}_body"]]
        sizes = [len(body) for body in encoded]
        made |= {f"{name}_size": sizes, f"{name}_end": list(accumulate(sizes)), f"{name}_bodies": b"".join(encoded)}
    return given | made


def _library_ids(given: Arrays) -> Arrays:
    return given | {"id": [uuid_utils.UUID(int=each.int) for each in given["id"]]}


LIBRARY: Final = Statement()

SIZES: Final = Statement(
    types={"request_size": "int[]", "response_size": "int[]"}, arrays=_sized, replaced=_GIVEN_SIZES
)

MICROSECONDS: Final = Statement(
    types={"started_at": "bigint[]", "finished_at": "bigint[]"},
    columns={
        name: f"timestamptz 'epoch' + {name} * interval '1 microsecond'" for name in ("started_at", "finished_at")
    },
    arrays=_numbered(microseconds),
)

SECONDS: Final = Statement(
    types={"started_at": "float8[]", "finished_at": "float8[]"},
    columns={name: f"to_timestamp({name})" for name in ("started_at", "finished_at")},
    arrays=_numbered(datetime.timestamp),
)

UTILS_IDS: Final = Statement(arrays=_library_ids)

TEXT_IDS: Final = Statement(
    types={"id": "text[]", "template_id": "text[]"},
    columns={"id": "id::uuid", "template_id": "template_id::uuid"},
    arrays=lambda given: given | {name: [str(each) for each in given[name]] for name in ("id", "template_id")},
)

ONCE: Final = Statement(
    types={"model": "text", "path": "text"},
    columns={"model": "{model}", "path": "{path}"},
    arrays=lambda given: given | {name: given[name][0] for name in ("model", "path")},
)
"""As if every batch had one model and one path: what would be saved where it has."""

JOINED: Final = Statement(
    types={
        "request_body": "",
        "response_body": "",
        **{f"{name}_{part}": "int[]" for name in ("request", "response") for part in ("size", "end")},
        **{f"{name}_bodies": "bytea" for name in ("request", "response")},
    },
    columns={
        f"{name}_body": (f"convert_from(substr({{{name}_bodies}}, {name}_end - {name}_size + 1, {name}_size), 'UTF8')")
        for name in ("request", "response")
    },
    arrays=_joined,
    replaced=_GIVEN_SIZES,
)
"""All bodies of a kind in one parameter: what an array costs the driver is a copy and a reallocation an element."""
