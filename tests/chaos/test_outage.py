"""PostgreSQL goes away under load."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import outage


async def test_a_killed_server_costs_no_record(ground: Ground) -> None:
    await outage.server_killed(ground, rounds=2)


async def test_a_stop_shorter_than_the_retries_needs_no_spool(ground: Ground) -> None:
    await outage.short_stop(ground, seconds=0)


async def test_a_stop_longer_than_the_retries_goes_to_disk_and_comes_back(ground: Ground) -> None:
    await outage.long_stop(ground, seconds=0)


async def test_poison_in_the_middle_of_an_outage_ends_in_dead_letters_once(ground: Ground) -> None:
    await outage.poison_in_an_outage(ground, records=500)
