"""The Python of the pages runs: block after block, as in ``python -m asyncio``, on a migrated database.

A block is left out only with its reason: ``<!-- not run: reason -->`` on the line above it. It still has to compile.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from rwriter import RequestStore
from rwriter.testing import TestDbEngines
from tests.docs.pages import Block, blocks, name_of, pages
from tests.support.records import record

PYTHON = [(page, [block for block in blocks(page) if block.language == "python"]) for page in pages()]
# a block "project: FILE" is a file of a project that runs as a whole: tests/docs/test_quickstart.py; "service: ..." is
# one of the page's services: tests/docs/test_services.py
ELSEWHERE = (
    "example: gateway",
    "example: probes",
    "example: service",
    "example: shared metadata",
    "quickstart: program",
    "example: engine swap",
    "example: rolled back",
)
"""Blocks that tests of their own run: in a gateway, in a clean environment, under pytest."""


def left_out(block: Block) -> bool:
    return block.note.startswith(("not run: ", "project: ", "service: ")) or block.note in ELSEWHERE


def compiled(block: Block) -> CodeType:
    # a reader's own file has no future import
    code: CodeType = compile(block.code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return code


def program(page_and_blocks: tuple[Path, list[Block]]) -> str:
    return name_of(page_and_blocks[0])


@pytest.mark.parametrize("page", [page for page in PYTHON if page[1]], ids=program)
async def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: tuple[Path, list[Block]],
    rwriter_database: str,
    rwriter_engines: TestDbEngines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RWRITER_DATABASE_URL", rwriter_database)
    # what a page takes for granted
    names: dict[str, Any] = {"store": RequestStore(rwriter_engines), "record": record()}
    for block in page[1]:
        code = compiled(block)
        if not left_out(block):
            ran = eval(code, names)  # noqa: S307 -- the project's own pages
            if inspect.iscoroutine(ran):
                await ran


def test_the_engine_swap_is_a_test_that_passes(
    pytester: pytest.Pytester, rwriter_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWRITER_TEST_DATABASE_URL", rwriter_postgres)
    code = "\n".join(
        block.code
        for _, found in PYTHON
        for block in found
        if block.note in {"example: engine swap", "example: rolled back"}
    )
    pytester.makeconftest(
        "import pytest\n@pytest.fixture\ndef my_engine(rwriter_engines):\n    return rwriter_engines.write\n"
    )
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        "from rwriter import *\nfrom rwriter.testing import rolled_back\n"
        "from tests.support.records import record as _record\nrecord = _record()\n\n" + code
    )
    pytester.syspathinsert(Path(__file__).parents[2])
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:schemathesis").assert_outcomes(passed=2)
