"""Closed partitions as Parquet, in a folder or on S3: written, verified, and read back.

``pip install 'rwriter[archive]'``. ``archive_partitions`` moves whole weeks or days out of the database;
``ArchiveStore`` finds, lists, sums up and erases what is there.
"""

from __future__ import annotations

from rwriter._values.extras import refuse_missing

try:
    from rwriter.archive._layout import ArchiveErasure
    from rwriter.archive._progress import Archived, Progress
    from rwriter.archive._run import archive_partitions
    from rwriter.archive._store import ArchiveStore
except ModuleNotFoundError as _exc:  # underscored: it would be a public name
    refuse_missing(_exc, "rwriter.archive", "archive", "pyarrow")

__all__ = ("ArchiveErasure", "ArchiveStore", "Archived", "Progress", "archive_partitions")
