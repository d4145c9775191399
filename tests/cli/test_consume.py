"""``rwriter consume`` where it makes no sense; tests/stream runs it where it does."""

from __future__ import annotations

import pytest

from tests.cli.conftest import CommandLine


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--from", "nats://user:secret@127.0.0.1"], "--stream"),
        (["--from", "nats://user:secret@127.0.0.1:port", "--stream", "s"], "servers must be URLs"),
        (["--from", "nats://127.0.0.1", "--stream", "s", "--concurrency", "0"], "--concurrency"),
        (["--from", "nats://127.0.0.1", "--stream", "a.b"], "stream must be a name"),
        (["nats://user:secret@127.0.0.1", "--stream", "s"], "--database-url"),
    ],
)
async def test_a_command_that_makes_no_sense_says_so_and_shows_no_password(
    command: CommandLine, arguments: list[str], hint: str
) -> None:
    done = await command("consume", *arguments, RWRITER_DATABASE_URL="postgresql://user:secret@127.0.0.1/db")
    assert done.code == 2
    assert hint in done.stderr
    assert "secret" not in done.stderr
