"""The listing's statements are made once for each way of asking, whatever is asked for in that way."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from sqlalchemy.dialects.postgresql import asyncpg

from rwriter import RequestFilter
from rwriter.store._cursor import Position, encode_cursor
from rwriter.store._listing import count_query, page_query

NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(number: int, *, active: bool = False) -> str:
    return encode_cursor(Position(active, NOON, uuid.UUID(int=number)))


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ({}, {"cursor": None}),
        ({"created_by": "a"}, {"created_by": "b"}),
        ({"models": ["a"]}, {"models": ("b",)}),
        ({"models": ["a", "b"]}, {"models": [str(number) for number in range(100)]}),
        ({"created_after": NOON}, {"created_after": datetime(2026, 1, 2, tzinfo=UTC)}),
        ({"service_tiers": ["flex", "auto"]}, {"service_tiers": ["flex", "auto", "default"]}),
        ({"created_by": "a", "metadata": {"a": 1}}, {"created_by": "a", "metadata": {"b": "c", "d": None}}),
        ({"cursor": after(1)}, {"cursor": after(2)}),
        ({"cursor": after(1)}, {"cursor": after(2, active=True)}),
        ({"limit": 33}, {"limit": 63}),
        ({"limit": 20, "offset": 1_100}, {"limit": 50, "offset": 1_900}),
    ],
    ids=str,
)
@pytest.mark.parametrize("common", [{}, {"status": "failed"}, {"created_by": "x"}], ids=str)
def test_other_values_are_asked_for_in_the_same_statement(
    common: dict[str, Any], one: dict[str, Any], another: dict[str, Any]
) -> None:
    statement, parameters = page_query(RequestFilter(**common | one))
    again, others = page_query(RequestFilter(**common | another))
    assert statement is again
    assert parameters.keys() == others.keys()


@pytest.mark.parametrize(
    "other",
    [
        {"created_by": "a"},
        {"models": []},
        {"models": ["a"]},
        {"models": ["a", "b"]},
        {"service_tiers": []},
        {"service_tiers": [None]},
        {"service_tiers": [None, "flex"]},
        {"service_tiers": [None, "flex", "auto"]},
        {"service_tiers": ["flex", "auto"]},
        {"created_after": NOON},
        {"created_before": NOON},
        {"created_by": "a", "metadata": {"a": 1}},
        {"active_first": True},
        {"cursor": after(1)},
        *({"status": state} for state in ("processing", "completed", "failed")),
    ],
    ids=str,
)
def test_every_parameter_of_a_statement_has_a_value_and_no_value_is_over(other: dict[str, Any]) -> None:
    for query in (page_query, count_query):
        plain, _ = query(RequestFilter())
        statement, parameters = query(RequestFilter(**other))
        cannot_differ = query is count_query and other.keys() <= {"active_first", "cursor"}
        assert (statement is plain) == cannot_differ
        assert set(statement.compile(dialect=asyncpg.dialect()).binds) == set(parameters)  # type: ignore[no-untyped-call]  # the dialect's constructor has no types


def test_pages_of_every_size_are_a_dozen_statements() -> None:
    statements = {id(page_query(RequestFilter(limit=limit))[0]) for limit in range(1, 1_001)}
    assert len(statements) <= 12
