"""The picture of the packages is the one the source gives, and what the page names is there."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.imports import PACKAGE, PAGE, drawn, found
from tests.docs.pages import ROOT

TEXT = PAGE.read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WALK = TEXT.split("## The walk of a record")[1].split("\n## ")[0]


@pytest.mark.parametrize("package", ["rwriter", "writer", "store", "spool", "stream", "asgi"])
def test_the_picture_of_a_package_is_what_the_source_imports(package: str) -> None:
    assert drawn(TEXT)[package] == found(package), f"run `python -m tests.docs.imports`; it writes:\n{found(package)}"


def test_the_layers_on_the_page_are_the_contract_that_is_held() -> None:
    (contract,) = (
        contract
        for contract in PYPROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and "rwriter.cli" in contract["layers"]
    )
    stated = TEXT.split("<!-- layers -->\n```\n")[1].split("```")[0].split()
    layers = " > ".join(contract["layers"]).replace("rwriter.", "").split()
    assert stated == layers, f"the contract says:\n{' '.join(layers)}"


def test_every_module_the_page_names_exists() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", TEXT)
    assert len(named) >= 8
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_each_step_of_the_walk_is_in_the_module_it_is_said_to_be_in() -> None:
    steps = re.findall(r"`(\w+(?:\.\w+)?)\(\)`\s\(`((?:\w+/)+\w+\.py)`\)", WALK)
    assert len(steps) >= 8
    for call, module in steps:
        source = (PACKAGE / module).read_text(encoding="utf-8")
        assert f"def {call.rpartition('.')[2]}(" in source, f"{call} is not in {module}"


def test_the_glossary_names_each_word_once() -> None:
    words = re.findall(r"^\| \*\*([\w -]+)\*\* \|", TEXT.split("## Glossary")[1], flags=re.MULTILINE)
    assert len(words) >= 15
    assert len(words) == len(set(words))
