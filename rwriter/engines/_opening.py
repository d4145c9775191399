"""The engines that a caller names in any of the ways it may: a URL, a provider, an engine, or the environment's URL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from rwriter._values.variables import SCHEMA_VARIABLE, URL_FORM, URL_VARIABLE
from rwriter.engines._providers import DbEngines, EngineProvider, as_provider
from rwriter.errors import RwriterError

Engines: TypeAlias = EngineProvider | AsyncEngine | URL | str
"""Engines, or the URL to make them for."""


@asynccontextmanager
async def opened(engines: Engines | None) -> AsyncIterator[EngineProvider]:
    """Yield a provider: ``engines`` itself, or one for its URL, which is closed at the end.

    ``None`` stands for ``RWRITER_DATABASE_URL``, in the schema that ``RWRITER_SCHEMA`` names. Raises ``RwriterError``
    where that is not set, and what ``DbEngines.from_url`` and the constructors of engines raise.
    """
    if engines is None:
        url: str | URL = url_from_environment()
        schema = os.environ.get(SCHEMA_VARIABLE) or None
    elif isinstance(engines, (str, URL)):
        url, schema = engines, None
    else:
        yield as_provider(engines)
        return
    async with DbEngines.from_url(url, schema=schema) as made:
        yield made


def url_from_environment() -> str:
    """Return ``RWRITER_DATABASE_URL``. Raises ``RwriterError``, with what to set, where it is missing or empty."""
    url = os.environ.get(URL_VARIABLE)
    if not url:
        msg = f"no database given: set {URL_VARIABLE}={URL_FORM}"
        raise RwriterError(msg)
    return url
