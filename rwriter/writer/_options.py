"""The writer's options, checked once and shared by its parts."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from rwriter._validation import at_least, one_of, positive

MIB: Final = 1024 * 1024

_LEAST: Final[dict[str, float]] = {
    "batch_bytes": 1,
    "channel_capacity": 1,
    "channel_bytes": 1,
    "max_retries": 0,
    "retry_base_delay": 0,
    "retry_max_delay": 0,
    "linger": 0,
    "flush_concurrency": 1,
    "drain_timeout": 0,
}
_POSITIVE: Final = ("flush_timeout", "replay_interval")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """See ``RequestsWriter`` for what each means. Raises ``ValueError`` naming the one that cannot be used."""

    batch_size: int
    batch_bytes: int
    channel_capacity: int
    channel_bytes: int
    max_retries: int
    retry_base_delay: float
    retry_max_delay: float
    linger: float
    flush_concurrency: int
    flush_timeout: float
    drain_timeout: float
    durability: Literal["memory", "journal"]
    replay_interval: float
    fail_stale_after: float | None
    check_schema: bool
    name: str

    def __post_init__(self) -> None:
        for option, least in _LEAST.items():
            at_least(option, getattr(self, option), least)
        for option in _POSITIVE:
            positive(option, getattr(self, option))
        if self.fail_stale_after is not None:
            positive("fail_stale_after", self.fail_stale_after)
        one_of("durability", self.durability, ("memory", "journal"))
