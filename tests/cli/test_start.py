"""The command line starts quickly: it imports what a command needs, and nothing for its own help."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from rwriter.cli._main import app

HEAVY = {"sqlalchemy", "asyncpg", "alembic", "psycopg", "starlette", "rich", "nats", "pydantic", "asyncio"}
SOME = 160
"""Modules that `rwriter --help` may import beside those of a bare Python: 146 on 3.11, most of them for click."""


def imported(*arguments: str) -> set[str]:
    """The modules that ``rwriter`` imports with these arguments."""
    program = (
        "import sys; before = set(sys.modules); sys.argv = ['rwriter', *sys.argv[1:]]\n"
        "from rwriter.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('MODULES', *sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout or done.returncode, done.stderr
    return set(done.stderr.splitlines()[-1].removeprefix("MODULES ").split())


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("-h",)])
def test_version_and_help_import_no_driver_and_little_else(arguments: tuple[str, ...]) -> None:
    found = imported(*arguments)
    assert "rwriter.cli._main" in found
    assert found & HEAVY == set()
    assert not any(name.startswith("rwriter.cli.commands.") for name in found)
    assert len(found) <= SOME


def test_a_listing_imports_no_alembic_and_no_writer() -> None:
    found = imported("ls", "--limit", "1")
    assert "rwriter.store" in found
    assert found & {"alembic", "mako", "rwriter.migrate", "rwriter.writer", "rwriter.spool", "rwriter.stream"} == set()


def test_the_list_of_commands_says_of_each_what_the_command_says_itself() -> None:
    context = click.Context(app)
    for name, place in app.places.items():
        command = app.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help is not None
        assert " ".join(command.help.split("\n\n")[0].split()).startswith(place.line)
