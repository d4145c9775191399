"""The threshold of ``make coverage``."""

from __future__ import annotations

import io
import json
import sys

import pytest

from tests.branches import main


@pytest.mark.parametrize(("covered", "code"), [(940, 0), (939, 1)])
def test_coverage_fails_below_the_threshold_however_many_lines_are_covered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], covered: int, code: int
) -> None:
    totals = {"covered_branches": covered, "num_branches": 1_000, "percent_covered": 99.0}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"totals": totals})))
    assert main() == code
    assert f"{covered} of 1000" in capsys.readouterr().out
