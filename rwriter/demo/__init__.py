"""Shows the library at work: real-format traffic into a real server, read back and compared."""

from __future__ import annotations

from rwriter.demo._run import main

__all__ = ("main",)
