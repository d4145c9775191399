"""The year's calendar, and the requests of a week: the same ones for the same calendar."""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rwriter import CompletedRequest
from rwriter.schema import first_id

WEEK: Final = timedelta(days=7)
SUBJECT: Final = "tenant-3"
"""The owner who asks to be forgotten."""

POISON: Final = "model-of-a-typo"
"""A model that a constraint of the service's own refuses."""

MODELS: Final = ("gpt-5", "gpt-5-mini", "claude-sonnet")
OWNERS: Final = tuple(f"tenant-{n}" for n in range(1, 8))


@dataclass(frozen=True)
class Calendar:
    """The weeks of the year, and when what happens. The erasure is today: its mark has the database's own time."""

    start: datetime
    weeks: int
    per_week: int

    @classmethod
    def around(cls, today: datetime, weeks: int, per_week: int) -> Calendar:
        """Lay the year so that the week of the erasure begins an hour from ``today``."""
        return cls(today + timedelta(hours=1) - weeks * 5 // 8 * WEEK, weeks, per_week)

    @property
    def migration(self) -> int:
        """The week at whose beginning the second migration is run."""
        return max(1, self.weeks // 8)

    @property
    def outage(self) -> int:
        """The week without a database."""
        return self.weeks * 3 // 8

    @property
    def erasure(self) -> int:
        """The week that begins with the erasure."""
        return self.weeks * 5 // 8

    @property
    def full_disk(self) -> int:
        """The week without a database and with a spool that has no room."""
        return self.weeks * 6 // 8

    def begin(self, week: int) -> datetime:
        """Return when a week begins."""
        return self.start + week * WEEK

    def bodies_cut(self, week: int) -> datetime:
        """Return the age at which bodies go: a quarter of the year."""
        return self.begin(week) - self.weeks // 4 * WEEK

    def rows_cut(self, week: int) -> datetime:
        """Return the age at which rows go: three quarters of the year."""
        return self.begin(week) - self.weeks * 3 // 4 * WEEK


def week_of(calendar: Calendar, week: int) -> list[CompletedRequest]:
    """Return the requests of a week, in the order of their beginnings."""
    chance, begin = random.Random(week), calendar.begin(week)
    # the last hours of the week are quiet: none of its requests is younger than the erasure that follows it
    seconds = sorted(chance.uniform(0, 6 * 86_400) for _ in range(calendar.per_week))
    return [request(chance, begin + timedelta(seconds=second)) for second in seconds]


def request(chance: random.Random, began: datetime, *, answer_bytes: int = 0, **changes: str) -> CompletedRequest:
    """Make a request that began then. ``changes`` are its ``model`` or ``created_by``."""
    owner = changes.get("created_by") or chance.choice(OWNERS)
    model = changes.get("model") or chance.choice(MODELS)
    status = chance.choices((200, 429, 500), (30, 1, 1))[0]
    answer = {"output": f"Hello, {marker(owner)}.", "padding": chance.randbytes(answer_bytes // 2).hex()}
    return CompletedRequest(
        request_id=id_at(chance, began),
        status_code=status,
        request_body=json.dumps({"model": model, "input": f"I am {marker(owner)}."}),
        response_body=json.dumps(answer if status == 200 else {"error": {"message": f"not now, {marker(owner)}"}}),  # noqa: PLR2004 -- the status of an answer
        model=model,
        endpoint="/v1/responses",
        api_key=f"sk-{owner}",
        created_by=owner,
        started_at=began,
        completed_at=began + timedelta(milliseconds=chance.randint(200, 9_000)),
        input_tokens=chance.randint(10, 4_000),
        output_tokens=chance.randint(1, 900),
    )


def marker(owner: str) -> str:
    """Return a word that stands in every body of an owner's, and nowhere else."""
    return f"<<{owner}>>"


def id_at(chance: random.Random, moment: datetime) -> uuid.UUID:
    """Return a UUIDv7 of that moment."""
    bits = chance.getrandbits(74)
    return uuid.UUID(int=first_id(moment).int | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1)
