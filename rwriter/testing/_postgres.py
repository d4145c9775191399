"""A PostgreSQL server of one's own, for tests and the demo: started, stopped, killed and restarted at will."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rwriter.errors import RwriterError
from rwriter.testing._places import check_data_dir, held, run_as, server_account, temporary_folder
from rwriter.testing._programs import copy_programs, embedded_bin_dir, remove_copy, runs_in_place

THROWAWAY: Final = {"fsync": "off", "full_page_writes": "off"}
"""Settings for servers whose data nobody will miss. They survive a killed server, not a killed machine.

Not ``synchronous_commit=off``: commits would wait in the server's own memory, and die with it."""

START_TIMEOUT: Final = 60
STOP_TIMEOUT: Final = 60

_HOME_PREFIX: Final = "rwriter-postgres-"
# lines of postmaster.pid
_PORT: Final = 3
_STATUS: Final = 7
_STOP_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer:
    """A server on a port of its own, trusting local connections, with user and database ``postgres``.

    ``bin_dir`` holds ``initdb`` and ``pg_ctl``; without it the embedded PostgreSQL 18 of ``rwriter[embedded]`` is used.
    ``data_dir`` defaults to a temporary folder that goes with the server. ``keep=True`` leaves both behind, and a
    later ``start()`` on the same folder adopts the running server. ``settings`` go to the server's command line.

    Run as root, the server runs as ``postgres`` or ``nobody``: it refuses to be root. Where that account cannot reach
    the programs, it runs a copy of them that ``delete()`` removes. A ``data_dir`` that the account cannot reach, that
    belongs to another user or that others may write to is refused. Raises ``RwriterError``.
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
        self._data_dir = _absolute(data_dir) if data_dir is not None else None
        self._keep = keep
        self._settings = dict(settings or {})
        self._port: int | None = None
        self._copy: Path | None = None

    @property
    def bin_dir(self) -> Path:
        """Folder of the server's programs, ``psql`` among them."""
        if self._asked_bin_dir is not None:
            folder = Path(self._asked_bin_dir)
            if not (folder / "initdb").is_file():
                msg = f"no PostgreSQL in {folder}: the folder must hold initdb and pg_ctl"
                raise RwriterError(msg)
            return folder
        return embedded_bin_dir()

    @property
    def data_dir(self) -> Path:
        """The cluster's folder."""
        if self._data_dir is None:
            account = server_account()
            home = Path(tempfile.mkdtemp(prefix=_HOME_PREFIX, dir=temporary_folder(account)))
            if account is not None:
                home.chmod(0o711)  # to pass through; what is in it is the account's own
            self._data_dir = home / "data"
        return self._data_dir

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, the same through every restart."""
        if self._port is None:
            msg = "the server was not started"
            raise RwriterError(msg)
        return self._port

    def url(self, database: str = "postgres") -> str:
        """Return a URL for ``database`` that SQLAlchemy (through rwriter), asyncpg and psql all take."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> Self:
        """Start the server, making its cluster first where there is none; adopt one that runs already."""
        with held(self.data_dir, server_account(self.data_dir)):
            try:
                self._start()
            except BaseException:
                if not self.running:
                    self._remove_copies()
                raise
        return self

    @property
    def running(self) -> bool:
        """Return whether the server's process runs."""
        return self._postmaster() is not None

    def stop(self, mode: str = "fast") -> None:
        """Stop in ``smart``, ``fast`` or ``immediate`` mode, and wait for it."""
        if mode not in _STOP_SIGNALS:
            msg = f"mode must be one of {', '.join(_STOP_SIGNALS)}, not {mode!r}"
            raise ValueError(msg)
        postmaster = self._postmaster()
        if postmaster is None:
            return
        # not pg_ctl: a server that was kept can be stopped even where its programs are gone or out of reach
        with contextlib.suppress(ProcessLookupError):
            os.kill(postmaster, _STOP_SIGNALS[mode])
        if not _within(STOP_TIMEOUT, lambda: not _alive(postmaster)):
            msg = f"the server did not stop within {STOP_TIMEOUT} s in {mode} mode: {self._log_tail()}"
            raise RwriterError(msg)

    def kill(self) -> None:
        """``kill -9`` the server and every backend, as an out-of-memory killer or a lost machine would."""
        postmaster = self._postmaster()
        if postmaster is None:
            return
        os.kill(postmaster, signal.SIGSTOP)  # no new backends while the present ones are killed
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
        backends = [int(pid) for pid in children.read_text().split()] if children.is_file() else []
        for pid in (*backends, postmaster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _within(START_TIMEOUT, lambda: not any(_alive(pid) for pid in (postmaster, *backends)))
        # where nobody reaps the dead postmaster, its pid would still pass for a running server
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop()
        self.start()

    def delete(self) -> None:
        """Stop the server and remove its folder, and the copy of its programs where there is one."""
        if self._data_dir is None:
            return
        self.stop("immediate")
        self._remove_copies()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        if self.data_dir.parent.name.startswith(_HOME_PREFIX):
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

    def _start(self) -> None:
        if not (self.data_dir / "PG_VERSION").is_file():
            self._init()
        if self._adopted():
            return
        if self._port is None:
            self._port = _free_port()
        ours = {"port": str(self._port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        settings = (ours | self._settings).items()
        # pg_ctl hands them to a shell
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings)
        self._remove_copies(but=self._copy)  # the copy that the server ran from before it stopped
        self._pg_ctl("start", "-w", "-t", str(START_TIMEOUT), "-l", str(self.data_dir / "log"), "-o", options)

    def _init(self) -> None:
        if any(self.data_dir.iterdir()):
            msg = f"{self.data_dir} is not empty and holds no PostgreSQL cluster: choose another data_dir"
            raise RwriterError(msg)
        account = server_account(self.data_dir)
        if account is not None:
            os.chown(self.data_dir, account.pw_uid, account.pw_gid, follow_symlinks=False)
        try:
            self._run(
                "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C",
                "-D", str(self.data_dir),
            )  # fmt: skip
        except BaseException:
            # half a cluster, as Ctrl-C leaves it, would pass for a whole one
            _empty(self.data_dir)
            raise

    def _adopted(self) -> bool:
        """Take over the server that runs already; return whether there is one, and it takes connections."""

        def settled() -> bool:
            status = [line.strip() for line in self._postmaster_file()[_STATUS:]]
            return not self.running or status in (["ready"], ["standby"])

        _within(START_TIMEOUT, settled)
        if not self.running:
            return False
        self._port = int(self._postmaster_file()[_PORT])
        return True

    def _postmaster(self) -> int | None:
        """Return the id of the server's process; ``None`` where it does not run."""
        check_data_dir(self.data_dir, server_account(self.data_dir))
        lines = self._postmaster_file()
        pid = int(lines[0]) if lines and lines[0].isdigit() else 0
        # the number may be another process's by now, and root can signal every process
        return pid if pid > 1 and _alive(pid, user=self.data_dir.stat().st_uid) else None

    def _postmaster_file(self) -> list[str]:
        try:
            return (self.data_dir / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _programs(self) -> Path:
        """Return the folder of the programs to run: ``bin_dir``, or a copy where the server's account cannot use it."""
        account, bin_dir = server_account(self.data_dir), self.bin_dir.resolve()
        if runs_in_place(bin_dir, account):
            return bin_dir
        if self._copy is None or not (self._copy / "initdb").is_file():
            self._copy = copy_programs(bin_dir, account, self.data_dir)
        return self._copy

    def _remove_copies(self, *, but: Path | None = None) -> None:
        """Remove the copy of the programs made here, and the one that PostgreSQL recorded as the server's own."""
        used = [] if self._copy is None else [self._copy / "postgres"]
        with contextlib.suppress(FileNotFoundError):
            options = os.fsdecode((self.data_dir / "postmaster.opts").read_bytes())
            used.append(Path(options.split(' "', 1)[0]))
        for program in used:
            if program.parent != but:
                remove_copy(program, self.data_dir)

    def _pg_ctl(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self.data_dir), *arguments)

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        as_account = run_as(server_account(self.data_dir))
        command = [str(self._programs() / program), *arguments]
        with tempfile.TemporaryFile("w+", errors="replace") as output:
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
        # the account may have made it a link to a file that only root can read
        if log.is_symlink() or not log.is_file():
            return "no log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def _absolute(folder: str | os.PathLike[str]) -> Path:
    # the last part is left as it is: a symbolic link is refused, not followed
    path = Path(folder).absolute()
    return path.parent.resolve() / path.name


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _alive(pid: int, *, user: int | None = None) -> bool:
    """Return whether a process of PostgreSQL's, of that user's, runs; a dead one that nobody reaped does not."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return not Path("/proc/self/status").exists() and _may_be_signalled(pid)
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    running = status["Name"] == "postgres" and not status["State"].startswith(("Z", "X"))
    return running and user in (None, int(status["Uid"].split()[0]))


def _may_be_signalled(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return True
    return False
