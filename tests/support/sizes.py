"""Name the units of size that tests count in."""

from __future__ import annotations

from typing import Final

MIB: Final = 1024 * 1024
"""Bytes in a mebibyte."""
