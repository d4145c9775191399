"""Web servers with workers."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import web


async def test_every_call_answered_by_uvicorns_workers_has_its_row_after_a_sigterm(ground: Ground) -> None:
    await web.uvicorn_told_to_end(ground, calls=300)


async def test_under_gunicorn_a_preloaded_writer_refuses_and_those_of_the_workers_lose_nothing(ground: Ground) -> None:
    await web.gunicorn_told_to_end(ground, calls=300)
