"""Draw who imports whom. ``python -m tests.docs.imports`` writes it into docs/explanation/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT

PAGE: Final = ROOT / "docs/explanation/architecture.md"
PACKAGE: Final = ROOT / "rwriter"
_MARKED = re.compile(r"(<!-- imports: (?P<of>\w+) -->\n```\n)(?P<lines>.*?)(```\n)", re.DOTALL)


def drawn(text: str) -> dict[str, str]:
    """Return the blocks of the page by the package they draw."""
    return {match["of"]: match["lines"] for match in _MARKED.finditer(text)}


def found(package: str) -> str:
    """Return the block for ``package``: a line for each of its rooms, those that import most of the others first."""
    folder = PACKAGE if package == "rwriter" else PACKAGE / package
    rooms = {_room(path, folder) for path in folder.rglob("*.py")} - {"__init__"}
    arrows: dict[str, set[str]] = {room: set() for room in rooms}
    for path in folder.rglob("*.py"):
        room = _room(path, folder)
        if room in arrows:
            arrows[room] |= _imported(path, folder, rooms) - {room}
    width = max(map(len, rooms))
    order = sorted(rooms, key=_depth(arrows), reverse=True)
    return "".join(f"{room:{width}} -> {' '.join(sorted(arrows[room]))}".rstrip(" ->") + "\n" for room in order)


def redrawn(text: str) -> str:
    """Return the page with every block as the source has it."""
    return _MARKED.sub(lambda match: match[1] + found(match["of"]) + match[4], text)


def _room(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parts[0].removesuffix(".py")


def _imported(path: Path, folder: Path, rooms: set[str]) -> set[str]:
    prefix = ".".join(folder.relative_to(ROOT).parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{prefix}.").split(".")[0] for name in names if name.startswith(f"{prefix}.")} & rooms


def _depth(arrows: dict[str, set[str]]) -> Callable[[str], tuple[int, str]]:
    def below(room: str, seen: frozenset[str]) -> int:
        under = arrows[room] - seen
        return 1 + max((below(other, seen | {room}) for other in under), default=0)

    return lambda room: (below(room, frozenset()), room)


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
