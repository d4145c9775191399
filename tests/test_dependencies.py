"""Everything that rwriter without an extra brings into a service: declared, followed to the end."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

HEAVY = {"pydantic", "pydantic-core", "rich", "pygments", "shellingham", "typer", "starlette", "pytest"}
BROUGHT = {
    *("sqlalchemy", "greenlet", "typing-extensions", "asyncpg", "alembic", "mako", "markupsafe"),
    *("msgspec", "uuid-utils", "opentelemetry-api", "click"),
}
"""Each of them is a download of every service, so a new one is added here on purpose."""


def wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def followed(requirements: list[str], extra: str = "") -> Iterator[str]:
    """The names of what ``requirements`` bring into this Python, their own requirements included."""
    for requirement in map(Requirement, requirements):
        if wanted(requirement, extra):
            yield canonicalize_name(requirement.name)
            needed = importlib.metadata.requires(requirement.name) or []
            for asked in ("", *requirement.extras):
                yield from followed(needed, asked)


def test_a_bare_install_brings_few_packages_and_no_framework() -> None:
    brought = set(followed(PROJECT["dependencies"]))
    assert brought & HEAVY == set()
    assert brought - BROUGHT == set()


def test_the_demo_gets_rich_from_its_own_extra() -> None:
    assert "rich" in set(followed(PROJECT["optional-dependencies"]["embedded"]))
