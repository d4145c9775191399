"""The command line ``rwriter``, one module a group of commands."""

from __future__ import annotations

from rwriter.cli._main import main

__all__ = ("main",)
