"""Renders the parameters of a request to any API with the names that a Response repeats them under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_TIERS: Final = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")


def required(request: dict[str, Any]) -> dict[str, Any]:
    """Return the three parameters that every Response has."""
    parallel = request.get("parallel_tool_calls")
    return {
        "parallel_tool_calls": parallel if isinstance(parallel, bool) else True,
        "tool_choice": _tool_choice(request.get("tool_choice")),
        "tools": _tools(request.get("tools")),
    }


def echo(request: dict[str, Any]) -> dict[str, Any]:
    """Return every parameter a Response shows; ``None`` for one that is missing or of the wrong type."""
    shown = {name: _checked(request, name, check) for name, check in _SHOWN.items()}
    for limit in ("max_completion_tokens", "max_tokens"):
        if shown["max_output_tokens"] is None:
            shown["max_output_tokens"] = _checked(request, limit, _is_int)
    if shown["instructions"] is None:
        shown["instructions"] = _checked(request, "system", _is_text)
    if shown["reasoning"] is None and _is_text(request.get("reasoning_effort")):
        shown["reasoning"] = {"effort": request["reasoning_effort"]}
    if shown["text"] is None:
        shown["text"] = {"format": _text_format(request.get("response_format"))}
    if shown["metadata"] is None:
        shown["metadata"] = {}
    return required(request) | shown


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_metadata(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_instructions(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


# a request may hold anything, and an official client refuses an object with a field of the wrong type
_SHOWN: Final[dict[str, Callable[[object], bool]]] = {
    "instructions": _is_instructions,
    "max_output_tokens": _is_int,
    "max_tool_calls": _is_int,
    "metadata": _is_metadata,
    "previous_response_id": _is_text,
    "prompt_cache_key": _is_text,
    "reasoning": _is_object,
    "safety_identifier": _is_text,
    "service_tier": lambda value: value in _TIERS if isinstance(value, str) else False,
    "temperature": _is_number,
    "text": _is_object,
    "top_logprobs": _is_int,
    "top_p": _is_number,
    "truncation": lambda value: value in ("auto", "disabled") if isinstance(value, str) else False,
    "user": _is_text,
}

_ELSEWHERE: Final = (
    *("max_completion_tokens", "max_tokens", "system", "reasoning_effort", "response_format"),
    *("parallel_tool_calls", "tool_choice", "tools"),
)

ECHOED: Final = (*_SHOWN, *_ELSEWHERE)
"""Members of a request that a Response repeats, in the words of any API."""


def _checked(request: dict[str, Any], name: str, check: Callable[[object], bool]) -> Any:
    value = request.get(name)
    return value if check(value) else None


def _tools(tools: object) -> list[dict[str, Any]]:
    return [_tool(tool) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if isinstance(function, dict):
        # a chat completion wraps the function in an object, a Response does not
        return {"type": "function", "parameters": None, "strict": None} | function
    if "input_schema" in tool and "type" not in tool:
        rest = {name: value for name, value in tool.items() if name != "input_schema"}
        return {"type": "function", "parameters": tool["input_schema"], "strict": None} | rest
    custom = tool.get("custom")
    return {"type": "custom"} | custom if isinstance(custom, dict) else tool


def _tool_choice(choice: object) -> str | dict[str, Any]:
    if isinstance(choice, str):
        return choice if choice in ("none", "auto", "required") else "auto"
    if not isinstance(choice, dict):
        return "auto"
    name = choice.get("name")
    match choice.get("type"):
        case "auto" | "none" as word:
            return str(word)
        case "any":
            return "required"
        case "tool":
            return {"type": "function", "name": name}
        case "function" if isinstance(choice.get("function"), dict):
            return {"type": "function", "name": choice["function"].get("name")}
    return choice


def _text_format(wanted: object) -> dict[str, Any]:
    if not isinstance(wanted, dict) or not isinstance(wanted.get("type"), str):
        return {"type": "text"}
    schema = wanted.get("json_schema")
    if isinstance(schema, dict):
        return {"type": "json_schema"} | schema
    return wanted
