"""The demo's traffic, as its tests look at it."""

from __future__ import annotations

from rwriter.demo._traffic import Pair, load_traffic

PAIRS = load_traffic()
FIRSTS: dict[str, Pair] = {}
for _pair in PAIRS:
    FIRSTS.setdefault(_pair.request_id, _pair)
LATE = len(PAIRS) - len(FIRSTS)


# -- the traffic
