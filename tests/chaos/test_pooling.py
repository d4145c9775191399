"""PgBouncer between the services and PostgreSQL."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import pooling


async def test_a_restarted_pgbouncer_costs_no_record(ground: Ground) -> None:
    await pooling.pooler_restarted(ground, services=2, rounds=2)
