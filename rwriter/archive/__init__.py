"""Closed partitions as Parquet, in a folder or on S3: written, verified, and read back.

``pip install 'rwriter[archive]'``. ``archive_partitions`` moves whole weeks or days out of the database;
``ArchiveStore`` finds, lists, sums up and erases what is there.
"""

from __future__ import annotations

try:
    from rwriter.archive._layout import ArchiveErasure
    from rwriter.archive._progress import Archived, Progress
    from rwriter.archive._run import archive_partitions
    from rwriter.archive._store import ArchiveStore
except ModuleNotFoundError as exc:
    missing = str(exc.name).partition(".")[0]
    if missing != "pyarrow":
        raise
    msg = f"rwriter.archive needs {missing}: pip install 'rwriter[archive]'"
    raise ModuleNotFoundError(msg, name=exc.name) from exc

__all__ = ("ArchiveErasure", "ArchiveStore", "Archived", "Progress", "archive_partitions")
