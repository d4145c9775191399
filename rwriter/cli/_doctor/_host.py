"""Checks of this host: the key pepper, the spool's folder and what waits in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from rwriter._values.keys import PEPPER_VARIABLE
from rwriter.cli._doctor._findings import Finding, judged, words
from rwriter.spool import Spool

ROOM: Final = 1 << 30
"""Bytes that a disk should have left for a spool: the default of its ``max_bytes``."""
OLD: Final = 3_600
"""Seconds after which a record in the spool should have been replayed."""
_FILE: Final = "spool.sqlite3"


def pepper() -> Finding:
    """Look for the key pepper in this environment."""
    # not key_pepper_is_set(), which warns in the log as well
    if os.environ.get(PEPPER_VARIABLE):
        return Finding("pepper", "ok", "API keys are digested with HMAC")
    told = f"{PEPPER_VARIABLE} is not set here: a key that can be guessed is found, unless the service has a pepper"
    return Finding("pepper", "warn", told)


async def spool(folder: Path) -> AsyncIterator[Finding]:
    """Look at the spool's folder, and at what waits in it if it is sound."""
    try:
        faults, free = await asyncio.to_thread(_looked_at, folder)
    except FileNotFoundError:
        yield Finding("spool", "warn", f"{folder} is not there: the writer makes it when it starts")
        return
    except OSError as exc:
        yield Finding("spool", "fail", f"{folder}: {exc.strerror}")
        return
    told = f"{folder} has {free >> 20:,} MiB left on its disk"
    yield judged("spool", told, None if free >= ROOM else f"{told}: a spool may take {ROOM >> 20:,}")
    for fault in faults:
        yield Finding("spool", "fail", f"{folder} {fault}")
    if not faults and await asyncio.to_thread((folder / _FILE).exists):
        yield await _waiting(folder)


def _looked_at(folder: Path) -> tuple[list[str], int]:
    return list(_faults(folder, folder.lstat())), shutil.disk_usage(folder).free


async def _waiting(folder: Path) -> Finding:
    opened = Spool(folder)
    try:
        await opened.open(create=False)
        found = await opened.standing()
    except Exception as exc:  # noqa: BLE001 -- whatever it is, it is what the operator asks for
        return Finding("spooled records", "fail", words(exc))
    finally:
        await opened.aclose()
    if found.set_aside:
        told = f"{found.set_aside} are set aside, never to be replayed: see why with `rwriter spool ls {folder}`"
        return Finding("spooled records", "warn", told)
    if found.oldest_age > OLD:
        told = f"{found.records} wait, the oldest for {found.oldest_age / 60:.0f} minutes"
        return Finding("spooled records", "warn", f"{told}: start a service, or run `rwriter spool replay {folder}`")
    return Finding("spooled records", "ok", f"{found.records} wait to be replayed")


def _faults(folder: Path, found: os.stat_result) -> Iterator[str]:
    if not stat.S_ISDIR(found.st_mode):
        yield "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
        return
    if found.st_uid != os.geteuid():
        yield f"belongs to user {found.st_uid}, not to {os.geteuid()}: run this as the service's user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield "can be written by others: chmod 700"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield "cannot be written"
