"""Renders the token counts of any API with the names that a Response uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rwriter.asgi._usage import count_at, tokens_in, usages_in

_INPUTS: Final = ("prompt_tokens", "promptTokenCount", "inputTokenCount")
_PARTS_OF_INPUT: Final = (
    ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
)
"""Anthropic and Bedrock count cached input apart, a Response includes it in ``input_tokens``."""
_WRITTEN: Final = (
    ("cache_creation_input_tokens",),
    ("cacheWriteInputTokens",),
    ("input_tokens_details", "cache_write_tokens"),
    ("prompt_tokens_details", "cache_write_tokens"),
)
_TOTALS: Final = (("total_tokens",), ("totalTokens",), ("totalTokenCount",))


def usage_of(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the usage in ``body``, wherever it stands, with a Response's names; ``None`` if nothing was counted.

    A zero beside a count is a placeholder.
    """
    usages, told = usages_in(body), tokens_in(body)
    if not told and not (body.get("usage") and isinstance(body["usage"], dict)):
        return None
    reasoning = told.get("reasoning_tokens") or _first(usages, [("output_tokens_details", "thinking_tokens")])
    outputs = told.get("output_tokens", 0)
    # Gemini counts thoughts apart
    outputs += _first(usages, [("thoughtsTokenCount",)]) if _first(usages, [("candidatesTokenCount",)]) else 0
    inputs = next(filter(None, map(_inputs, usages)), 0)
    return {
        "input_tokens": inputs,
        "input_tokens_details": {
            "cached_tokens": told.get("cached_input_tokens", 0),
            "cache_write_tokens": _first(usages, _WRITTEN),
        },
        "output_tokens": outputs,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": _first(usages, _TOTALS) or inputs + outputs,
    }


def _inputs(usage: Mapping[str, Any]) -> int:
    whole = _first([usage], [(name,) for name in _INPUTS])
    return whole or max(sum(count_at(usage, name) or 0 for name in names) for names in _PARTS_OF_INPUT)


def _first(usages: Iterable[Mapping[str, Any]], places: Iterable[tuple[str, ...]]) -> int:
    """Return the first count at any of ``places`` that is not zero, else zero."""
    wanted = list(places)
    return next(filter(None, (count_at(usage, *place) for usage in usages for place in wanted)), 0)
