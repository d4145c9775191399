"""The dashboard and the alerts of the docs ask for what is there: each query meets a real Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT
from tests.operations.conftest import ALERTS, Prometheus, promtool

DASHBOARD = json.loads((ROOT / "docs/operations/grafana.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/how-to/watch.md").read_text(encoding="utf-8")
TELEMETRY = (ROOT / "docs/reference/telemetry.md").read_text(encoding="utf-8")

# what Grafana puts in for its variables
VARIABLES = {"$__rate_interval": "1m", "$writer": ".*"}
OURS = re.compile(r"\b(?:rwriter|gen_ai)_\w+")
SUFFIXES = re.compile(r"_(?:total|bucket|count|sum|seconds|bytes)\b")
IN_STREAM = {"rwriter.stream.lag", "rwriter.stream.messages", "rwriter.stream.redeliveries"}
"""Told by a consumer of a stream, which the gateway of these tests is not."""


def queries(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Title and expression of each query of a dashboard."""
    for panel in panels:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield f"{panel['title']} {target['refId']}", query


QUERIES = dict(queries(DASHBOARD["panels"]))


def labels_in(query: str) -> set[str]:
    """The labels that a query selects or groups by."""
    selected = {label for inside in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*[=!]", inside)}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    return selected | grouped


def check_names(prometheus: Prometheus, query: str) -> None:
    """Fail unless every metric of a query is there, with every label that the query names."""
    names = set(OURS.findall(re.sub(r"\{[^}]*\}|by \([^)]*\)", "", query)))
    assert names
    known = {name: prometheus.labels(name) for name in names}
    assert [name for name, labels in known.items() if not labels] == []
    for name, labels in known.items():
        assert labels_in(query) <= labels, name


@pytest.mark.parametrize("panel", QUERIES)
def test_each_query_of_the_dashboard_finds_something(prometheus: Prometheus, panel: str) -> None:
    check_names(prometheus, QUERIES[panel])
    assert prometheus.values(QUERIES[panel])


def test_the_dashboards_variable_finds_the_writers(prometheus: Prometheus) -> None:
    (variable,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    metric, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"])[0]
    assert label in prometheus.labels(metric)


def test_each_alert_is_sound_and_asks_for_what_is_there(prometheus: Prometheus) -> None:
    (group,) = prometheus.ask("rules")["groups"]
    rules = {rule["name"]: rule for rule in group["rules"]}
    assert len(rules) >= 10
    for name, rule in rules.items():
        assert (rule["type"], rule.get("lastError", "")) == ("alerting", ""), name
        assert rule["labels"]["severity"] in {"critical", "warning"}
        check_names(prometheus, rule["query"])
        assert f"### {name}\n" in PAGE


def test_each_alert_fires_for_what_it_is_for_and_for_nothing_else() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)
    cases = Path(__file__).with_name("alerts_test.yml")
    assert "SUCCESS" in promtool("test", "rules", cases)
    names = set(re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8")))
    assert names == set(re.findall(r"alertname: (\w+)", cases.read_text(encoding="utf-8")))


def test_the_reference_names_every_metric_as_it_is_told(prometheus: Prometheus) -> None:
    told = {name for name in prometheus.ask("label/__name__/values") if OURS.fullmatch(name)}
    told = {re.sub(r"_(?:bucket|count|sum)$", "", name) for name in told if not name.endswith("_created")}
    table = TELEMETRY.split("<!-- metrics:start -->")[1].split("<!-- metrics:end -->")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `(\w+)` \|", table, re.MULTILINE))
    assert told == {prometheus_name for name, prometheus_name in rows.items() if name not in IN_STREAM}


def test_a_captured_call_is_told_as_the_conventions_name_it(prometheus: Prometheus) -> None:
    def of(metric: str, **labels: str) -> list[dict[str, Any]]:
        chosen = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return prometheus.values(f"{metric}{{{chosen}}}")

    chat = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-test"}
    tokens = {
        kind: sum(
            float(each["value"][1]) for each in of("gen_ai_client_token_usage_sum", gen_ai_token_type=kind, **chat)
        )
        for kind in ("input", "output")
    }
    assert tokens == {"input": 2 * 12, "output": 2 * 34}
    (ended,) = of("gen_ai_server_request_duration_seconds_count", **chat)
    assert ended["metric"]["gen_ai_response_model"] == "gpt-test-2026"
    assert ended["value"][1] == "2"
    assert ended["metric"].get("error_type", "") == ""
    assert of("gen_ai_server_time_to_first_token_seconds_count", **chat)
    (embedded,) = of("gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="embeddings")
    assert embedded["metric"]["gen_ai_provider_name"] == "azure.ai.openai"
    (claude,) = of("gen_ai_server_request_duration_seconds_count", gen_ai_request_model="claude-test")
    assert claude["metric"]["gen_ai_provider_name"] == "anthropic"
    # a model that nobody has answered for is no time series of its own
    (failed,) = of("gen_ai_server_request_duration_seconds_count", error_type="404")
    assert failed["metric"]["gen_ai_request_model"] == "_OTHER"
    assert prometheus.values('{gen_ai_request_model="nonsense"}') == []
