"""Engines for the SQL: one engine for writes, one for reads, or a single engine for both."""

from rwriter.engines._opening import Engines, opened, url_from_environment
from rwriter.engines._providers import (
    DbEngines,
    EngineProvider,
    Password,
    as_provider,
    check_engine,
    hiding_parameters,
    in_schema,
    schema_of,
)

__all__ = [
    "DbEngines",
    "EngineProvider",
    "Engines",
    "Password",
    "as_provider",
    "check_engine",
    "hiding_parameters",
    "in_schema",
    "opened",
    "schema_of",
    "url_from_environment",
]
