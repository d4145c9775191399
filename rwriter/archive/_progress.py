"""The steps of an archive run as they are told, and its result."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from rwriter._values.answers import Answer

Step: TypeAlias = Literal["began", "written", "verified", "listed", "detached", "compared", "dropped", "kept"]
State: TypeAlias = Literal["archived", "kept", "pending"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. Of ``written`` there are many: ``rows`` of ``total`` are in the archive's files then.

    ============  =============================================================================
    ``began``     the partition is looked at
    ``written``   some rows more are in its files
    ``verified``  the files were read back, and their digest is the server's
    ``listed``    the manifest is written: the partition is in the archive
    ``detached``  the partition was taken out of the tables, and nothing is written to it
    ``compared``  it is what it was when it was read
    ``dropped``   it is gone from the database
    ``kept``      it stays in the database
    ============  =============================================================================
    """

    step: Step
    start: datetime
    end: datetime
    rows: int = 0
    total: int = 0


OnProgress: TypeAlias = Callable[[Progress], object]


class Archived(Answer, frozen=True, kw_only=True):
    """The fate of one partition.

    ``archived``: it is in the archive and was dropped; ``kept``: it stays in the database, for the ``reason``;
    ``pending``: a dry run found that it can be archived. ``left_out`` counts rows that were dropped and not taken over:
    blanked remains of deletions, and rows of erased owners. ``bytes`` are those of its files.
    """

    start: datetime
    end: datetime
    state: State
    rows: int = 0
    left_out: int = 0
    bytes: int = 0
    reason: str | None = None
