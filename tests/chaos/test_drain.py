"""A service told to end."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import drain


async def test_what_a_service_told_to_end_cannot_deliver_is_on_disk_and_delivered_by_the_next(ground: Ground) -> None:
    await drain.told_to_end(ground, queued=10_000)
