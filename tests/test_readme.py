"""The README is run: its Python compiles, its tables say what the code does."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import pytest

from rwriter import RequestsWriter, Spool
from rwriter.asgi import CaptureMiddleware
from rwriter.asgi._capture.middleware import TRACKED_PATHS

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
UNITS = {"8 MiB": 8 * 2**20, "64 MiB": 64 * 2**20, "10,000": 10_000, "1,000": 1_000}


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_the_readme_compiles(block: str) -> None:
    # awaited at the top level, as in a REPL
    compile(block, "README.md", "exec", flags=0x2000)


def test_there_is_python_in_the_readme() -> None:
    assert len(BLOCKS) >= 3


def test_the_gateway_in_the_readme_is_the_examples_own() -> None:
    source = (README.parent / "examples/gateway/app.py").read_text(encoding="utf-8")
    between = source.split("# -- what rwriter needs begins here\n")[1].split("    # -- what rwriter needs ends here")[0]
    quoted = TEXT.split("<!-- example: gateway -->\n```python\n")[1].split("```")[0]
    # blank lines aside: a formatter wants more of them at the top level
    assert re.sub(r"\n+", "\n", quoted) == re.sub(r"\n+", "\n", textwrap.dedent(between))


def test_the_configuration_table_names_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXT.split("## Configuration")[1], flags=re.MULTILINE))
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(RequestsWriter).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert set(rows) == set(options)
    for name, written in rows.items():
        plain = written.strip().strip("`")
        stated = UNITS.get(plain, None if plain == "None" else plain.strip('"'))
        assert stated == options[name] or str(stated) == str(options[name]) or float(plain) == options[name], name


def test_the_docstring_of_the_writer_names_every_option() -> None:
    options = [name for name in inspect.signature(RequestsWriter).parameters if name != "store"]
    table = inspect.getdoc(RequestsWriter) or ""
    assert [name for name in options if f"``{name}``" not in table] == []


def test_the_spools_defaults_are_the_ones_stated() -> None:
    parameters = inspect.signature(Spool).parameters
    assert parameters["max_bytes"].default == 2**30
    assert parameters["fsync"].default == "full"
    assert 'Spool(directory, max_bytes=1 GiB, fsync="full")' in TEXT


def test_the_docstring_of_the_middleware_names_every_option_with_its_default() -> None:
    table = inspect.getdoc(CaptureMiddleware) or ""
    stated = dict(re.findall(r"^``(\w+)`` +(model endpoints|\S+ MiB|\S+ s|\S+) ", table, flags=re.MULTILINE))
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(CaptureMiddleware).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert set(stated) == set(options)
    known = {"required": inspect.Parameter.empty, "model endpoints": TRACKED_PATHS, "``None``": None, "``True``": True}
    for name, written in stated.items():
        number = UNITS.get(written) or known.get(written, written)
        assert number == options[name] or str(written).removesuffix(" s") == f"{options[name]:g}", name
