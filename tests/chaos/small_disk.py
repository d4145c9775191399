"""Mount a small file system, which is soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def may_mount() -> bool:
    """Return True if this process may mount a file system: root in a container often may not."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of ``size`` bytes, in memory, at ``folder``."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "rwriter-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        # lazily: a service that was left behind by a failure may still have its files open
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
