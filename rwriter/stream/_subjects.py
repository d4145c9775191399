"""The names in a stream, and what a stream must be for no record to be lost in it."""

from __future__ import annotations

from typing import Final

from nats.js import api

from rwriter.errors import SinkMisconfigured


class Subjects:
    """Names the subjects of ``stream``: of messages with records, and of the parts of those too large for one."""

    def __init__(self, stream: str, subject: str | None) -> None:
        if not stream or not set(stream).isdisjoint(">*. /\\\t\r\n"):
            msg = f"stream must be a name without spaces, dots, slashes and wildcards, not {stream!r}"
            raise ValueError(msg)
        self.stream: Final = stream
        self.records: Final = f"{stream}.records" if subject is None else subject
        if not all(self.records.split(".")) or not set(self.records).isdisjoint(">* \t\r\n"):
            msg = f"subject must be words with dots between them, without wildcards, not {subject!r}"
            raise ValueError(msg)
        self.all_parts: Final = f"{self.records}.part.>"

    def part(self, digest: str, number: int) -> str:
        """Return the subject of one part of a payload."""
        return f"{self.records}.part.{digest}.{number}"

    def parts_of(self, digest: str) -> str:
        """Return the subject of all parts of a payload."""
        return f"{self.records}.part.{digest}.>"

    def check_durable(self, name: str, config: api.ConsumerConfig) -> None:
        """Raise ``SinkMisconfigured`` where a durable that somebody else made would leave messages undelivered."""
        filters = [config.filter_subject or "", *(config.filter_subjects or [])]
        for fault, remedy in (
            (config.ack_policy != api.AckPolicy.EXPLICIT, "wants no acknowledgements: set ack_policy to explicit"),
            ((config.max_deliver or -1) > 0, "gives messages up: set max_deliver to -1"),
            (bool(config.deliver_subject), "pushes: make one that is pulled"),
            (not any(_covers(each, self.records) for each in filters if each), f"is not for {self.records}"),
        ):
            if fault:
                raise SinkMisconfigured(f"the durable {name} of stream {self.stream} {remedy}")

    def check(self, config: api.StreamConfig) -> None:
        """Raise ``SinkMisconfigured`` where a stream with ``config`` would lose records, or does not take them."""
        subjects = config.subjects or []
        for wanted in (self.records, self.all_parts):
            if not any(_covers(subject, wanted) for subject in subjects):
                raise SinkMisconfigured(f"the stream {self.stream} does not take {wanted}: add it to its subjects")
        for fault, remedy in (
            (config.storage == api.StorageType.MEMORY, "is in memory: make one with storage file"),
            (config.discard != api.DiscardPolicy.NEW, "drops the oldest when it is full: set discard to new"),
            # with interest, a message before the first consumer is gone; with limits, none ever goes, and it fills up
            (config.retention != api.RetentionPolicy.WORK_QUEUE, "is no work queue: set retention to workqueue"),
            (bool(config.max_age), "drops what is older than max_age: set that to 0"),
            (
                (config.max_msgs_per_subject or -1) > 0,
                "bounds a subject: set max_msgs_per_subject to -1",
            ),
            (bool(config.no_ack), "acknowledges nothing: set no_ack to false"),
        ):
            if fault:
                raise SinkMisconfigured(f"the stream {self.stream} {remedy}")


def _covers(pattern: str, wanted: str) -> bool:
    """Return True if every subject that matches ``wanted`` matches ``pattern``."""
    ours, theirs = pattern.split("."), wanted.split(".")
    for position, word in enumerate(ours):
        if word == ">":
            return len(theirs) > position
        if position == len(theirs) or (word != theirs[position] and (word != "*" or theirs[position] == ">")):
            return False
    return len(ours) == len(theirs)
