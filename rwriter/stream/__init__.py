"""A JetStream in front of the database: ``JetStreamStore`` publishes batches, ``consume`` stores them.

``pip install 'rwriter[nats]'``. The stream holds what the database cannot take yet, so that a service outlives an
outage of hours without a disk of its own, and any number of consumers shares the work.
"""

from __future__ import annotations

try:
    from rwriter.stream._consumer import StreamConsumer, consume
    from rwriter.stream._options import ConsumerStats
    from rwriter.stream._store import JetStreamStore
except ModuleNotFoundError as _exc:  # underscores: these would be public names
    _missing = str(_exc.name).partition(".")[0]
    if _missing not in {"nats", "backports"}:
        raise
    _msg = f"rwriter.stream needs {_missing}: pip install 'rwriter[nats]'"
    raise ModuleNotFoundError(_msg, name=_exc.name) from _exc

__all__ = ("ConsumerStats", "JetStreamStore", "StreamConsumer", "consume")
