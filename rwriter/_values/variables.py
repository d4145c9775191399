"""The environment variables that name the database: a module of its own, so that a command line starts quickly."""

from __future__ import annotations

from typing import Final

URL_VARIABLE: Final = "RWRITER_DATABASE_URL"
SCHEMA_VARIABLE: Final = "RWRITER_SCHEMA"
URL_FORM: Final = "postgresql://user:password@host:5432/database"
