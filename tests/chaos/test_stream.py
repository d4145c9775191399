"""``kill -9`` of the processes around a stream."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import stream


async def test_nothing_is_lost_when_broker_consumer_and_service_are_killed_in_turn(ground: Ground) -> None:
    await stream.anything_killed(ground, rounds=1, what=("broker", "consumer", "service"))
