"""A standby takes over, or is read from."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import failover


async def test_a_promoted_standby_takes_over_and_nothing_is_lost(ground: Ground) -> None:
    await failover.primary_lost(ground)


async def test_a_primary_that_vanished_silently_does_not_keep_the_writer_from_the_next_host(ground: Ground) -> None:
    await failover.primary_silent(ground)


async def test_a_connection_that_finds_itself_on_a_read_only_server_is_given_up_for_another_host(
    ground: Ground,
) -> None:
    await failover.primary_read_only(ground)


async def test_rows_written_to_the_primary_are_read_from_the_standby(ground: Ground) -> None:
    await failover.read_from_the_standby(ground, records=100)
