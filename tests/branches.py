"""Fail below a share of covered branches: ``coverage json -o - | python -m tests.branches``.

Coverage's own ``fail_under`` knows one figure for lines and branches together, in which lines hide branches.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

LEAST: Final = 94.0
"""Percent of the branches that the tests must take."""


def verdict(report: dict[str, Any]) -> tuple[bool, str]:
    """Return True if enough branches of ``coverage json`` are covered, and a line that says how many are."""
    covered, all_ = report["totals"]["covered_branches"], report["totals"]["num_branches"]
    share = 100 * covered / all_
    return share >= LEAST, f"branches: {covered} of {all_}, {share:.2f} %; at least {LEAST:g} % are asked for"


def main() -> int:
    """Judge the report on standard input; return the exit code."""
    is_enough, line = verdict(json.load(sys.stdin))
    sys.stdout.write(f"{line}\n")
    return 0 if is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
