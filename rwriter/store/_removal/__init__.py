"""Rows out of the tables again: one request, an owner's, or what is old. In bounded transactions."""

from __future__ import annotations

from rwriter.store._removal._erase import delete_request, erase
from rwriter.store._removal._purge import oldest_finished, purge, purgeable
from rwriter.store._removal._rows import Rows

__all__ = ("Rows", "delete_request", "erase", "oldest_finished", "purge", "purgeable")
