"""Folds events of the Responses API into the final ``response``, or into as much of it as came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rwriter.asgi._fold import tree
from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.places import Ids, ids_of, name_of, number_of
from rwriter.asgi._fold.tree import Indexed, Node
from rwriter.asgi._json import decode, encode

_LAST: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"}
)
_CLOSING: Final = ("status", "error", "incomplete_details", "usage", "completed_at")
"""Fields that are kept of a final response that is too large."""


class _Place(NamedTuple):
    """The place of a text: ``item[key]``, or ``item[parts][number][key]``.

    The types are those of an item and a part that were not announced.
    """

    key: str
    item_type: str
    parts: str | None = None
    part_type: str = ""

    @property
    def number(self) -> str:
        """Name of the member of an event that numbers the parts, ``""`` if there are none."""
        return _NUMBERS.get(self.parts or "", "")


_NUMBERS: Final = {"content": "content_index", "summary": "summary_index"}
_PLACES: Final = {
    "response.output_text": _Place("text", "message", "content", "output_text"),
    "response.refusal": _Place("refusal", "message", "content", "refusal"),
    "response.reasoning_text": _Place("text", "reasoning", "content", "reasoning_text"),
    "response.reasoning_summary_text": _Place("text", "reasoning", "summary", "summary_text"),
    "response.audio": _Place("data", "message", "content", "output_audio"),
    "response.audio.transcript": _Place("transcript", "message", "content", "output_audio"),
    "response.function_call_arguments": _Place("arguments", "function_call"),
    "response.mcp_call_arguments": _Place("arguments", "mcp_call"),
    "response.custom_tool_call_input": _Place("input", "custom_tool_call"),
    "response.code_interpreter_call_code": _Place("code", "code_interpreter_call"),
}
_PARTS: Final = {
    "response.content_part": _Place("", "message", "content"),
    "response.reasoning_summary_part": _Place("", "reasoning", "summary"),
}
_DELTAS: Final = {f"{stem}.delta": (place, place.number) for stem, place in _PLACES.items()}
"""By the type of an event that carries a piece of a text."""


class ResponsesFold:
    """Folds one ``response``. The last event carries it whole; the others build it until then."""

    markers: Final = frozenset[str]()

    def __init__(self, budget: Budget) -> None:
        self.complete = False
        self.failure: dict[str, Any] | None = None
        self._first_id: str | None = None
        self._budget = budget
        self._top: Node = {}
        self._output = Indexed(budget)
        # the item or part that the last piece went to, by what the piece told of it: nearly all go to the same
        self._last: tuple[Any, Node] | None = None

    @property
    def other_id(self) -> str | None:
        """The first id, if the response has another now."""
        return None if self._first_id == self._top.get("id") else self._first_id

    def add(self, event: dict[str, Any]) -> None:
        """Take one event."""
        kind, response = event.get("type"), event.get("response")
        if type(kind) is not str:
            return
        piece = _DELTAS.get(kind)
        if piece is not None and type(response) is not dict:
            self._add_delta(*piece, event)  # nearly all events
            return
        self._last = None
        if kind in _LAST:
            self._finish(kind, response if type(response) is dict else {})
        elif type(response) is dict:
            self._take_snapshot(response)
        else:
            self._add_part(kind, event)

    def event_too_large(self, name: str) -> None:
        """Finish the response if the event that ends it was too large to be taken."""
        if name in _LAST:
            self._finish(name, {})

    def _take_snapshot(self, response: dict[str, Any]) -> None:
        """Take the response as it stands before its end: items in it are announced by it."""
        self._first_id = self._first_id or name_of(response.get("id"))
        for key, value in response.items():
            if key == "output" and type(value) in tree.LISTS and value:
                for number, item in enumerate(decode(encode(value))):
                    self._set_item("added", {"output_index": number, "item": item})
            elif key == "usage" and type(value) is dict:
                tree.merge_counts(self._top, key, value, self._budget)
            else:
                tree.set_value(self._top, key, value, self._budget)

    def _finish(self, kind: str, response: dict[str, Any]) -> None:
        again, self.complete = self.complete, True
        if kind == "response.failed":
            error = response.get("error")
            self.failure = error if type(error) is dict else {}
        if again and not response.get("output"):
            # told twice: what came before is not measured for each
            self._close(response)
            return
        whole = tree.thaw(response) | {key: value for key, value in self._top.items() if key not in response}
        streamed = 0 if response.get("output") else tree.size_of(self._output)
        if response and self._budget.restart(tree.size_of(whole) + streamed):
            counts, self._top = self._top.get("usage"), whole
            if not streamed:
                self._output = Indexed(self._budget)
                self._budget.exceeded = False
            self._keep_counts(counts, response.get("usage"))
            return
        self._close(response)

    def _keep_counts(self, held: Any, told: Any) -> None:
        """Merge the last counts into those that were told before."""
        if held is not None:
            self._top["usage"] = held
            if type(told) is dict:
                tree.merge_counts(self._top, "usage", told, self._budget)

    def _close(self, response: dict[str, Any]) -> None:
        for key in _CLOSING:
            if key == "usage" and type(response.get(key)) is dict:
                tree.merge_counts(self._top, key, response[key], self._budget)
            elif key in response:
                tree.set_value(self._top, key, response[key], self._budget)

    def _add_part(self, kind: str, event: dict[str, Any]) -> None:
        stem, _, step = kind.rpartition(".")
        if stem in _PLACES:
            self._add_text(_PLACES[stem], step, event)
        elif stem in _PARTS:
            self._set_part(_PARTS[stem], step, event)
        elif stem == "response.output_item":
            self._set_item(step, event)
        elif kind == "response.output_text.annotation.added":
            node = self._node(_PLACES["response.output_text"], event)
            if node is not None:
                tree.extend(node, "annotations", [event.get("annotation")], self._budget)

    def _add_text(self, place: _Place, step: str, event: dict[str, Any]) -> None:
        text = event.get(place.key)
        node = self._node(place, event) if step == "done" and type(text) is str else None
        if node is not None:
            tree.set_value(node, place.key, text, self._budget)

    def _add_delta(self, place: _Place, number: str, event: dict[str, Any]) -> None:
        text, logprobs = event.get("delta"), event.get("logprobs")
        if type(text) is not str:
            return
        told = place, event.get("item_id"), event.get("output_index"), event.get(number)
        if self._last is None or self._last[0] != told:
            node = self._node(place, event)
            if node is None:
                return
            self._last = told, node
        tree.add_text(self._last[1], place.key, text, self._budget)
        if logprobs and type(logprobs) in tree.LISTS:
            tree.extend(self._last[1], "logprobs", logprobs, self._budget)

    def _set_part(self, place: _Place, step: str, event: dict[str, Any]) -> None:
        part = event.get("part")
        if type(part) is dict and part.get("type") == "reasoning_text":
            place = place._replace(item_type="reasoning")
        item = self._item(place, event)
        parts = None if item is None or place.parts is None else tree.ensure_list(item, place.parts, self._budget)
        if parts is None or type(part) is not dict or place.parts is None:
            return
        self._set_entry(parts, step, number_of(event.get(_NUMBERS[place.parts])), part, tree.thaw)

    def _set_item(self, step: str, event: dict[str, Any]) -> None:
        item = event.get("item")
        if type(item) is dict:
            self._set_entry(self._output, step, number_of(event.get("output_index")), item, self._thawed)

    def _set_entry(
        self, list_: Indexed, step: str, number: int | None, entry: dict[str, Any], thaw: Callable[[Node], Node]
    ) -> None:
        """Announce an item or a part, or finish it. ``thaw`` makes it one that can grow."""
        kind, ids, places = name_of(entry.get("type")), _ids_of(entry), list_.places
        if step != "done":
            node = thaw(entry)
            place = places.announce(number, kind, ids, lambda one: _may_be(list_.get(one), entry, node))
            tree.adopt(list_, place, node, self._budget)
            return
        at = places.known(ids)
        if at is None:
            at = self._unfinished(list_, number, kind, ids)
            if at is None:
                # told twice, or never begun
                at = places.announce(number, kind, ids, lambda one: _may_be(list_.get(one), entry, thaw(entry)))
        tree.replace(list_, at, entry, self._budget)

    def _unfinished(self, list_: Indexed, number: int | None, kind: str | None, ids: Ids = ()) -> int | None:
        """Return the place of the entry that a piece goes on with; ``None`` if it is of one that is not there."""
        place = list_.places.find(number, kind, ids)
        is_finished = place is not None and type(list_.get(place)) is bytes
        return None if is_finished and list_.places.known(ids) is None else place

    def _node(self, place: _Place, event: dict[str, Any]) -> Node | None:
        """Return the item or part that ``event`` continues; ``None`` if that is finished or the budget is spent."""
        item = self._item(place, event)
        if item is None or place.parts is None:
            return item
        parts = tree.ensure_list(item, place.parts, self._budget)
        if parts is None:
            return None
        part = self._entry(parts, number_of(event.get(_NUMBERS[place.parts])), place.part_type)
        if part is not None and not part:
            part["type"] = place.part_type
        return part

    def _item(self, place: _Place, event: dict[str, Any]) -> Node | None:
        number, ids = number_of(event.get("output_index")), ids_of(event.get("item_id"))
        item = self._entry(self._output, number, place.item_type, ids)
        if item is not None and not item:
            tree.set_value(item, "id", event.get("item_id"), self._budget)
            item |= {"type": place.item_type, "status": "in_progress"}
            if place.item_type == "message":
                item["role"] = "assistant"
        return item

    def _entry(self, list_: Indexed, number: int | None, kind: str, ids: Ids = ()) -> Node | None:
        at = list_.places.known(ids) if ids else None
        if at is None:
            at = self._unfinished(list_, number, kind, ids)
            if at is None:
                at = list_.places.open(number, kind, ids)
        return tree.ensure_item(list_, at, self._budget)

    def _thawed(self, item: dict[str, Any]) -> Node:
        """Return an item that can grow, its parts too."""
        node = tree.thaw(item)
        for key in _NUMBERS:
            parts = item.get(key)
            if type(parts) is list:
                node[key] = held = Indexed(self._budget)
                for number, part in enumerate(parts):
                    if type(part) is dict:
                        place = held.places.announce(number, name_of(part.get("type")), (), lambda _: False)
                        held[place] = tree.thaw(part)
        return node

    def render(self) -> dict[str, Any]:
        """Return the response built so far."""
        body: dict[str, Any] = {"object": "response", **tree.render(self._top)}
        if self._output or "output" not in body:
            body["output"] = tree.render(self._output)
        return body


def _may_be(held: Any, entry: dict[str, Any], node: Node) -> bool:
    """Return True if ``entry`` is told again as it was told before."""
    return held == tree.freeze(entry) if type(held) is bytes else tree.may_be(held, node)


def _ids_of(entry: dict[str, Any]) -> Ids:
    """Return the ids of an item. That of its call tells a call, and its output, from others of their kind."""
    ids, call = ids_of(entry.get("id")), entry.get("call_id")
    return ids if call is None else ids + ids_of(call, f"call_id of {entry.get('type')}")
