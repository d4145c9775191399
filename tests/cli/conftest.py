"""The command line, run on a thread of the test's own process."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

import pytest

from rwriter import cli


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


class CommandLine:
    """The command on a thread of this process, a tenth of the time that a process of its own takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    async def __call__(self, *arguments: str, **variables: str) -> Done:
        # it starts a loop, which it may not on the thread of the test's own
        return await asyncio.to_thread(self._run, arguments, variables)

    def _run(self, arguments: tuple[str, ...], variables: dict[str, str]) -> Done:
        with self._monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("RWRITER_")]:
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["rwriter", *arguments])
            with pytest.raises(SystemExit) as ended:
                cli.main()
        printed = self._capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs ``rwriter`` with the given arguments and environment."""
    return CommandLine(monkeypatch, capsys)
