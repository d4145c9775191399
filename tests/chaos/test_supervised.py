"""Supervisors that kill what has not ended in time."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import supervised


async def test_a_process_under_docker_has_everything_in_the_spool_before_it_is_killed(ground: Ground) -> None:
    await supervised.plain_process(ground, calls=100)


async def test_so_has_uvicorn(ground: Ground) -> None:
    await supervised.uvicorn(ground, calls=100)


async def test_so_has_gunicorn_within_its_graceful_timeout(ground: Ground) -> None:
    await supervised.gunicorn(ground, calls=100)
