"""Measures captured calls as OpenTelemetry's semantic conventions for generative AI name it. Never a text of theirs."""

from __future__ import annotations

from typing import Final

from opentelemetry import metrics

from rwriter.records import CompletedRequest, succeeded

MOST_MODELS: Final = 100
"""Names of models that get attributes of their own: clients choose them, and each is a time series for good."""
LONGEST_MODEL: Final = 128
OTHER: Final = "_OTHER"

# operation and provider by how the path ends, the longer endings first. What a provider's own API is does not say who
# stands behind a gateway: it is the format of the call, as the conventions want it
_KINDS: Final[dict[str, tuple[str, str]]] = {
    "/chat/completions": ("chat", "openai"),
    "/completions": ("text_completion", "openai"),
    "/responses": ("chat", "openai"),
    "/responses/compact": ("chat", "openai"),
    "/messages": ("chat", "anthropic"),
    ":generateContent": ("generate_content", "gcp.gemini"),
    ":streamGenerateContent": ("generate_content", "gcp.gemini"),
    ":embedContent": ("embeddings", "gcp.gemini"),
    ":batchEmbedContents": ("embeddings", "gcp.gemini"),
    ":predict": ("generate_content", "gcp.vertex_ai"),
    "/api/chat": ("chat", "ollama"),
    "/api/generate": ("text_completion", "ollama"),
    "/api/embed": ("embeddings", "ollama"),
    "/api/embeddings": ("embeddings", "ollama"),
    "/embeddings": ("embeddings", "openai"),
    "/converse": ("chat", "aws.bedrock"),
    "/converse-stream": ("chat", "aws.bedrock"),
    "/invoke": ("generate_content", "aws.bedrock"),
    "/invoke-with-response-stream": ("generate_content", "aws.bedrock"),
}
_AZURE: Final = "/openai/deployments/"

# the boundaries are those that the conventions ask for
_meter: Final = metrics.get_meter("rwriter")
_usage: Final = _meter.create_histogram(
    "gen_ai.client.token.usage",
    unit="{token}",
    description="Number of input and output tokens used.",
    explicit_bucket_boundaries_advisory=[4**power for power in range(14)],
)
_duration: Final = _meter.create_histogram(
    "gen_ai.server.request.duration",
    unit="s",
    description="From the request's first message to the last byte of its answer.",
    explicit_bucket_boundaries_advisory=[0.01 * 2**power for power in range(14)],
)
_first_token: Final = _meter.create_histogram(
    "gen_ai.server.time_to_first_token",
    unit="s",
    description="From the request's first message to the first byte of a successful answer.",
    explicit_bucket_boundaries_advisory=(
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
        *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    ),
)


class GenAiMetrics:
    """Counts tokens and times of calls, by operation, provider and model."""

    def __init__(self) -> None:
        self._models: Final[set[str]] = set()

    def observe(self, record: CompletedRequest, answered_model: str | None) -> None:
        """Measure a call that has ended. ``answered_model`` is the model that its answer names."""
        ended_well = succeeded(record.status_code)
        operation, provider = _kind(record.endpoint)
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": self._known(record.model, is_real=ended_well),
        }
        if answered_model is not None:
            attributes["gen_ai.response.model"] = self._known(answered_model, is_real=ended_well)
        for kind, number in (("input", record.input_tokens), ("output", record.output_tokens)):
            if number is not None:
                _usage.record(number, {**attributes, "gen_ai.token.type": kind})
        if ended_well and record.first_token_at is not None:
            _first_token.record((record.first_token_at - record.started_at).total_seconds(), attributes)
        error = {} if ended_well else {"error.type": str(record.status_code)}
        _duration.record((record.completed_at - record.started_at).total_seconds(), attributes | error)

    def _known(self, model: str, *, is_real: bool) -> str:
        name = model[:LONGEST_MODEL]
        # a model that was made up by a client is refused by whoever should run it
        if is_real and len(self._models) < MOST_MODELS:
            self._models.add(name)
        return name if name in self._models else OTHER


def _kind(path: str) -> tuple[str, str]:
    ending = max(filter(path.endswith, _KINDS), key=len, default="")
    operation, provider = _KINDS.get(ending, (OTHER, OTHER))
    return operation, "azure.ai.openai" if _AZURE in path else provider
