"""Heads that were kept elsewhere: the log of a service, or a file of its own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Final

from rwriter.ledger._audit._findings import LedgerHead

_HEAD: Final = re.compile(r"\b([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) ([0-9]+) ([0-9a-f]{64})\b")


def heads_in(lines: Iterable[str]) -> list[LedgerHead]:
    """Return the last head of each lane that the lines tell of, wherever in a line it stands."""
    found: dict[uuid.UUID, LedgerHead] = {}
    for line in lines:
        for lane, seq, digest in _HEAD.findall(line):
            head = LedgerHead(uuid.UUID(lane), int(seq), digest)
            if head.lane not in found or found[head.lane].seq <= head.seq:
                found[head.lane] = head
    return list(found.values())
