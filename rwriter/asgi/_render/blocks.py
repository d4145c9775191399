"""Renders the content blocks of an Anthropic message as output items."""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi import _json
from rwriter.asgi._json import objects_in, text_or_empty
from rwriter.asgi._render.items import (
    EXTENSION,
    Ids,
    Item,
    arguments_text,
    function_call,
    image,
    message,
    output_text,
    reasoning,
)

_RESULT: Final = "_tool_result"


class Blocks:
    """Collects the items of a message's blocks.

    A tool that the provider runs becomes a ``web_search_call`` or an ``mcp_call`` with its result in it, and the block
    as it was beside it under ``rwriter``. What no item can be is in ``others``, as it was.
    """

    def __init__(self, ids: Ids, status: str) -> None:
        self._ids: Final = ids
        self._status: Final = status
        self._calls: Final[dict[str, Item]] = {}
        """The provider's calls that wait for their results."""
        self.items: Final[list[Item]] = []
        self.others: Final[list[Item]] = []

    def add(self, block: dict[str, Any]) -> None:
        """Add the item of one block, or complete an earlier one with it."""
        kind = text_or_empty(block.get("type"))
        if kind == "text":
            self._add_text(block)
        elif kind in ("server_tool_use", "mcp_tool_use"):
            self._add_call(block)
        elif kind.endswith(_RESULT):
            self._add_result(block, kind)
        else:
            item = self._item(block, kind)
            if item is None:
                self.others.append(block)
            else:
                self.items.append(item)

    def _item(self, block: dict[str, Any], kind: str) -> Item | None:
        match kind:
            case "tool_use":
                call = function_call(self._ids, block.get("id"), block.get("name"), block.get("input"))
                return call | {"status": self._status}
            case "thinking":
                signature = text_or_empty(block.get("signature"))
                thought = reasoning(self._ids, text_or_empty(block.get("thinking")), encrypted=signature)
                return thought | {"status": self._status}
            case "redacted_thinking":
                hidden = reasoning(self._ids, "", encrypted=text_or_empty(block.get("data")))
                return hidden | {"status": self._status}
            case "compaction":
                content = text_or_empty(block.get("content"))
                own = {"type": "compaction", "id": self._ids.next("cmp"), "encrypted_content": content}
                return own | {EXTENSION: {"block": block}}
            case "image":
                return self._image(block)
        return None

    def _image(self, block: dict[str, Any]) -> Item | None:
        source = block.get("source")
        if not isinstance(source, dict):
            return None
        if isinstance(source.get("url"), str):
            return image(self._ids, source["url"])
        if not isinstance(source.get("data"), str):
            return None
        return image(self._ids, f"data:{text_or_empty(source.get('media_type'))};base64,{source['data']}")

    def _add_text(self, block: dict[str, Any]) -> None:
        part = output_text(text_or_empty(block.get("text")))
        notes = [_citation(note, part["text"]) for note in objects_in(block.get("citations"))]
        part["annotations"] = [note for note in notes if note is not None]
        if self.items and self.items[-1]["type"] == "message":
            # an answer with citations comes as many blocks of text, and is one message
            self.items[-1]["content"].append(part)
        else:
            self.items.append(message(self._ids, [part]) | {"status": self._status})

    def _add_call(self, block: dict[str, Any]) -> None:
        name, given = text_or_empty(block.get("name")), block.get("input")
        asked = given if isinstance(given, dict) else {}
        item: Item
        if name == "web_search":
            query = text_or_empty(asked.get("query"))
            action = {"type": "search", "query": query, "queries": [query], "sources": []}
            item = {"type": "web_search_call", "id": self._ids.next("ws"), "action": action}
        else:
            item = _mcp_call(self._ids, name, text_or_empty(block.get("server_name")), given)
        # until its result comes
        item |= {"status": "incomplete", EXTENSION: {"block": block}}
        self.items.append(item)
        self._calls[text_or_empty(block.get("id"))] = item

    def _add_result(self, block: dict[str, Any], kind: str) -> None:
        call = self._calls.pop(text_or_empty(block.get("tool_use_id")), None)
        if call is None:
            # of a call in an earlier answer
            call = _mcp_call(self._ids, kind.removesuffix(_RESULT), "", None) | {EXTENSION: {}}
            self.items.append(call)
        content = block.get("content")
        failed = block.get("is_error") is True or _is_error(content)
        call["status"] = "failed" if failed else "completed"
        call[EXTENSION] = call[EXTENSION] | {"result": block}
        if call["type"] == "web_search_call":
            urls = [found["url"] for found in objects_in(content) if isinstance(found.get("url"), str)]
            call["action"]["sources"] = [{"type": "url", "url": url} for url in urls]
        else:
            call["output"] = _output(content)


def _mcp_call(ids: Ids, name: str, server: str, arguments: Any) -> Item:
    return {
        "type": "mcp_call",
        "id": ids.next("mcp"),
        "name": name,
        "server_label": server,
        "arguments": arguments_text(arguments),
        "output": None,
        "error": None,
    }


def _is_error(content: Any) -> bool:
    return isinstance(content, dict) and text_or_empty(content.get("type")).endswith("_error")


def _output(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = list(objects_in(content))
    if parts and all(isinstance(part.get("text"), str) for part in parts):
        return "".join(part["text"] for part in parts)
    return _json.to_text(content)


def _citation(note: dict[str, Any], text: str) -> Item | None:
    if not isinstance(note.get("url"), str):
        return None  # a Response has no annotation for a place in a document of the request
    title = text_or_empty(note.get("title"))
    return {"type": "url_citation", "start_index": 0, "end_index": len(text), "title": title, "url": note["url"]}
