"""Open pages in a real, headless Chromium."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from playwright.async_api import Page, async_playwright, expect

PATIENCE = 30_000
"""Milliseconds: on a busy machine a browser is slow."""

expect.set_options(timeout=PATIENCE)


@contextlib.asynccontextmanager
async def browsing(chromium: str, *, width: int = 1280, height: int = 800) -> AsyncIterator[Page]:
    """Open an empty page in the Chromium of that path, in a profile of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        try:
            page = await browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(PATIENCE)
            yield page
        finally:
            await browser.close()
