"""The sample of tests that run in the second schema too covers every statement."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

from rwriter import RequestStore
from rwriter.store import DeadLetters
from tests import store


def methods_that_ask_the_database() -> set[str]:
    """Return the public coroutine methods of the store and of its dead letters."""
    return {
        f"{kind.__name__}.{name}"
        for kind in (RequestStore, DeadLetters)
        for name, _ in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }


def sampled_methods() -> Iterator[str]:
    """Yield the methods that tests of this folder name in their ``both_schemas`` marks."""
    for module in pkgutil.iter_modules(store.__path__, f"{store.__name__}."):
        for _, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            marks: list[pytest.Mark] = getattr(function, "pytestmark", [])
            for mark in marks:
                if mark.name == "both_schemas":
                    yield from mark.args


def test_every_method_of_the_store_has_a_test_that_runs_in_both_schemas() -> None:
    assert set(sampled_methods()) == methods_that_ask_the_database()
