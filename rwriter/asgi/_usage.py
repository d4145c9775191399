"""Finds the token counts of an answer, in whichever family of APIs it is told and wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_MOST_TOKENS: Final = 2**31 - 1

_MEMBERS: Final = ("usage", "usageMetadata", "x_groq", "amazon-bedrock-invocationMetrics")
"""Members of an answer that are a usage, or have one."""

_COUNTS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "input_tokens": (
        ("input_tokens",),
        ("prompt_tokens",),
        ("inputTokens",),
        ("promptTokenCount",),
        ("inputTokenCount",),
    ),
    "output_tokens": (
        ("output_tokens",),
        ("completion_tokens",),
        ("outputTokens",),
        ("candidatesTokenCount",),
        ("outputTokenCount",),
    ),
    "cached_input_tokens": (
        ("input_tokens_details", "cached_tokens"),
        ("prompt_tokens_details", "cached_tokens"),
        ("cache_read_input_tokens",),
        ("cacheReadInputTokens",),
        ("cachedContentTokenCount",),
    ),
    "reasoning_tokens": (
        ("output_tokens_details", "reasoning_tokens"),
        ("completion_tokens_details", "reasoning_tokens"),
        ("thoughtsTokenCount",),
    ),
}
"""Where the counts stand in the usage of each family of APIs."""


def tokens_in(body: Mapping[str, Any]) -> dict[str, int]:
    """Return the token counts of an answer, by the names of the record's fields; those that are told."""
    usages = usages_in(body)
    found: dict[str, int] = {}
    for field, places in _COUNTS.items():
        counts = [count for usage in usages for place in places if (count := count_at(usage, *place)) is not None]
        if counts:
            # a zero beside a count is a placeholder
            found[field] = next(filter(None, counts), 0)
    return found


def usages_in(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the objects with counts in an answer, the empty ones left out; the usual place comes first."""
    return [usage for usage in _usages(body) if usage]


def count_at(usage: Mapping[str, Any], *place: str) -> int | None:
    """Return the count that stands under these names, ``None`` if there is none that a column can hold."""
    value: Any = usage
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else None


def _usages(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for value in map(body.get, _MEMBERS):
        if isinstance(value, dict):
            inner = value.get("usage")
            yield inner if isinstance(inner, dict) else value
    if body.get("prompt_eval_count") is not None or body.get("eval_count") is not None:
        yield {"input_tokens": body.get("prompt_eval_count"), "output_tokens": body.get("eval_count")}
    choices = body.get("choices")
    if not body.get("usage") and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        usage = choices[0].get("usage")
        if isinstance(usage, dict):
            yield usage
