"""The README and the reference say what the code does."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import pytest

from rwriter import RequestsWriter, Spool
from rwriter.asgi import PATHS, CaptureMiddleware

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
CONFIGURATION = (README.parent / "docs/reference/configuration.md").read_text(encoding="utf-8")
PERFORMANCE = (README.parent / "docs/performance.md").read_text(encoding="utf-8")
UNITS = {"8 MiB": 8 * 2**20, "64 MiB": 64 * 2**20, "10,000": 10_000, "1,000": 1_000}


def test_the_readme_is_read_in_a_minute() -> None:
    assert 450 < len(TEXT.split()) < 600


@pytest.mark.parametrize(
    ("row", "shown", "said"),
    [("writer / per request, 1", "{:.0f}", "**{} times**"), ("writer / COPY, batch 100", "{:.2f}", "**{}**")],
)
def test_the_figures_of_the_readme_are_the_measured_ones(row: str, shown: str, said: str) -> None:
    found = re.search(rf"^\| {re.escape(row)} \|.*?\*\*([\d.]+)\*\*", PERFORMANCE, flags=re.MULTILINE)
    assert found is not None
    assert said.format(shown.format(float(found[1]))) in TEXT


def test_the_gateway_in_the_readme_is_the_examples_own() -> None:
    source = (README.parent / "examples/gateway/app.py").read_text(encoding="utf-8")
    between = source.split("# -- what rwriter needs begins here\n")[1].split("    # -- what rwriter needs ends here")[0]
    quoted = TEXT.split("<!-- example: gateway -->\n```python\n")[1].split("```")[0]
    # blank lines aside: a formatter wants more of them at the top level
    assert re.sub(r"\n+", "\n", quoted) == re.sub(r"\n+", "\n", textwrap.dedent(between))


def test_the_configuration_table_names_every_option_with_its_default() -> None:
    table = CONFIGURATION.split("<!-- options:start -->")[1].split("<!-- options:end -->")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, flags=re.MULTILINE))
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
    assert 'Spool(directory, max_bytes=1 GiB, fsync="full")' in CONFIGURATION


def test_the_docstring_of_the_middleware_names_every_option_with_its_default() -> None:
    table = inspect.getdoc(CaptureMiddleware) or ""
    stated = dict(re.findall(r"^``(\w+)`` +(model endpoints|\S+ MiB|\S+ s|\S+) ", table, flags=re.MULTILINE))
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(CaptureMiddleware).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert set(stated) == set(options)
    known = {"required": inspect.Parameter.empty, "PATHS.default": PATHS.default}
    known |= {f"``{value}``": value for value in (None, True, False)}
    for name, written in stated.items():
        number = UNITS.get(written) or known.get(written, written)
        assert number == options[name] or str(written).removesuffix(" s") == f"{options[name]:g}", name
