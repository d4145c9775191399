"""The network between the service and its database."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import network


async def test_a_connection_cut_in_the_middle_of_commit_loses_and_doubles_nothing(ground: Ground) -> None:
    await network.commit_cut(ground, cuts=15)


async def test_a_transaction_whose_client_vanished_does_not_hold_its_rows_for_hours(ground: Ground) -> None:
    await network.service_vanished(ground)


async def test_a_peer_that_falls_silent_costs_time_and_no_record(ground: Ground) -> None:
    await network.half_open(ground, seconds=0)


async def test_a_service_told_to_end_while_its_database_is_silent_ends_and_loses_nothing(ground: Ground) -> None:
    await network.half_open_at_the_end(ground)
