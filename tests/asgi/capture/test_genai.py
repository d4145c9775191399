"""What is measured of calls stays within bounds, whatever clients send."""

from __future__ import annotations

import pytest

from rwriter.asgi._capture.genai import LONGEST_MODEL, MOST_MODELS, OTHER, GenAiMetrics, _kind
from rwriter.asgi._capture.paths import PATHS
from rwriter.asgi._types import Receive, Scope, Send
from tests.asgi.conftest import Capture, Rows
from tests.support.asgi_client import Exchange, read, say


def test_models_beyond_the_first_hundred_and_those_that_never_answer_have_one_name() -> None:
    metrics = GenAiMetrics()
    assert metrics._known("made-up", is_real=False) == OTHER
    for number in range(MOST_MODELS):
        assert metrics._known(f"model-{number}", is_real=True) == f"model-{number}"
    assert metrics._known("one-more", is_real=True) == OTHER
    # a model that has answered keeps its name when it fails
    assert metrics._known("model-7", is_real=False) == "model-7"


async def test_a_metric_that_cannot_be_recorded_costs_no_row(
    capture: Capture, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the exporter broke")

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await say(send, b'{"id":"chatcmpl-1","object":"chat.completion","choices":[]}')

    monkeypatch.setattr(GenAiMetrics, "observe", broken)
    middleware = capture(app, gen_ai_metrics=True)
    await Exchange(middleware, b'{"model":"m"}', path="/v1/chat/completions").run()
    assert (await rows.one(middleware)).model == "m"


def test_a_long_model_is_cut() -> None:
    assert GenAiMetrics()._known("m" * 512, is_real=True) == "m" * LONGEST_MODEL


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", ("chat", "openai")),
        ("/v1/completions", ("text_completion", "openai")),
        ("/openai/deployments/any/chat/completions", ("chat", "azure.ai.openai")),
        ("/v1/embeddings", ("embeddings", "openai")),
        ("/api/embeddings", ("embeddings", "ollama")),
        ("/v1beta/models/g-2:streamGenerateContent", ("generate_content", "gcp.gemini")),
        ("/model/any/converse-stream", ("chat", "aws.bedrock")),
        ("/v1/audio/speech", (OTHER, OTHER)),
    ],
)
def test_operation_and_provider_are_told_by_the_path(path: str, kind: tuple[str, str]) -> None:
    assert _kind(path) == kind


def test_every_path_that_is_tracked_by_default_has_an_operation() -> None:
    for ending in PATHS.default | PATHS.gemini | PATHS.ollama | PATHS.bedrock:
        assert OTHER not in _kind(f"/v1{ending}"), ending
