"""Holds an answer while it is folded: a tree that grows by small pieces and is rendered to plain objects.

Each kind of value is held in the form that is cheapest to grow and small in memory:

- ``Text``: a text that comes in pieces, as JSON without its quotes (small strings in a list take sixty bytes each);
- ``Items``: a list that only grows, as the JSON of its items, each behind a comma;
- ``bytes``: any other object or list, as its JSON;
- ``Indexed``: a list whose items are addressed by number; ``dict``: an object that grows;
- a plain scalar: itself.

Sizes are bytes of JSON.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Raw

from rwriter.asgi._fold.budget import Budget
from rwriter.asgi._fold.places import Places
from rwriter.asgi._json import LARGE, UNREADABLE, decode, encode

Node = dict[str, Any]

_ABSENT: Final = object()
_EMPTY: Final = (b"[]", b"{}", b"null")
LISTS: Final = frozenset({list, Raw})
"""Types of a list that was read, and of one that is passed on as it is written."""
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_LEVELS: Final = 3
"""Levels of counts that are merged. A deeper object is replaced by the next."""
_GROWS: Final = 10
"""Factor by which a number has a digit more."""
_ENTRY: Final = 8
"""Bytes charged for the quotes, colon and comma around a key."""
NODE: Final = 32
"""Bytes charged for an item of a list that is addressed by number."""


class Indexed(dict[int, Any]):
    """A list whose items come by number, in any order. ``places`` tells which item a piece belongs to."""

    __slots__ = ("places",)

    def __init__(self, budget: Budget) -> None:
        self.places: Final = Places(budget)


class Text(bytearray):
    """A text that comes in pieces."""

    __slots__ = ()


class JsonText(Text):
    """An object whose JSON comes as a text in pieces."""

    __slots__ = ()


class Items(bytearray):
    """A list that only grows."""

    __slots__ = ()


_WRITTEN: Final = frozenset({bytes, Text, JsonText, Items})
_TEXTS: Final = frozenset({str, Text})
_GROWING: Final = frozenset({dict, Indexed})


def set_value(node: Node, key: str, value: Any, budget: Budget) -> None:
    """Set ``key`` to ``value`` if it fits. An empty value never replaces another."""
    held = node.get(key, _ABSENT)
    if held is not _ABSENT and (value is None or value == ""):
        return
    value = freeze(value)
    if held == value and type(held) is type(value):
        return
    entry = len(key) + _ENTRY if held is _ABSENT else 0
    if budget.swap(0 if held is _ABSENT else size_of(held), size_of(value) + entry):
        node[key] = value


def merge_counts(node: Node, key: str, usage: dict[str, Any], budget: Budget, depth: int = _LEVELS) -> None:
    """Merge token counts into the object at ``key``.

    Each is a total so far, so a new one replaces the old. A zero after a count is a placeholder and replaces none, nor
    does anything else that is empty.
    """
    held = node.get(key)
    if type(held) is not dict:
        if not budget.swap(0 if held is None else size_of(held), len(key) + _ENTRY):
            return
        held = node[key] = {}
    for name, value in usage.items():
        known = held.get(name)
        if known == value is not None:
            continue
        if type(value) is dict and depth:
            if value or name not in held:
                merge_counts(held, name, value, budget, depth - 1)
        elif type(value) is type(known) is int and 0 < value < known * _GROWS:
            held[name] = value  # nearly as many digits: charged by the next that has more
        elif value or not known:
            set_value(held, name, value, budget)


def ensure_object(node: Node, key: str, budget: Budget) -> Node | None:
    """Return the object at ``key``, made if missing; ``None`` if something else is there or the budget is spent."""
    held = node.get(key)
    if held is None and budget.grow(len(key) + _ENTRY):
        held = node[key] = {}
    return held if type(held) is dict else None


def ensure_list(node: Node, key: str, budget: Budget) -> Indexed | None:
    """Return the numbered list at ``key``, made if missing or empty; ``None`` as in ``ensure_object``."""
    held = node.get(key)
    if (held is None or held == b"[]") and budget.grow(len(key) + _ENTRY):
        held = node[key] = Indexed(budget)
    return held if type(held) is Indexed else None


def ensure_item(list_: Indexed, index: int, budget: Budget) -> Node | None:
    """Return the object of that number, made if missing; ``None`` if it is finished or the budget is spent."""
    held = list_.get(index)
    if held is None and budget.grow(NODE):
        held = list_[index] = {}
    return held if type(held) is dict else None


def add_text(node: Node, key: str, piece: str, budget: Budget, kind: type[Text] = Text) -> None:
    """Continue the text at ``key``. In a list of parts, as some models send, add one more part."""
    held = node.get(key)
    if type(held) is Items:
        extend(node, key, [_text_part(piece)], budget)
        return
    if type(held) is not kind:
        held = _begin_text(node, key, budget, kind)
    if held is not None:
        held += budget.fit(piece)


def set_first_piece(node: Node, key: str, piece: str, budget: Budget) -> None:
    """Begin the text at ``key``, which is missing. Most short texts have one piece: it stays a plain one.

    That tells it from no text that came whole, so it is not for entries that may be announced again. The garbage
    collector looks at every ``Text`` there is, and at no plain one.
    """
    if budget.grow(len(key) + _ENTRY):
        text = budget.fit(piece)
        node[key] = Text(text) if budget.exceeded else piece


def _begin_text(node: Node, key: str, budget: Budget, kind: type[Text]) -> Text | None:
    held = node.get(key)
    if type(held) in _GROWING or not budget.grow(len(key) + _ENTRY):
        return None
    text = node[key] = kind(encode(held)[1:-1] if type(held) is str else b"")
    return text


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def extend(node: Node, key: str, values: list[Any] | Raw, budget: Budget) -> None:
    """Append ``values``, or those of the list as it is written, to the list at ``key``, if they fit."""
    held = node.get(key)
    if type(held) is not Items:
        if type(held) in _GROWING or not budget.grow(len(key) + _ENTRY):
            return
        held = node[key] = _items(held)
    text = encode(values)[1:-1].strip()
    if text and budget.grow(len(text) + 1):
        held += b"," + text


def _items(held: Any) -> Items:
    if type(held) in _TEXTS and held:
        held = encode([_text_part(render(held))])
    if type(held) is bytes and held.startswith(b"[") and held != b"[]":
        return Items(b"," + held[1:-1])
    return Items()


def replace(list_: Indexed, index: int, value: Any, budget: Budget) -> None:
    """Set the item of that number to the finished ``value``, if it fits."""
    frozen = freeze(value)
    if budget.swap(size_of(list_.get(index, "")), size_of(frozen) + 1):
        list_[index] = frozen


def adopt(list_: Indexed, index: int, node: Node, budget: Budget) -> None:
    """Set the item of that number to ``node``, or add to the item that is there what only ``node`` tells."""
    held = list_.get(index)
    if held is None:
        if budget.swap(0, size_of(node) + NODE):
            list_[index] = node
    elif type(held) is dict:
        for key, value in node.items():
            if _is_empty(held.get(key)) and budget.swap(size_of(held.get(key, "")), len(key) + _ENTRY + size_of(value)):
                held[key] = value


def may_be(held: Any, node: Node) -> bool:
    """Return True if ``node`` announces again what ``held`` is: nothing has grown in it, and nothing differs."""
    if type(held) is not dict:
        return False
    if held == node:
        return True
    return not any(map(_has_grown, held.values())) and all(
        _is_empty(value) or _is_empty(node.get(key)) or value == node[key] for key, value in held.items()
    )


def _is_empty(value: Any) -> bool:
    return not value or value in _EMPTY


def _has_grown(value: Any) -> bool:
    return type(value) in {Text, JsonText, Items, dict} or (type(value) is Indexed and bool(value))


def thaw(value: dict[str, Any]) -> Node:
    """Return ``value`` as an object that can grow."""
    return {key: one if type(one) in _SCALARS else encode(one) for key, one in value.items()}


def freeze(value: Any) -> Any:
    """Return ``value`` in the form in which it is held when it does not grow."""
    return value if type(value) in _SCALARS else encode(value)


def size_of(node: Any) -> int:
    """Return the bytes of JSON in ``node``."""
    kind = type(node)
    if kind is dict:
        size = 0
        for key, one in node.items():
            of_one = type(one)
            size += len(key) + _ENTRY
            size += len(encode(one)) if of_one is str else len(one) if of_one in _WRITTEN else size_of(one)
        return size
    if kind is Indexed:
        return len(node) * NODE + sum(map(size_of, node.values()))
    return len(node) if kind in _WRITTEN else len(encode(node))


def render(node: Any) -> Any:
    """Return ``node`` as plain objects that nothing else refers to, and what is large as it is written."""
    kind = type(node)
    if kind is dict:
        return {key: one if type(one) in _SCALARS else render(one) for key, one in node.items()}
    if kind is Indexed:
        return [render(node[index]) for index in sorted(node)]
    if kind is Text:
        return _decoded(b'"' + node + b'"')
    if kind is JsonText:
        return _parsed(_decoded(b'"' + node + b'"'))
    if kind is Items:
        return _decoded(b"[" + node[1:] + b"]")
    return _decoded(node) if kind is bytes else node


def _decoded(text: bytes) -> Any:
    if len(text) > LARGE and not text.startswith(b'"'):
        return Raw(text)
    try:
        return decode(text)
    except RecursionError:  # nested to the limit, and rendered from deeper in the stack than it was taken
        return None


def _parsed(text: str) -> Any:
    """Return the object in ``text``, or the text itself if it was cut."""
    try:
        return decode(text) if text else {}
    except UNREADABLE:
        return text
