"""The table itself refuses rows in an impossible state, whoever writes them."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.support.migrations import column, connected

NIL = "00000000-0000-0000-0000-000000000000"
THEN = "2026-01-02 03:04:05+00"

CLAIMED = {"daemon_id": NIL, "claimed_at": THEN}
COMPLETED = {"response_status": 200, "response_body": "", "completed_at": THEN}

# what a row of each state must have, and what it must not
NEEDED: dict[str, dict[str, Any]] = {
    "pending": {},
    "claimed": CLAIMED,
    "processing": CLAIMED | {"started_at": THEN},
    "completed": COMPLETED,
    "failed": {"error": "{}", "failed_at": THEN},
    "canceled": {"canceled_at": THEN},
}
FORBIDDEN: dict[str, dict[str, Any]] = {
    "pending": CLAIMED | {"started_at": THEN},
    "claimed": {"started_at": THEN},
}
TIERS = [None, "auto", "default", "flex", "priority", "background"]

LACKING = [
    (f"{state}_fields_check", {"state": state} | {name: value for name, value in fields.items() if name != lacking})
    for state, fields in NEEDED.items()
    for lacking in fields
]
TOO_MUCH = [
    (f"{state}_fields_check", {"state": state} | NEEDED[state] | {name: value})
    for state, fields in FORBIDDEN.items()
    for name, value in fields.items()
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("state_check", {"state": "done"}),
    ("state_check", {"state": ""}),
    ("requests_attribution_xor", {"created_by": None}),
    ("requests_attribution_xor", {"batch_id": NIL}),
    ("requests_service_tier_check", {"service_tier": "scale"}),
    ("requests_service_tier_check", {"service_tier": ""}),
]


def insert(fields: dict[str, Any]) -> str:
    literals = {"model": "m", "created_by": "me"} | fields
    values = ", ".join("NULL" if value is None else f"'{value}'" for value in literals.values())
    return f"INSERT INTO requests ({', '.join(literals)}) VALUES ({values})"


def name_of(value: object) -> str:
    return value if isinstance(value, str) else ",".join(f"{name}={field}" for name, field in dict(value).items())  # type: ignore[call-overload]


@pytest.mark.parametrize(("constraint", "fields"), [*LACKING, *TOO_MUCH, *OTHERS], ids=name_of)
async def test_a_row_that_breaks_a_check_is_refused(
    unchanged_database: str, constraint: str, fields: dict[str, Any]
) -> None:
    async with connected(unchanged_database) as connection:
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await connection.execute(insert(fields))
    assert caught.value.constraint_name == constraint
    assert await column(unchanged_database, "SELECT id FROM requests") == []


async def test_a_row_that_keeps_them_is_taken(unchanged_database: str) -> None:
    async with connected(unchanged_database) as connection:
        transaction = connection.transaction()
        await transaction.start()
        for state, fields in NEEDED.items():
            await connection.execute(insert({"state": state} | fields))
        for tier in TIERS:
            await connection.execute(insert({"service_tier": tier}))
        await connection.execute(insert({"batch_id": NIL, "created_by": None}))
        assert await connection.fetchval("SELECT count(*) FROM requests") == len(NEEDED) + len(TIERS) + 1
        await transaction.rollback()
