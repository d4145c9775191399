"""Partitioned tables, with some weeks of the past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter.partitions import ensure


@pytest.fixture(params=["week"])
def partitioned(request: pytest.FixtureRequest) -> Literal["week", "day"]:
    """Every database here is partitioned."""
    period: Literal["week", "day"] = request.param
    return period


@pytest.fixture
async def weeks_ago(engine: AsyncEngine) -> datetime:
    """Make the partitions of the last four weeks. Returns a moment three weeks ago."""
    now = datetime.now(UTC)
    await ensure(engine, since=now - timedelta(weeks=4))
    return now - timedelta(weeks=3)
