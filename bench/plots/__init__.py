"""Draw a run of ``bench throughput`` and write its tables into docs/performance.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.plots import page, pictures
from bench.report import RESULTS

DOCS: Final = Path(__file__).parents[2] / "docs"


def run(arguments: Sequence[str]) -> None:
    """Draw, write the page's tables and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench plots", description=__doc__)
    parser.add_argument("json", nargs="?", type=Path, default=RESULTS / "throughput.json", help="(default %(default)s)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where performance.md is (default %(default)s)")
    parser.add_argument("--part", default="throughput", help="the page's part, of another server's run for instance")
    options = parser.parse_args(arguments)
    result = json.loads(options.json.read_text())
    prefix = "" if options.part == "throughput" else f"{options.part}-"
    drawn = pictures.draw(result["axes"], options.docs / "performance", prefix=prefix)
    text = page.markdown(result, drawn)
    page.insert(options.docs / "performance.md", text, options.part)
    print(text)
