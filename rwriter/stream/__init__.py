"""A JetStream in front of the database: ``JetStreamStore`` publishes batches, ``consume`` stores them.

``pip install 'rwriter[nats]'``. The stream holds what the database cannot take yet, so that a service outlives an
outage of hours without a disk of its own, and any number of consumers shares the work.
"""

from __future__ import annotations

try:
    from rwriter.stream._consumer import StreamConsumer, consume
    from rwriter.stream._options import ConsumerStats
    from rwriter.stream._store import JetStreamStore
except ModuleNotFoundError as exc:
    missing = str(exc.name).partition(".")[0]
    if missing not in {"nats", "backports"}:
        raise
    msg = f"rwriter.stream needs {missing}: pip install 'rwriter[nats]'"
    raise ModuleNotFoundError(msg, name=exc.name) from exc

__all__ = ("ConsumerStats", "JetStreamStore", "StreamConsumer", "consume")
