"""A JetStream in front of the database: ``JetStreamStore`` publishes batches, ``consume`` stores them.

``pip install 'rwriter[nats]'``. The stream holds what the database cannot take yet, so that a service outlives an
outage of hours without a disk of its own, and any number of consumers shares the work.
"""

from __future__ import annotations

from rwriter._values.extras import refuse_missing

try:
    from rwriter.stream._consumer import StreamConsumer, consume
    from rwriter.stream._options import ConsumerStats
    from rwriter.stream._store import JetStreamStore
except ModuleNotFoundError as _exc:  # underscored: it would be a public name
    refuse_missing(_exc, "rwriter.stream", "nats", "nats", "backports")

__all__ = ("ConsumerStats", "JetStreamStore", "StreamConsumer", "consume")
