"""The environment variables that name the database, apart from what uses them: a command line starts quickly."""

from __future__ import annotations

from typing import Final

URL_VARIABLE: Final = "RWRITER_DATABASE_URL"
SCHEMA_VARIABLE: Final = "RWRITER_SCHEMA"
URL_FORM: Final = "postgresql://user:password@host:5432/database"
"""The form of URL that messages and help pages tell the user to write."""
