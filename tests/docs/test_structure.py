"""The rooms stay small, and docstrings say what a thing does or is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, name_of

FOLDERS: Final = ("rwriter", "tests", "bench", "migrations", "examples")
RIDDLES: Final = ("What", "Whether", "Whose", "Which", "How", "Where", "Who", "Of")
MODULES_IN_A_FOLDER: Final = 14
LINES_IN_A_FILE: Final = 400
RIDDLES_IN_A_HUNDRED: Final = 1


def sources(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def docstrings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield text


def test_no_folder_of_the_package_holds_more_than_fourteen_modules() -> None:
    modules: dict[Path, int] = {}
    for file in sources("rwriter"):
        modules[file.parent] = modules.get(file.parent, 0) + (file.name != "__init__.py")
    assert {name_of(folder): many for folder, many in modules.items() if many > MODULES_IN_A_FOLDER} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_four_hundred_lines(folder: str) -> None:
    lines = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in sources(folder)}
    assert {name: many for name, many in lines.items() if many > LINES_IN_A_FILE} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_begins_with_no_riddle(folder: str) -> None:
    told = [(name_of(file), text) for file in sources(folder) for text in docstrings(file)]
    riddles = [f"{name}: {text.splitlines()[0]}" for name, text in told if text.split()[0] in RIDDLES]
    assert len(riddles) * 100 <= RIDDLES_IN_A_HUNDRED * len(told), riddles
