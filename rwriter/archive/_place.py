"""The place of an archive: a folder, or a bucket through ``pyarrow.fs``; and the threads on which its calls block."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from rwriter.errors import ArchiveDamaged, ArchiveUnusable

T = TypeVar("T")


class Place:
    """Reads and writes files below one folder or prefix. Paths are relative, with ``/``.

    Raises ``ArchiveUnusable`` for a location that cannot be one. Its calls raise ``OSError``, which ``Workers``
    explains.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location: Final = os.fspath(location)
        self._fs, self._root = _opened(self.location)
        self._is_local: Final = isinstance(self._fs, fs.LocalFileSystem)

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[Any]:
        """Open a file for reads anywhere in it."""
        with self._fs.open_input_file(self._at(path)) as file:
            yield file

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Any]:
        """Open a new file. After the block it is whole, and on the disk; where the block raises, it may be partial.

        A local file, and a folder that is made for it, are nobody else's to read: they hold bodies.
        """
        if self._is_local:
            Path(self._at(path)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(self._at(path)).touch(mode=0o600)
        with self._fs.open_output_stream(self._at(path)) as file:
            yield file
        self._sync(path)

    def read(self, path: str) -> bytes:
        """Return the content of a small file."""
        with self.reading(path) as file:
            content: bytes = file.read()
        return content

    def replace(self, path: str, content: bytes) -> None:
        """Write a small file at once: whoever reads it finds the old content or the new."""
        if not self._is_local:
            # an object is there when its upload is complete, and not before
            with self.writing(path) as file:
                file.write(content)
            return
        with self.writing(f"{path}.new") as file:
            file.write(content)
        self._fs.move(self._at(f"{path}.new"), self._at(path))
        self._sync(path)

    def files(self, folder: str) -> dict[str, tuple[int, int]]:
        """Return the files in ``folder``, each with its size and the time of its last change in nanoseconds."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True)
        found = self._fs.get_file_info(selector)
        start = len(self._root) + 1
        return {each.path[start:]: (each.size, each.mtime_ns or 0) for each in found if each.type == fs.FileType.File}

    def size(self, path: str) -> int:
        """Return the bytes of a file."""
        return int(self._fs.get_file_info(self._at(path)).size or 0)

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._at(path))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _sync(self, path: str) -> None:
        """Have a local file, and its name, on the disk: a partition is dropped for it."""
        if not self._is_local:
            return
        for each in (self._at(path), self._at(path).rpartition("/")[0]):
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class Workers:
    """Runs blocking calls on ``number`` threads, so that no number of readers takes more of them.

    They start with the first call and end with ``close``.
    """

    def __init__(self, location: str, number: int) -> None:
        self._location: Final = location
        self._pool: Final = ThreadPoolExecutor(number, thread_name_prefix="rwriter-archive")

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what ``function`` returns.

        Raises ``ArchiveUnusable`` for what the system or the server says, ``ArchiveDamaged`` for bytes that are no
        Parquet, and ``FileNotFoundError`` as it is.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args, **kwargs))
        except FileNotFoundError:
            raise
        except pa.ArrowInvalid as exc:
            raise ArchiveDamaged(f"a file of the archive {self._location} cannot be read: {_first_line(exc)}") from exc
        except OSError as exc:
            raise ArchiveUnusable(f"the archive {self._location} cannot be used: {_first_line(exc)}") from exc

    def close(self) -> None:
        """Let the threads end. Calls that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _first_line(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]


def _opened(location: str) -> tuple[Any, str]:
    if "://" not in location:
        return fs.LocalFileSystem(), str(Path(location).absolute())
    url = urlsplit(location)
    if "@" in url.netloc:
        # the location is in messages, logs and lists of processes
        raise ArchiveUnusable(
            "an archive's URL must not hold credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role"
        )
    try:
        found, root = fs.FileSystem.from_uri(location)
    except (ValueError, OSError) as exc:
        raise ArchiveUnusable(
            f"{location} is no place for an archive: give a folder, or s3://BUCKET/PREFIX?region=... ({exc})"
        ) from exc
    return found, root.rstrip("/")
