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
except ModuleNotFoundError as _exc:  # underscores: these would be public names
    _missing = str(_exc.name).partition(".")[0]
    if _missing != "pyarrow":
        raise
    _msg = f"rwriter.archive needs {_missing}: pip install 'rwriter[archive]'"
    raise ModuleNotFoundError(_msg, name=_exc.name) from _exc

__all__ = ("ArchiveErasure", "ArchiveStore", "Archived", "Progress", "archive_partitions")
