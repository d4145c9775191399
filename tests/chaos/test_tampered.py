"""Neighbours harm lines, files and rows."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.scenarios import tampered


async def test_lines_that_were_forgotten_lose_nothing(ground: Ground) -> None:
    await tampered.lines_forgotten(ground, times=2)


async def test_a_journal_whose_file_was_removed_loses_nothing(ground: Ground) -> None:
    await tampered.spool_removed(ground, records=200)


async def test_a_flipped_bit_stores_nothing_wrong(ground: Ground) -> None:
    await tampered.bits_flipped(ground, records=300)


async def test_rows_that_a_daemon_puts_back_are_finished(ground: Ground) -> None:
    await tampered.upkeep_beside(ground, records=300)
