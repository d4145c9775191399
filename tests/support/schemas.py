"""The second schema that a sample of the tests runs in."""

from __future__ import annotations

from typing import Final

AWKWARD_SCHEMA: Final = "tenant a-Ü"
"""A name that must be quoted everywhere."""
