"""What is shipped: the wheel in a virtual environment where nothing of the checkout can be seen."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from rwriter.schema import HEAD_REVISION
from tests.support.migrations import ROOT, TABLES, run, tables_in

# what the wheel's own entry point does, without the script that an installer would write
COMMAND = """
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="rwriter")
command.load()()
"""

WHERE = """
import json, rwriter
from rwriter.migrate import alembic_config
print(json.dumps([rwriter.__file__, alembic_config().get_main_option("script_location")]))
"""

HEAVY = ("alembic", "pytest", "starlette", "fastapi", "click", "rich", "hypothesis")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


class Environment:
    """A virtual environment without pip, which finds rwriter's dependencies where this process does."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        (self.site_packages,) = folder.glob("lib/python*/site-packages")
        # a folder named in a .pth is only searched: the .pth files in it, an editable rwriter's too, are not read
        libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site_packages / "dependencies.pth").write_text("\n".join(libraries))
        self._python = str(folder / "bin" / "python")
        self._elsewhere = folder

    def python(self, program: str, *arguments: str, url: str | None = None) -> str:
        """Run ``program`` far from the checkout; what it printed, errors included."""
        done = run(self._python, "-W", "error", "-c", program, *arguments, url=url, cwd=self._elsewhere)
        return done.stdout + done.stderr

    def where(self) -> list[Path]:
        """The package and the migrations that are found."""
        return [Path(path) for path in json.loads(self.python(WHERE))]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel in it."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(environment.site_packages)
    return environment


def test_the_wheel_holds_all_that_is_needed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    scripts = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rwriter").rglob("*.py")}
    migrations = {"env.py", "script.py.mako", *(f"versions/{name}" for name in scripts)}
    data = {
        "rwriter/alembic.ini",
        "rwriter/py.typed",
        "rwriter/asgi/_reader/openapi.json",
        "rwriter/demo/traffic.jsonl.gz",
    }
    assert "0001_requests.py" in scripts
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
