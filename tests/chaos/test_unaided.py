"""Every default, and no spool."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import unaided


async def test_short_outages_are_held_in_the_buffer(ground: Ground) -> None:
    await unaided.outages_held(ground, lengths=(0.3, 0.7, 2.0))


async def test_a_role_with_one_connection_loses_nothing(ground: Ground) -> None:
    await unaided.one_connection(ground, records=2_000)


async def test_what_a_row_policy_refuses_on_the_replay_ends_in_dead_letters_once(ground: Ground) -> None:
    await unaided.policy_on_the_replay(ground, records=500)
