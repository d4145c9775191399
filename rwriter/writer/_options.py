"""The writer's options: their names, types, defaults, bounds, units and meanings, each once."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

import msgspec

from rwriter._validation import at_least, one_of, positive
from rwriter.spool import Spool
from rwriter.upkeep import Upkeep

MIB: Final = 1024 * 1024

_LEAST: Final[dict[str, float]] = {
    "batch_bytes": 1,
    "channel_capacity": 1,
    "channel_bytes": 1,
    "max_retries": 0,
    "retry_base_delay": 0,
    "retry_max_delay": 0,
    "give_up_after": 0,
    "linger": 0,
    "flush_concurrency": 1,
    "drain_timeout": 0,
}
_POSITIVE: Final = ("flush_timeout", "replay_interval")

MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "batch_size": ("records", "most records in one statement (below 1 means 1)"),
    "batch_bytes": ("bytes", "most bytes of text in one flush (a larger record goes alone)"),
    "channel_capacity": ("records", "most records in the buffer"),
    "channel_bytes": ("bytes", "most bytes of text in the buffer (a larger record is admitted alone)"),
    "max_retries": ("attempts", "attempts after the first; then the database counts as away"),
    "retry_base_delay": ("seconds", "the first delay; doubles, times a random 1 to 1.5"),
    "retry_max_delay": ("seconds", "what the delay doubles up to"),
    "give_up_after": ("seconds", "without a spool, how long records wait in an outage; 0 drops after the retries"),
    "linger": ("seconds", "how long the oldest record waits for its batch to fill, while nobody waits for it"),
    "flush_concurrency": ("flushes", "flushes in flight, each on a connection of its own"),
    "flush_timeout": ("seconds", "one attempt, acquiring the connection included"),
    "drain_timeout": ("seconds", "how long ``aclose()`` drains by default"),
    "spool": ("", "a ``Spool``: where batches go when retries are spent"),
    "durability": ("", "``journal``: ``send`` returns when the record is in the spool"),
    "replay_interval": ("seconds", "how often the spool is searched for rows other processes left"),
    "fail_stale_after": ("seconds", "age at which ``fail_stale`` fails a row stuck in ``processing``; off"),
    "upkeep": ("", "an ``Upkeep``: retention, by one process of the fleet at a time"),
    "ledger": ("", "write an entry beside each batch, for ``rwriter audit``"),
    "check_schema": ("", "compare the database with head on start"),
    "name": ("", "in logs, spans and metrics"),
}
"""Unit and meaning of each option. The tables in the docs and in docstrings are held against this one by a test."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Holds the options of one writer. Raises ``ValueError`` naming the one that cannot be used."""

    batch_size: int = 100
    batch_bytes: int = 8 * MIB
    channel_capacity: int = 10_000
    channel_bytes: int = 64 * MIB
    max_retries: int = 3
    retry_base_delay: float = 0.1
    retry_max_delay: float = 10.0
    give_up_after: float = 120.0
    linger: float = 0.05
    flush_concurrency: int = 2
    flush_timeout: float = 60.0
    drain_timeout: float = 8.0
    spool: Spool | None = None
    durability: Literal["memory", "journal"] = "memory"
    replay_interval: float = 5.0
    fail_stale_after: float | None = None
    upkeep: Upkeep | None = None
    ledger: bool = False
    check_schema: bool = True
    name: str = "rwriter"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            msgspec.structs.force_setattr(self, "batch_size", 1)
        for option, least in _LEAST.items():
            at_least(option, getattr(self, option), least)
        for option in _POSITIVE:
            positive(option, getattr(self, option))
        if self.fail_stale_after is not None:
            positive("fail_stale_after", self.fail_stale_after)
        one_of("durability", self.durability, ("memory", "journal"))
        if self.durability == "journal" and self.spool is None:
            msg = "durability='journal' needs a spool: pass spool=Spool(directory)"
            raise ValueError(msg)


class WriterOptions(TypedDict, total=False):
    """The names and types of ``Options`` for type checkers: a misspelt option is a type error. Held by a test."""

    batch_size: int
    batch_bytes: int
    channel_capacity: int
    channel_bytes: int
    max_retries: int
    retry_base_delay: float
    retry_max_delay: float
    give_up_after: float
    linger: float
    flush_concurrency: int
    flush_timeout: float
    drain_timeout: float
    spool: Spool | None
    durability: Literal["memory", "journal"]
    replay_interval: float
    fail_stale_after: float | None
    upkeep: Upkeep | None
    ledger: bool
    check_schema: bool
    name: str
