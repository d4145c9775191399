"""Reads the bytes of a stream with the official clients: they are the judges of a fold."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Final

import anthropic
import openai

CLIENTS_OWN: Final = frozenset({"parsed", "parsed_arguments", "parsed_output"})
"""Members that a client adds to what came."""
MAY_BE_EMPTY: Final = frozenset({"content", "refusal"})
"""Texts of a message that say nothing when they are empty."""


def _answering(kind: type[Any], pieces: Iterable[bytes]) -> Any:
    """Return an HTTP client of the class ``kind`` that answers any request with a stream of ``pieces``."""
    # newer releases of the clients have a package of their own in place of httpx
    package = next(base.__module__ for base in kind.__mro__ if base.__module__.startswith("httpx")).partition(".")[0]
    http, given = importlib.import_module(package), list(pieces)

    def answer(_: Any) -> Any:
        return http.Response(200, headers={"content-type": "text/event-stream"}, content=iter(given))

    return kind(transport=http.MockTransport(answer))


def _openai(pieces: Iterable[bytes]) -> openai.OpenAI:
    http = _answering(openai.DefaultHttpxClient, pieces)
    return openai.OpenAI(api_key="sk-test", base_url="http://test/v1", max_retries=0, http_client=http)


def chat_of(*pieces: bytes) -> dict[str, Any]:
    """Return the completion that ``openai`` builds from the stream."""
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with _openai(pieces) as client, client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        return stream.current_completion_snapshot.to_dict()


def message_of(*pieces: bytes) -> dict[str, Any]:
    """Return the message that ``anthropic`` builds from the stream."""
    asked: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    http = _answering(anthropic.DefaultHttpxClient, pieces)
    with (
        anthropic.Anthropic(api_key="x", base_url="http://test", max_retries=0, http_client=http) as client,
        client.messages.stream(**asked) as stream,
    ):
        return stream.get_final_message().to_dict()


def response_of(*pieces: bytes) -> dict[str, Any]:
    """Return the response with which ``openai``'s accumulator ends."""
    with _openai(pieces) as client, client.responses.stream(model="m", input="x") as stream:
        *_, last = stream
    ended: Any = last
    body: dict[str, Any] = ended.response.to_dict()
    return body


def told(value: Any, *, calls: bool = False) -> Any:
    """Return ``value`` without what is null or says nothing, and without what a client adds of its own.

    The numbers of tool calls are left out too: a call knows its place by its place.
    """
    if isinstance(value, list):
        return [told(one, calls=calls) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: told(one, calls=key == "tool_calls")
        for key, one in value.items()
        if one is not None
        and key not in CLIENTS_OWN
        and not (key in MAY_BE_EMPTY and one == "")
        and not (calls and key == "index")
    }
