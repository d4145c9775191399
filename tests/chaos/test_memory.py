"""The service's memory: bounded by bytes, whatever the database does."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import memory
from tests.support.sizes import MIB

VOLUME = 200 * MIB


async def test_through_an_outage_at_full_input_memory_stays_flat_beside_the_spool(ground: Ground) -> None:
    await memory.outage_with_a_spool(ground, volume=VOLUME)


async def test_through_an_outage_at_full_input_memory_stays_flat_without_a_spool(ground: Ground) -> None:
    await memory.outage_without_a_spool(ground, volume=VOLUME)


async def test_a_buffer_that_waits_for_the_database_is_bounded_by_bytes(ground: Ground) -> None:
    await memory.outage_with_a_full_buffer(ground)


async def test_a_flush_stuck_behind_a_lock_keeps_nothing_but_its_own_records(ground: Ground) -> None:
    await memory.one_flush_stuck(ground, volume=VOLUME)
