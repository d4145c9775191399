"""Processes of one host on one spool folder."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import sharing


async def test_what_a_killed_process_left_in_a_shared_spool_is_replayed_once_by_the_other(ground: Ground) -> None:
    await sharing.one_of_two_killed(ground, records=300)
