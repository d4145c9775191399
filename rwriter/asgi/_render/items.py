"""Makes output items of a Response, each with an id of its own."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

from rwriter.asgi import _json
from rwriter.asgi._json import text_or_empty

Item = dict[str, Any]

EXTENSION: Final = "rwriter"
"""Member of a Response and of its items for what no Response can express."""

_DATA: Final = "data:"


class Ids:
    """Makes ids for items that came without one, from the request's id: the same at each reading."""

    def __init__(self, request_id: uuid.UUID) -> None:
        self._hex: Final = request_id.hex
        self._made = 0

    def next(self, prefix: str) -> str:
        """Return an id that begins with ``prefix`` and that no other item has."""
        self._made += 1
        return f"{prefix}_{self._hex}_{self._made - 1}"


def message(ids: Ids, parts: list[Item]) -> Item:
    """Make a message of the assistant."""
    return {"type": "message", "id": ids.next("msg"), "role": "assistant", "content": parts}


def output_text(text: str) -> Item:
    """Make a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning(ids: Ids, text: str, *, summary: Sequence[str] = (), encrypted: str = "") -> Item:
    """Make a thought; ``encrypted`` is what proves it to its provider, a signature or the whole in cipher."""
    item: Item = {
        "type": "reasoning",
        "id": ids.next("rs"),
        "summary": [{"type": "summary_text", "text": part} for part in summary],
        "content": [{"type": "reasoning_text", "text": text}] if text else [],
    }
    return item | {"encrypted_content": encrypted} if encrypted else item


def function_call(ids: Ids, call_id: Any, name: Any, arguments: Any) -> Item:
    """Make a call of a function that the client runs."""
    own = ids.next("fc")
    return {
        "type": "function_call",
        "id": own,
        "call_id": text_or_empty(call_id) or own.replace("fc_", "call_", 1),
        "name": text_or_empty(name),
        "arguments": arguments_text(arguments),
    }


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a call as the JSON text that a Response has."""
    return arguments if isinstance(arguments, str) else _json.to_text({} if arguments is None else arguments)


def image(ids: Ids, url: str) -> Item:
    """Make an image; ``result`` is its Base64, ``None`` for one that is only referred to."""
    head, _, data = url.partition(",")
    inline = head.startswith(_DATA) and head.endswith(";base64")
    return {
        "type": "image_generation_call",
        "id": ids.next("ig"),
        "status": "completed",
        "result": data if inline else None,
        "image_url": url,
    }
