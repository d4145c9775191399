"""``python -m rwriter.cli``."""

from __future__ import annotations

from rwriter.cli import main

main()
