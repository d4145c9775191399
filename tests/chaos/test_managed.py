"""Nodes whose leader another program chooses."""

from __future__ import annotations

import pytest

from tests.chaos.ground import Ground
from tests.chaos.patroni import missing
from tests.chaos.scenarios import managed


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
async def test_a_leader_under_patroni_is_killed_and_switched_over_and_nothing_is_lost(ground: Ground) -> None:
    await managed.failed_and_switched_over(ground, rounds=1)
