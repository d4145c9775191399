"""The built wheel, in a virtual environment where nothing of the checkout can be seen."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Final

from tests.support.migrations import ROOT, environment, run

WHERE: Final = """
import json, rwriter
from rwriter.migrate import alembic_config
print(json.dumps([rwriter.__file__, alembic_config().get_main_option("script_location")]))
"""


def build(folder: Path) -> Path:
    """Build the wheel from the checkout into ``folder``."""
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

    def install(self, wheel: Path) -> None:
        """Unpack ``wheel`` as an installer would."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site_packages)

    def python(self, program: str, *arguments: str, url: str | None = None) -> str:
        """Run ``program`` far from the checkout; what it printed, errors included."""
        done = run(self._python, "-W", "error", "-c", program, *arguments, url=url, cwd=self._elsewhere)
        return done.stdout + done.stderr

    def module(
        self,
        name: str,
        *arguments: str,
        cwd: Path | None = None,
        code: int = 0,
        warnings: str = "error",
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m name``; raise ``AssertionError`` unless its exit code is ``code``."""
        command = (self._python, "-W", warnings, "-m", name, *arguments)
        return run(*command, cwd=cwd or self._elsewhere, code=code, **variables)

    def start(self, name: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start ``python -m name`` beside this process."""
        return subprocess.Popen([self._python, "-m", name, *arguments], cwd=cwd, env=environment(None, **variables))

    def where(self) -> list[Path]:
        """The package and the migrations that are found."""
        return [Path(path) for path in json.loads(self.python(WHERE))]
