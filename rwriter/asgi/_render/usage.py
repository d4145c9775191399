"""Renders the token counts of any API with the names that a Response uses."""

from __future__ import annotations

from typing import Any


def usage_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return ``body["usage"]`` with the names a Response uses, or ``None`` if nothing was counted.

    Anthropic counts cached input apart and a Response includes it in ``input_tokens``, so the three are added up.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict) or not usage:
        return None
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return _from_completion(usage)
    return _from_message(usage)


def _from_completion(usage: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    return _usage(
        inputs=_count(usage, "prompt_tokens"),
        cached=_count(prompt, "cached_tokens"),
        written=_count(prompt, "cache_write_tokens"),
        outputs=_count(usage, "completion_tokens"),
        reasoning=_count(completion, "reasoning_tokens"),
        total=_count(usage, "total_tokens"),
    )


def _from_message(usage: dict[str, Any]) -> dict[str, Any]:
    inputs, outputs = _details(usage, "input_tokens_details"), _details(usage, "output_tokens_details")
    read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
    return _usage(
        inputs=_count(usage, "input_tokens") + read + written,
        cached=read or _count(inputs, "cached_tokens"),
        written=written or _count(inputs, "cache_write_tokens"),
        outputs=_count(usage, "output_tokens"),
        reasoning=_count(outputs, "reasoning_tokens") or _count(outputs, "thinking_tokens"),
        total=_count(usage, "total_tokens"),
    )


def _usage(*, inputs: int, cached: int, written: int, outputs: int, reasoning: int, total: int) -> dict[str, Any]:
    return {
        "input_tokens": inputs,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": outputs,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total or inputs + outputs,
    }


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    value = usage.get(name)
    return value if isinstance(value, dict) else {}


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
