"""The chain of revisions: named in order, frozen, each with a way back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from alembic.script import Script, ScriptDirectory

from rwriter import migrate
from rwriter.schema import HEAD_REVISION
from tests.support.migrations import ROOT, rows

SCRIPTS = ScriptDirectory.from_config(migrate.alembic_config())
IN_ORDER: list[Script] = list(SCRIPTS.walk_revisions())[::-1]

EVERYTHING = """
    SELECT 'relation', relname::text, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'function', proname, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod) FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND NOT attisdropped
    ORDER BY 1, 2, 3
"""


def test_the_library_knows_the_head_of_its_own_migrations() -> None:
    assert SCRIPTS.get_heads() == [HEAD_REVISION]


def test_the_scripts_are_the_checkouts() -> None:
    assert Path(SCRIPTS.dir).resolve() == ROOT / "migrations"


def test_revisions_are_numbered_so_that_the_start_check_can_compare_them_as_text() -> None:
    for number, script in enumerate(IN_ORDER, 1):
        assert script.revision == f"rwriter_{number:04}"
        assert Path(script.path).name.startswith(f"{number:04}_")
        assert script.branch_labels == {"rwriter"}


@pytest.mark.parametrize("script", IN_ORDER, ids=lambda script: script.revision)
def test_a_revision_imports_nothing_that_changes_with_the_code(script: Script) -> None:
    tree = ast.parse(Path(script.path).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "alembic", "sqlalchemy"}


async def test_every_revision_goes_down_to_where_it_came_from_and_up_again(empty_database: str) -> None:
    seen = []
    for script in IN_ORDER:
        await migrate.upgrade(empty_database, script.revision)
        seen.append(await rows(empty_database, EVERYTHING))
    for script, before in zip(IN_ORDER[:0:-1], seen[-2::-1], strict=True):
        await migrate.downgrade(empty_database, str(script.down_revision))
        assert await rows(empty_database, EVERYTHING) == before
    await migrate.downgrade(empty_database)
    left = await rows(empty_database, EVERYTHING)
    assert all("rwriter_alembic_version" in name for _, name, _ in left), left

    await migrate.upgrade(empty_database)
    assert await rows(empty_database, EVERYTHING) == seen[-1]
    await migrate.check(empty_database)
