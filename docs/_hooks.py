"""Hooks of MkDocs: the pages at the root of the project are pages of the site, and links between both lead there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[1]
TOPS: Final = ("SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
_LINK: Final = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of the root."""
    for name in TOPS:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return ``markdown`` with links between docs/ and the root as the site has them."""
    source = page.file.src_uri
    folder = posixpath.dirname(source if source in TOPS else f"docs/{source}")
    here = posixpath.dirname(source)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        place = target if target in TOPS else target.removeprefix("docs/")
        return link[1] + posixpath.relpath(place, here or ".")

    return _LINK.sub(moved, markdown)
