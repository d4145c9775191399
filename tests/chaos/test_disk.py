"""The spool's disk is full."""

from __future__ import annotations

import pytest

from tests.chaos.ground import Ground
from tests.chaos.scenarios import disk
from tests.chaos.small_disk import may_mount


async def test_a_spool_at_its_bound_drops_counts_and_lives_on(ground: Ground) -> None:
    await disk.at_its_bound(ground)


async def test_a_spool_that_cannot_write_for_a_while_drops_counts_and_replays_what_it_has(ground: Ground) -> None:
    await disk.disk_filled_by_others(ground)


@pytest.mark.skipif(not may_mount(), reason="mounting a file system needs root")
async def test_a_spool_that_has_filled_its_disk_can_be_emptied_again(ground: Ground) -> None:
    await disk.disk_filled_by_the_spool(ground)


async def test_a_full_journal_refuses_records_instead_of_pretending_to_keep_them(ground: Ground) -> None:
    await disk.journal_full(ground)
