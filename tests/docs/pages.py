"""The pages a reader finds, and the fenced code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, and the comment on the line above it."""

    language: str
    code: str
    note: str


def pages() -> list[Path]:
    """Return every page for readers: those at the root, and all of docs/."""
    tops = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*tops, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["code"], match["note"] or "") for match in found]


def noted(page: Path, note: str) -> str:
    """Return the code of the one block with this comment above it."""
    (code,) = (block.code for block in blocks(page) if block.note == note)
    return code


def files(page: Path) -> dict[str, str]:
    """Return the files of the project that a page writes: its blocks noted ``project: NAME``."""
    parts = ((*block.note.partition("project: "), block.code) for block in blocks(page))
    return {name: code for before, found, name, code in parts if found and not before}


def name_of(page: Path) -> str:
    """Return the page's path from the root, for the names of tests."""
    return page.relative_to(ROOT).as_posix()
