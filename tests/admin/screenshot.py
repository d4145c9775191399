"""``python -m tests.admin.screenshot``: draw docs/how-to/admin.png, the page over a week of made-up traffic."""

from __future__ import annotations

import asyncio
import random
import shutil
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

from rwriter import CompletedRequest, RequestStore
from rwriter.admin import mount
from rwriter.engines._urls import connect_arguments
from rwriter.migrate import upgrade
from rwriter.testing import PostgresServer
from tests.admin.browser import browsing
from tests.admin.shown import let_in
from tests.docs.pages import ROOT
from tests.support.records import id_at, record
from tests.support.serving import served

PICTURE: Final = ROOT / "docs/how-to/admin.png"
MODELS: Final = (("gpt-5", "/v1/responses"), ("gpt-5-mini", "/v1/chat/completions"), ("claude-sonnet", "/v1/messages"))


def traffic(number: int) -> list[CompletedRequest]:
    """Make requests of the last week: a few tenants, models and failures, the same ones each time but for the day."""
    chance, end = random.Random(7), datetime.now(UTC).replace(minute=0, second=0, microsecond=0)  # noqa: S311
    return [_request(chance, end - timedelta(minutes=19 * n)) for n in range(number)]


def _request(chance: random.Random, began: datetime) -> CompletedRequest:
    model, path = chance.choice(MODELS)
    return record(
        request_id=id_at(began),
        model=model,
        endpoint=path,
        created_by=f"tenant-{chance.randint(1, 9)}",
        status_code=chance.choices((200, 429, 500), (20, 2, 3))[0],
        started_at=began,
        completed_at=began + timedelta(milliseconds=chance.randint(300, 9_000)),
        input_tokens=chance.randint(20, 4_000),
        output_tokens=chance.randint(5, 900),
    )


async def draw(server: PostgresServer, chromium: str) -> None:
    """Fill a database, and write the picture of its first page."""
    await upgrade(server.url())
    url, connect_args = connect_arguments(server.url())
    engine = create_async_engine(url, connect_args=connect_args)
    await RequestStore(engine).persist_completed(traffic(500))
    app = Starlette()
    mount(app, engine, authorize=let_in)
    async with served(app) as address, browsing(chromium, width=1240, height=560) as page:
        await page.goto(f"{address}/admin/?created_after=7d")
        await page.screenshot(path=PICTURE)
    await engine.dispose()


if __name__ == "__main__":
    found = shutil.which("chromium")
    if found is None:
        raise SystemExit("chromium is not installed: apt-get install chromium")
    with PostgresServer() as embedded:
        asyncio.run(draw(embedded, found))
