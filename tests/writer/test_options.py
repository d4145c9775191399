"""The options stand in four places: their source, type checkers, help() and the docs. They say the same."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rwriter import DbEngines, RequestsWriter
from rwriter.threaded import ThreadedWriter
from rwriter.writer import WriterOptions
from rwriter.writer._options import MEANINGS, MIB, Options

FIELDS = {each.name: each for each in msgspec.structs.fields(Options)}
CONFIGURATION = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def shown(default: Any) -> str:
    """A default as the tables write it."""
    if isinstance(default, int) and not isinstance(default, bool) and default >= MIB:
        return f"{default // MIB} MiB"
    return f"{default:,}" if type(default) is int else f"{default:g}" if type(default) is float else str(default)


def test_every_option_has_a_meaning_and_the_types_that_checkers_see() -> None:
    assert list(MEANINGS) == list(FIELDS)
    assert list(WriterOptions.__annotations__) == list(FIELDS)
    assert typing.get_type_hints(WriterOptions) == typing.get_type_hints(Options)


def test_help_shows_every_option_with_its_default() -> None:
    parameters = inspect.signature(RequestsWriter).parameters
    assert {name: each.default for name, each in parameters.items() if name != "store"} == {
        name: each.default for name, each in FIELDS.items()
    }
    rows = dict(re.findall(r"^    ``(\w+)``\s+(.+?)\s{2,}", RequestsWriter.__doc__ or "", flags=re.MULTILINE))
    assert list(rows) == list(FIELDS)
    for name, default in rows.items():
        assert shown(FIELDS[name].default) in default, name


def test_the_docs_show_every_option_with_its_default() -> None:
    text = CONFIGURATION.read_text().split("<!-- options:start -->")[1].split("<!-- options:end -->")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, flags=re.MULTILINE))
    assert list(rows) == list(FIELDS)
    for name, default in rows.items():
        assert shown(FIELDS[name].default) in default, name


@pytest.mark.parametrize("writer", [RequestsWriter, ThreadedWriter])
def test_a_misspelt_option_is_a_type_error_that_names_it(writer: Any) -> None:
    with pytest.raises(TypeError, match="batchsize"):
        writer(DbEngines.from_url("postgresql://nobody@127.0.0.1:1/d"), batchsize=5)
