"""Partitions of the requests: listed, made ahead and dropped.

For tables that ``rwriter migrate --partitioned week`` (or ``day``) made.
"""

from __future__ import annotations

from rwriter.partitions._catalog import PERIODS, Partition, faults, variant

__all__ = ("PERIODS", "Partition", "faults", "variant")
