"""The manifests of an archive: read when they have changed, written last. Its calls block."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from rwriter.archive._layout import FORMAT, MANIFESTS, MARK, Manifest, Mark, name_of
from rwriter.archive._place import Place
from rwriter.errors import ArchiveDamaged, ArchiveUnusable


class Manifests:
    """Knows the partitions of one archive by their names."""

    def __init__(self, place: Place) -> None:
        self._place: Final = place
        self._known: dict[str, tuple[tuple[int, int], Manifest]] = {}
        self._lock: Final = threading.Lock()

    def all(self, *, anew: bool = False) -> dict[str, Manifest]:
        """Return the manifests by the name of their partition, the oldest first.

        One that has its size and its time of last change of before is not read again, but for ``anew``.
        """
        listed = {path: at for path, at in self._place.files(MANIFESTS).items() if path.endswith(".json")}
        with self._lock:
            known = {} if anew else dict(self._known)
        found = {
            path: known[path] if path in known and known[path][0] == at else (at, self._read(path))
            for path, at in sorted(listed.items())
        }
        with self._lock:
            self._known = found
        return {path.rpartition("/")[2].removesuffix(".json"): manifest for path, (_, manifest) in found.items()}

    def write(self, name: str, manifest: Manifest) -> None:
        """Put a manifest in the place of the one before: from now on, it and its files are what is in the archive."""
        self._place.replace(_path(name), msgspec.json.format(msgspec.json.encode(manifest)))

    def remove_strays(self, names: Iterable[str], listed: dict[str, Manifest]) -> int:
        """Delete the files in the folders of ``names`` that no manifest of ``listed`` names. Returns how many."""
        strays = [
            path
            for name in names
            for path in self._place.files(name)
            if name not in listed or path not in listed[name].paths
        ]
        for path in strays:
            self._place.delete(path)
        return len(strays)

    def check(self, database: str, *, write: bool) -> None:
        """Raise ``ArchiveUnusable`` if the archive is another database's. With ``write`` a new one is marked."""
        try:
            mark = msgspec.json.decode(self._place.read(MARK), type=Mark)
        except FileNotFoundError:
            if write:
                self._place.replace(MARK, msgspec.json.encode(Mark(format=FORMAT, database=database)))
            return
        except msgspec.MsgspecError as exc:
            raise ArchiveDamaged(f"{self._place.location}/{MARK} cannot be read: {exc}") from exc
        if mark.format > FORMAT:
            raise ArchiveUnusable(
                f"the archive {self._place.location} is of a later release of rwriter: upgrade this one"
            )
        if mark.database != database:
            raise ArchiveUnusable(
                f"the archive {self._place.location} belongs to another database: give each a folder of its own. If "
                f"this is that database, restored or moved, delete {MARK} there"
            )

    def folders(self) -> set[str]:
        """Return the names of the folders that hold files of partitions, whole or half written."""
        return {path.partition("/")[0] for path in self._place.files("") if "/" in path} - {MANIFESTS}

    def _read(self, path: str) -> Manifest:
        try:
            found = msgspec.json.decode(self._place.read(path), type=Manifest)
        except msgspec.MsgspecError as exc:
            raise ArchiveDamaged(f"{self._place.location}/{path} cannot be read: {exc}") from exc
        if found.format > FORMAT:
            raise ArchiveUnusable(
                f"the archive {self._place.location} is of a later release of rwriter: upgrade this one"
            )
        return found


def name_for(listed: dict[str, Manifest], start: datetime, end: datetime, table: int) -> str:
    """Return the name under which the partition is in the archive, or that it is to have.

    A partition that was made later for the same time is another one: it stands beside the first.
    """
    number = 1
    while (name := name_of(start, end, number)) in listed and listed[name].table != table:
        number += 1
    return name


def _path(name: str) -> str:
    return f"{MANIFESTS}/{name}.json"
