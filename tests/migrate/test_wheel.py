"""The wheel works in a virtual environment where nothing of the checkout can be seen."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from rwriter.schema import HEAD_REVISION
from tests.support.migrations import ROOT, TABLES, run, tables_in
from tests.support.wheel import Environment

# what the wheel's own entry point does, without the script that an installer would write
COMMAND = """
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="rwriter")
command.load()()
"""

HEAVY = ("alembic", "pytest", "starlette", "fastapi", "click", "rich", "hypothesis")


def test_the_wheel_holds_all_that_is_needed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    scripts = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rwriter").rglob("*.py")}
    migrations = {"env.py", "script.py.mako", *(f"versions/{name}" for name in scripts)}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rwriter/admin/templates").glob("*.html")}
    data = {
        *templates,
        "rwriter/admin/admin.css",
        "rwriter/alembic.ini",
        "rwriter/py.typed",
        "rwriter/asgi/_reader/openapi.json",
        "rwriter/demo/traffic.jsonl.gz",
    }
    assert "0001_requests.py" in scripts
    assert "rwriter/admin/templates/base.html" in templates
    assert names == modules | data | {f"rwriter/migrations/{name}" for name in migrations}
    assert len(metadata) == 1


async def test_the_installed_command_migrates_from_any_folder(installed: Environment, empty_database: str) -> None:
    package, scripts = installed.where()
    assert package == installed.site_packages / "rwriter" / "__init__.py"
    assert scripts == installed.site_packages / "rwriter" / "migrations"

    assert f"{HEAD_REVISION} (head)" in installed.python(COMMAND, "migrate", url=empty_database)
    assert await tables_in(empty_database) == TABLES
    assert installed.python(COMMAND, "current", url=empty_database) == f"{HEAD_REVISION} (head)\n"
    installed.python(COMMAND, "check", url=empty_database)


async def test_alembic_itself_runs_on_the_installed_configuration(installed: Environment, empty_database: str) -> None:
    ini = installed.site_packages / "rwriter" / "alembic.ini"
    program = "from alembic.config import main; main()"
    assert "Running upgrade" in installed.python(program, "-c", str(ini), "upgrade", "head", url=empty_database)
    assert await tables_in(empty_database) == TABLES


def test_an_editable_install_uses_the_checkouts_migrations_and_not_the_copy_it_made(tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    # this is what an editable build with force-include leaves behind
    (environment.site_packages / "_editable_impl_rwriter.pth").write_text(str(ROOT))
    copy = environment.site_packages / "rwriter"
    copy.mkdir()
    shutil.copy(ROOT / "alembic.ini", copy)
    shutil.copytree(ROOT / "migrations", copy / "migrations")
    assert environment.where() == [ROOT / "rwriter" / "__init__.py", ROOT / "migrations"]


def test_importing_the_library_imports_no_tool_and_no_framework() -> None:
    program = f"""
import sys, rwriter, rwriter.orm
print(sorted(set({HEAVY}) & set(sys.modules)))
import rwriter.pytest_plugin
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    assert run(sys.executable, "-c", program).stdout.splitlines() == ["[]", "['pytest']"]
