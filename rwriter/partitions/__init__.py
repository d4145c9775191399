"""Partitions of the requests: listed, made ahead and dropped.

For tables that ``rwriter migrate --partitioned week`` (or ``day``) made. Each function takes an engine provider or an
``AsyncEngine`` and asks the database itself how its tables are made.
"""

from __future__ import annotations

from rwriter.partitions._bounds import IdBounds
from rwriter.partitions._catalog import PERIODS, Partition, faults, listing, variant
from rwriter.partitions._dropping import drop
from rwriter.partitions._making import AHEAD, ensure

__all__ = ("AHEAD", "PERIODS", "IdBounds", "Partition", "drop", "ensure", "faults", "listing", "variant")
