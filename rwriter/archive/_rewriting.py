"""Writes a cut anew without an owner's rows: new files, then the manifest, then the old ones go. Its calls block."""

from __future__ import annotations

import msgspec
import pyarrow.compute as pc

from rwriter.archive._layout import NAMES, CutFile, Manifest, digest_text
from rwriter.archive._manifests import Manifests
from rwriter.archive._reading import Cuts, groups_of, verify
from rwriter.archive._writing import CutWriter
from rwriter.errors import ArchiveUnusable
from rwriter.records import new_request_id

_TRIES = 5


def without(cuts: Cuts, manifests: Manifests, name: str, owner: str) -> int:
    """Take an owner's rows out of one partition. Returns how many there were.

    A crash leaves the old manifest with its files, or the new one, which names the old files for the next call.
    """
    for _ in range(_TRIES):
        listed = manifests.all(anew=True)
        if name not in listed:
            return 0
        manifest = listed[name]
        # an earlier call was cut short: they may hold the owner's rows
        for path in manifest.gone:
            cuts.place.delete(path)
        cut = manifest.file_of(owner)
        if cut is None or not _holds(cuts, cut, owner):
            return 0
        rewritten = _rewritten(cuts, cut, name, owner)
        # another process, without the lock, may have switched it meanwhile
        if manifests.all(anew=True).get(name) != manifest:
            continue
        manifests.write(name, _replaced(manifest, cut, rewritten))
        for path in (*manifest.gone, cut.path, cut.index):
            cuts.place.delete(path)
        return cut.rows - (0 if rewritten is None else rewritten.rows)
    raise ArchiveUnusable(f"{name} is being changed by others all the time: erase again when they have ended")


def _holds(cuts: Cuts, cut: CutFile, owner: str) -> bool:
    with cuts.open(cut.path) as file:
        for group in groups_of(file.metadata, owner):
            owners = file.read_row_group(group, columns=["created_by"], use_threads=False)["created_by"]
            if pc.any(pc.equal(owners, owner)).as_py():
                return True
    return False


def _rewritten(cuts: Cuts, cut: CutFile, name: str, owner: str) -> CutFile | None:
    """Write the cut's other rows to new files, and read them back. Returns ``None`` where there are none."""
    writer = CutWriter(cuts.place, name, cut.cut, new_request_id().hex)
    kept = 0
    try:
        with cuts.open(cut.path) as file:
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                table = table.filter(pc.not_equal(table["created_by"], owner))
                columns = [table[each].to_pylist() for each in NAMES]
                rows = [(row[0].bytes, *row[1:]) for row in zip(*columns, strict=True)]
                kept += len(rows)
                writer.add(rows)
        if not kept:
            return None
        done = writer.finish()
    finally:
        writer.abandon()
    verify(cuts, done)
    return done


def _replaced(manifest: Manifest, old: CutFile, new: CutFile | None) -> Manifest:
    files = [new if file is old else file for file in manifest.files]
    left = [file for file in files if file is not None]
    return msgspec.structs.replace(
        manifest,
        files=left,
        gone=[old.path, old.index],
        rows=sum(file.rows for file in left),
        digest=digest_text(int(file.digest, 16) for file in left),
        run=new_request_id().hex,
    )
