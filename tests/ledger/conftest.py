"""The secret of the ledger under test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rwriter._chain import secret


@pytest.fixture(autouse=True)
def _ledger_secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(secret.VARIABLE, "a secret that the database does not know")
    yield
    secret._secret.given = None
