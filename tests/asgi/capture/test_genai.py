"""What is measured of calls stays within bounds, whatever clients send."""

from __future__ import annotations

import pytest

from rwriter.asgi._capture.genai import LONGEST_MODEL, MOST_MODELS, OTHER, GenAiMetrics, _kind
from rwriter.asgi._capture.paths import PATHS


def test_models_beyond_the_first_hundred_and_those_that_never_answer_have_one_name() -> None:
    metrics = GenAiMetrics()
    assert metrics._known("made-up", is_real=False) == OTHER
    for number in range(MOST_MODELS):
        assert metrics._known(f"model-{number}", is_real=True) == f"model-{number}"
    assert metrics._known("one-more", is_real=True) == OTHER
    # a model that has answered keeps its name when it fails
    assert metrics._known("model-7", is_real=False) == "model-7"


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
