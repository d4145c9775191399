"""Run every fault at length, and print where the records ended: ``python -m tests.chaos``.

``--quick`` is as long as the suite; words select the faults whose names contain one of them. Exits with 1 when a
guarantee did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

from rwriter.testing import PostgresServer
from tests.chaos.bookkeeping import Outcome
from tests.chaos.ground import Ground, bin_dir
from tests.chaos.patroni import missing
from tests.chaos.scenarios import (
    crash,
    disk,
    drain,
    failover,
    managed,
    memory,
    network,
    outage,
    pooling,
    sharing,
    stream,
    supervised,
    tampered,
    unaided,
    web,
)
from tests.chaos.small_disk import may_mount
from tests.support.sizes import MIB

Scenario = Callable[[Ground], Coroutine[Any, Any, Outcome]]

COLUMNS: Final = ("fault", "offered", "stored", "dead letters", "spooled", "lost", "")
WIDTHS: Final = (46, 9, 9, 13, 9, 7, 0)


def scenarios(*, quick: bool, outage_seconds: float = 300) -> dict[str, Scenario]:
    """Return every scenario by the name of its fault. ``outage_seconds`` is for the outages at full input."""

    def size(long: int, short: int) -> int:
        return short if quick else long

    silence = size(20, 0)
    long_outage = 0.0 if quick else outage_seconds
    volume = size(2_000, 200) * MIB
    faults: dict[str, Scenario] = {
        "kill-journal": partial(crash.journaling_service_killed, rounds=size(50, 8)),
        "kill-memory": partial(crash.remembering_service_killed, rounds=size(50, 8)),
        "kill-outage": partial(crash.spooling_service_killed, rounds=size(20, 4)),
        "hang-up": partial(crash.callers_hanging_up, records=size(5_000, 300)),
        "postgres-killed": partial(outage.server_killed, rounds=size(10, 2)),
        "postgres-short-stop": partial(outage.short_stop, seconds=size(30, 0)),
        "postgres-long-stop": partial(outage.long_stop, seconds=size(30, 0)),
        "poison": partial(outage.poison_in_an_outage, records=size(5_000, 500)),
        "commit-cut": partial(network.commit_cut, cuts=size(100, 15)),
        "vanished": network.service_vanished,
        "half-open": partial(network.half_open, seconds=silence),
        "half-open-end": network.half_open_at_the_end,
        "spool-bound": disk.at_its_bound,
        "spool-no-room": disk.disk_filled_by_others,
        "spool-disk-full": disk.disk_filled_by_the_spool,
        "journal-full": disk.journal_full,
        "standby-promoted": failover.primary_lost,
        "primary-silent": failover.primary_silent,
        "primary-read-only": failover.primary_read_only,
        "standby-reads": partial(failover.read_from_the_standby, records=size(2_000, 100)),
        "patroni": partial(managed.failed_and_switched_over, rounds=size(5, 1)),
        "pgbouncer": partial(pooling.pooler_restarted, services=size(4, 2), rounds=size(10, 2)),
        "shared-spool": partial(sharing.one_of_two_killed, records=size(5_000, 300)),
        "sigterm": partial(drain.told_to_end, queued=10_000),
        "uvicorn": partial(web.uvicorn_told_to_end, calls=size(3_000, 300)),
        "gunicorn": partial(web.gunicorn_told_to_end, calls=size(3_000, 300)),
        "supervised": partial(supervised.plain_process, calls=size(2_000, 100)),
        "supervised-uvicorn": partial(supervised.uvicorn, calls=size(2_000, 100)),
        "supervised-gunicorn": partial(supervised.gunicorn, calls=size(2_000, 100)),
        "held": partial(unaided.outages_held, lengths=(0.3, 0.7, 2.0) if quick else (0.3, 0.7, 5.0, 45.0)),
        "one-connection": partial(unaided.one_connection, records=size(20_000, 2_000)),
        "policy-replay": partial(unaided.policy_on_the_replay, records=size(5_000, 500)),
        "lines-forgotten": partial(tampered.lines_forgotten, times=size(10, 2)),
        "spool-removed": partial(tampered.spool_removed, records=size(5_000, 200)),
        "bits-flipped": partial(tampered.bits_flipped, records=size(5_000, 300)),
        "upkeep": partial(tampered.upkeep_beside, records=size(5_000, 300)),
        "stream-killed": partial(stream.anything_killed, rounds=size(20, 2)),
        "stream-disks-wiped": partial(stream.disks_wiped, rounds=size(3, 1)),
        "memory-spool": partial(memory.outage_with_a_spool, volume=volume, seconds=long_outage),
        "memory-no-spool": partial(memory.outage_without_a_spool, volume=volume, seconds=long_outage / 5),
        "memory-full": memory.outage_with_a_full_buffer,
        "memory-stuck": partial(memory.one_flush_stuck, volume=volume),
    }
    if not may_mount():
        del faults["spool-disk-full"]
    if missing():
        print(f"patroni is left out: it {missing()}", file=sys.stderr)  # noqa: T201
        del faults["patroni"]
    return faults


async def run(faults: dict[str, Scenario]) -> int:
    """Run ``faults`` one after the other, print a line for each, and return how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rwriter-chaos-") as folder, PostgresServer(bin_dir()) as server:
        ground = Ground(server, Path(folder))
        show(COLUMNS)
        for name, scenario in faults.items():
            began = time.monotonic()
            try:
                outcome = await scenario(ground)
            except Exception:  # noqa: BLE001 -- the others are to be seen too
                failed += 1
                show((name, "FAILED"))
                traceback.print_exc()
            else:
                numbers = (outcome.offered, outcome.stored, outcome.dead, outcome.spooled, outcome.lost)
                note = f"{outcome.note} [{time.monotonic() - began:.0f} s]".strip()
                show((outcome.fault, *(f"{number:,}" for number in numbers), note))
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(ground.clear)
    return failed


def show(cells: tuple[str, ...]) -> None:
    """Print one line of the table."""
    fault, *rest = cells
    numbers = (cell.rjust(width) for cell, width in zip(rest, WIDTHS[1:], strict=False))
    print("  ".join((fault.ljust(WIDTHS[0]), *numbers)), flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="as long as the suite")
    parser.add_argument("--outage", type=float, default=300.0, help="seconds of the outage at full input")
    parser.add_argument("words", nargs="*", help="only the faults whose names contain one of these")
    arguments = parser.parse_args()
    chosen = {
        name: scenario
        for name, scenario in scenarios(quick=arguments.quick, outage_seconds=arguments.outage).items()
        if not arguments.words or any(word in name for word in arguments.words)
    }
    if not chosen:
        parser.error(f"no such fault; there are {', '.join(scenarios(quick=True))}")
    return 1 if asyncio.run(run(chosen)) else 0


if __name__ == "__main__":
    sys.exit(main())
