"""The options of a consumer, and its account."""

from __future__ import annotations

from typing import Any, Final, TypedDict

import msgspec

from rwriter._validation import at_least, positive
from rwriter._values.guarded import Guarded

_LEAST: Final[dict[str, float]] = {
    "concurrency": 1,
    "max_retries": 0,
    "retry_base_delay": 0,
    "retry_max_delay": 0,
}
_POSITIVE: Final = ("ack_wait", "return_delay", "flush_timeout", "lag_interval", "timeout")


class Options(Guarded, frozen=True, kw_only=True):
    """Holds the options of one consumer. Raises ``ValueError`` naming the one that cannot be used."""

    __shown__ = ("durable", "concurrency", "name")

    subject: str | None = None
    durable: str = "rwriter"
    concurrency: int = 2
    ack_wait: float = 60.0
    return_delay: float = 60.0
    max_retries: int = 3
    retry_base_delay: float = 0.1
    retry_max_delay: float = 10.0
    flush_timeout: float = 60.0
    lag_interval: float = 5.0
    timeout: float = 5.0
    ledger: bool = False
    check_schema: bool = True
    connect: dict[str, Any] | None = None
    name: str = "rwriter-consume"

    def __post_init__(self) -> None:
        for option, least in _LEAST.items():
            at_least(option, getattr(self, option), least)
        for option in _POSITIVE:
            positive(option, getattr(self, option))
        if not self.durable or not set(self.durable).isdisjoint(">*. /\\\t\r\n"):
            msg = f"durable must be a name without spaces, dots, slashes and wildcards, not {self.durable!r}"
            raise ValueError(msg)


class ConsumeOptions(TypedDict, total=False):
    """The names and types of ``Options`` for type checkers. Held by a test."""

    subject: str | None
    durable: str
    concurrency: int
    ack_wait: float
    return_delay: float
    max_retries: int
    retry_base_delay: float
    retry_max_delay: float
    flush_timeout: float
    lag_interval: float
    timeout: float
    ledger: bool
    check_schema: bool
    connect: dict[str, Any] | None
    name: str


class ConsumerStats(msgspec.Struct, kw_only=True):
    """The account of one consumer, exact at every instant.

    ``received == persisted + skipped + dead + returned + pending``; a record that was returned comes again, here or
    elsewhere.

    ===============  ===========================================================================================
    ``received``     records in the messages that it took
    ``persisted``    rows inserted or finished
    ``skipped``      a row with that id was there (a redelivery), or its owner was erased
    ``dead``         refused by the database, or before the stream, and kept in ``dead_letters``
    ``returned``     given back to the stream: the database is away, or refuses even the dead letter
    ``pending``      in hand
    ``messages``     messages acknowledged: everything in them is stored
    ``redelivered``  messages that had been delivered before, here or elsewhere
    ``unreadable``   messages that this release cannot read; they stay in the stream
    ``lag``          messages of the stream that are not acknowledged, as of the latest look; ``None`` before it
    ===============  ===========================================================================================
    """

    received: int = 0
    persisted: int = 0
    skipped: int = 0
    dead: int = 0
    returned: int = 0
    pending: int = 0
    messages: int = 0
    redelivered: int = 0
    unreadable: int = 0
    lag: int | None = None
