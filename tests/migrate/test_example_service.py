"""The service of ``examples/``, on the built wheel: rwriter beside its Alembic in three ways."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from rwriter import RwriterError, migrate
from rwriter.pytest_plugin import Databases
from rwriter.schema import HEAD_REVISION
from tests.docs.pages import noted
from tests.support.migrations import DEADLINE, ROOT, column, connected, execute, revisions, tables_in
from tests.support.wheel import Environment

pytestmark = pytest.mark.slow

WAYS: Final = ("apart", "version_locations", "merged")
NOTHING: Final = "No new upgrade operations detected."

PAGE: Final = ROOT / "docs" / "how-to" / "migrations.md"

NEXT_RELEASE: Final = f"""
from alembic import op

revision, down_revision, branch_labels, depends_on = "rwriter_9999", {HEAD_REVISION!r}, None, None

def upgrade():
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY ix_of_the_next_release ON requests (model)")

def downgrade():
    op.execute("DROP INDEX ix_of_the_next_release")
"""


class Service:
    """A copy of the example, its database, and the environment that its commands run in."""

    def __init__(self, environment: Environment, folder: Path, url: str) -> None:
        self.folder, self.url = folder / "examples" / "service", url
        self._environment = environment
        shutil.copytree(ROOT / "examples" / "service", self.folder)
        (folder / "examples" / "__init__.py").touch()

    def alembic(self, way: str, *arguments: str, code: int = 0) -> str:
        """Run the service's Alembic in the folder of ``way`` and return what it printed."""
        url = self.url.replace("postgresql://", "postgresql+asyncpg://", 1)
        done = self._alembic(way, *arguments, code=code, SERVICE_DATABASE_URL=url)
        return done.stdout + done.stderr

    def _alembic(self, way: str, *arguments: str, code: int, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._environment.module("alembic", *arguments, cwd=self.folder / way, code=code, **variables)

    def rwriter(self, *arguments: str) -> str:
        """Run rwriter's own command and return what it printed."""
        return self._environment.module("rwriter.cli", *arguments, RWRITER_DATABASE_URL=self.url).stdout

    def pasted(self, way: str, note: str) -> None:
        """Run the commands of a block of the page."""
        for line in noted(PAGE, note).splitlines():
            command, *arguments = shlex.split(line)
            if command == "rwriter":
                self.rwriter(*arguments)
            else:
                self.alembic(way, *arguments)

    def migrate(self, way: str) -> None:
        """Migrate both as the example says for ``way``."""
        if way == "apart":
            self.rwriter("migrate")
        self.alembic(way, "upgrade", "heads" if way == "version_locations" else "head")

    def locate(self, way: str, versions: Path, separator: str) -> None:
        """Name another folder of rwriter's revisions, with another separator."""
        joined = {"os": os.pathsep, "space": " ", "newline": "\n    "}[separator].join(
            ["%(here)s/versions", str(versions)]
        )
        (self.folder / way / "alembic.ini").write_text(
            "[alembic]\nscript_location = %(here)s/..\nprepend_sys_path = %(here)s/../../..\n"
            f"path_separator = {separator}\nversion_locations = {joined}\n"
        )


@pytest.fixture
def service(installed: Environment, tmp_path: Path, empty_database: str) -> Service:
    """The example, copied, with a database of its own."""
    return Service(installed, tmp_path, empty_database)


@pytest.fixture(scope="module")
def migrated_once(
    installed: Environment, tmp_path_factory: pytest.TempPathFactory, _rwriter_databases: Databases
) -> Iterator[Callable[[str], str]]:
    """Return, for a way, the name of a database that the example was migrated in: each is made when first asked for."""
    made: dict[str, str] = {}

    def template(way: str) -> str:
        if way not in made:
            made[way] = _rwriter_databases.create()
            Service(installed, tmp_path_factory.mktemp(way), _rwriter_databases.url(made[way])).migrate(way)
        return made[way]

    yield template
    for name in made.values():
        _rwriter_databases.drop(name)


@pytest.fixture
def migrated(
    installed: Environment,
    tmp_path: Path,
    _rwriter_databases: Databases,
    migrated_once: Callable[[str], str],
    way: str,
) -> Iterator[Service]:
    """The example, copied, with a database of its own in which both were migrated in the test's ``way``."""
    name = _rwriter_databases.create(migrated_once(way))
    yield Service(installed, tmp_path, _rwriter_databases.url(name))
    _rwriter_databases.drop(name)


@pytest.mark.parametrize("way", WAYS)
async def test_both_are_migrated_and_nothing_is_proposed_about_rwriters_tables(migrated: Service, way: str) -> None:
    assert {"customers", "orders", "requests", "dead_letters"} <= set(await tables_in(migrated.url))
    assert NOTHING in migrated.alembic(way, "check")

    head = ["--head", "orders"] if way == "version_locations" else []
    migrated.alembic(way, "revision", "--autogenerate", "-m", "proposed", *head)
    (proposed,) = (migrated.folder / way / "versions").glob("*proposed.py")
    assert "op." not in proposed.read_text()

    # and of its own tables everything
    await execute(migrated.url, "ALTER TABLE orders ADD COLUMN more text")
    migrated.alembic(way, "stamp", "heads")
    seen = migrated.alembic(way, "check", code=255)
    assert "remove_column" in seen
    assert "requests" not in seen.replace("request_id", "")


@pytest.mark.parametrize("way", WAYS)
async def test_the_three_commands_say_the_same_in_each_way(migrated: Service, way: str) -> None:
    tables = await tables_in(migrated.url)
    before = await revisions(migrated.url, "alembic_version")
    assert migrated.rwriter("current") == f"{HEAD_REVISION} (head)\n"
    assert migrated.rwriter("check") == "the tables are what this release needs\n"
    assert migrated.rwriter("migrate") == f"{HEAD_REVISION} (head)\n"
    assert await tables_in(migrated.url) == tables
    assert await revisions(migrated.url, "alembic_version") == before


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_leads_back_to_the_services_tables_alone(migrated: Service, way: str) -> None:
    migrated.alembic(way, "downgrade", "base" if way == "apart" else "customers")
    assert "orders" not in await tables_in(migrated.url)
    migrated.migrate(way)
    assert "orders" in await tables_in(migrated.url)


@pytest.mark.parametrize("separator", ["os", "space", "newline"])
async def test_the_path_of_the_versions_is_found_with_any_separator(
    service: Service, installed: Environment, separator: str
) -> None:
    path = installed.python("from rwriter.migrate import versions_path; print(versions_path())").strip()
    service.locate("version_locations", Path(path), separator)
    # two heads: `head` alone is refused, with what to say instead
    assert "heads" in service.alembic("version_locations", "upgrade", "head", code=255)
    service.alembic("version_locations", "upgrade", "heads")
    assert NOTHING in service.alembic("version_locations", "check")
    assert service.rwriter("current") == f"{HEAD_REVISION} (head)\n"


async def test_a_revision_that_depends_on_rwriters_runs_after_it(service: Service) -> None:
    service.alembic("version_locations", "upgrade", "orders")
    assert "requests" in await tables_in(service.url)
    assert service.rwriter("current") == f"{HEAD_REVISION} (head)\n"


@pytest.mark.parametrize("way", WAYS[1:])
async def test_a_new_release_with_a_migration_is_upgraded_to_by_upgrade_heads(
    migrated: Service, installed: Environment, tmp_path: Path, way: str
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(installed.site_packages / "rwriter" / "migrations" / "versions", newer)
    (newer / "9999_index.py").write_text(NEXT_RELEASE)
    migrated.locate(way, newer, "os")
    migrated.alembic(way, "upgrade", "heads")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_of_the_next_release')"
    assert await column(migrated.url, valid) == [True]
    assert migrated.rwriter("current").startswith("rwriter_9999")
    migrated.rwriter("check")
    migrated.alembic(way, "merge", "heads", "-m", "again")
    migrated.alembic(way, "upgrade", "head")
    assert NOTHING in migrated.alembic(way, "check")


@pytest.mark.parametrize("way", WAYS)
async def test_indexes_are_built_beside_writers_and_the_roles_time_outs_are_off(service: Service, way: str) -> None:
    await execute(
        service.url,
        """
        CREATE TABLE seen (statement text, statement_timeout text, idle_timeout text);
        CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.seen VALUES (current_query(), current_setting('statement_timeout'),
            current_setting('idle_in_transaction_session_timeout')); END $$;
        CREATE EVENT TRIGGER look ON ddl_command_start WHEN TAG IN ('CREATE INDEX', 'ALTER TABLE')
            EXECUTE FUNCTION look();
        """,
    )
    await hurry(service.url, milliseconds=50_000)
    service.migrate(way)
    online = "SELECT statement_timeout FROM seen WHERE statement LIKE '%CONCURRENTLY%'"
    assert await column(service.url, online) == ["0", "0"]
    altered = "SELECT statement_timeout || idle_timeout FROM seen WHERE statement LIKE '%ADD COLUMN%input_tokens%'"
    assert await column(service.url, altered) == ["00"]
    assert await column(service.url, "SELECT indisvalid FROM pg_index WHERE NOT indisvalid") == []


async def hurry(url: str, *, milliseconds: int) -> None:
    """Give every session that begins from now on the time-outs of a role for requests."""
    for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
        setting = f"ALTER DATABASE %I SET {name} = {milliseconds}"
        await execute(url, f"DO $$ BEGIN EXECUTE format('{setting}', current_database()); END $$")


async def test_in_a_services_own_history_too_no_writer_queues_behind_a_lock_that_is_not_to_be_had(
    service: Service,
) -> None:
    service.alembic("version_locations", "upgrade", "rwriter_0001")
    async with connected(service.url) as reader, connected(service.url) as writer, reader.transaction():
        await reader.execute("SELECT FROM requests")
        # the wait below is one statement of the upgrade, and takes longer
        await hurry(service.url, milliseconds=1000)
        upgrade = asyncio.create_task(asyncio.to_thread(service.alembic, "version_locations", "upgrade", "heads"))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'requests'::regclass"
        async with asyncio.timeout(DEADLINE):
            for number in range(3):
                while not await writer.fetchval(waiting):
                    assert not upgrade.done(), upgrade
                    await asyncio.sleep(0.01)
                # queues behind the upgrade, which gives up first: the reader is still there
                await writer.execute("INSERT INTO requests (model, created_by) VALUES ($1, 'me')", str(number))
    await asyncio.wait_for(upgrade, DEADLINE)
    assert service.rwriter("current") == f"{HEAD_REVISION} (head)\n"
    assert await column(service.url, "SELECT model FROM requests ORDER BY 1") == ["0", "1", "2"]


async def test_a_merged_history_that_is_behind_is_named_and_not_begun_anew(service: Service) -> None:
    service.migrate("merged")
    # as after an older release: the merge has taken the place of rwriter's revision
    await execute(service.url, "ALTER TABLE requests DROP COLUMN input_tokens")
    with pytest.raises(RwriterError, match=r"`alembic upgrade heads`.*--adopt"):
        await migrate.upgrade(service.url)
    assert "rwriter_alembic_version" not in await tables_in(service.url)


def test_the_lines_of_the_page_are_the_examples_own() -> None:
    example = ROOT / "examples" / "service"
    assert textwrap.indent(noted(PAGE, "example: service"), "    ") in (example / "env.py").read_text()
    for way in WAYS[1:]:
        assert noted(PAGE, "example: version_locations") in (example / way / "alembic.ini").read_text()


async def test_the_commands_of_the_page_run_apart(service: Service) -> None:
    service.pasted("apart", "example: apart")
    assert NOTHING in service.alembic("apart", "check")
    assert service.rwriter("current") == f"{HEAD_REVISION} (head)\n"


async def test_the_commands_of_the_page_run_in_one_go_and_then_merge(service: Service) -> None:
    service.pasted("version_locations", "example: version_locations commands")
    service.pasted("version_locations", "example: merged")
    assert len(await revisions(service.url, "alembic_version")) == 1
    assert NOTHING in service.alembic("version_locations", "check")
    assert service.rwriter("current") == f"{HEAD_REVISION} (head)\n"
