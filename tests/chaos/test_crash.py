"""``kill -9`` of a service."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import crash


async def test_a_journaling_service_killed_at_any_moment_loses_nothing_send_returned_for(ground: Ground) -> None:
    await crash.journaling_service_killed(ground, rounds=8)


async def test_a_service_without_a_journal_loses_at_most_its_buffer_and_never_half_a_row(ground: Ground) -> None:
    await crash.remembering_service_killed(ground, rounds=8)


async def test_what_a_service_killed_in_an_outage_had_spooled_is_delivered_by_the_next(ground: Ground) -> None:
    await crash.spooling_service_killed(ground, rounds=4)


async def test_a_record_whose_caller_hung_up_does_not_stay_in_the_journal(ground: Ground) -> None:
    await crash.callers_hanging_up(ground, records=300)
