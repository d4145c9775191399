"""Spools as another process finds them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from rwriter import Spool

ALL: Final = (1_000, 1 << 30)
"""As many rows, and bytes, as there may be."""


@contextlib.asynccontextmanager
async def opened(folder: Path, *, adopt: bool = False) -> AsyncIterator[Spool]:
    spool = Spool(folder, adopt=adopt)
    await spool.open()
    try:
        yield spool
    finally:
        await spool.aclose()


async def found_in(folder: Path) -> list[object]:
    """Return every record that a fresh process would replay, and remove it."""
    found: list[object] = []
    async with opened(folder) as spool:
        while rows := await spool.claim(*ALL):
            found += [row.record for row in rows]
            await spool.remove([row.seq for row in rows])
    return found
