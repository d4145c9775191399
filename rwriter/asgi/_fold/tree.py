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

from rwriter.asgi._json import LARGE, UNREADABLE, decode, encode

Node = dict[str, Any]

_ABSENT: Final = object()
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_ENTRY: Final = 8
"""Bytes charged for the quotes, colon and comma around a key."""
NODE: Final = 32
"""Bytes charged for an item of a list that is addressed by number."""
_WIDEST: Final = 6
"""Bytes of JSON the longest character takes: a control character, escaped."""
_RESERVE: Final = 16_384


class Indexed(dict[int, Any]):
    """A list whose items come by number, in any order."""


class Text(bytearray):
    """A text that comes in pieces."""


class JsonText(Text):
    """An object whose JSON comes as a text in pieces."""


class Items(bytearray):
    """A list that only grows."""


class Budget:
    """Bounds the tree. The fields that come last (usage, stop reason) find a reserve of up to 16 KiB."""

    def __init__(self, max_bytes: int) -> None:
        self.exceeded = False
        self._max_bytes: Final = max_bytes
        self._left = max_bytes
        self._reserve: Final = min(max_bytes // 8, _RESERVE)

    def grow(self, size: int) -> bool:
        """Reserve ``size`` bytes, if there is room. After the first refusal nothing grows: no text has holes."""
        if self.exceeded or size > self._left - self._reserve:
            self.exceeded = True
            return False
        self._left -= size
        return True

    def fit(self, piece: str) -> bytes:
        """Reserve room for ``piece`` and return it as JSON without quotes.

        Returns the beginning of the first piece that does not fit, and nothing of those after it.
        """
        if self.exceeded:
            return b""
        text = encode(piece)[1:-1]
        if not self.grow(len(text)):
            room = max(self._left - self._reserve, 0)
            text = encode(piece[: room // _WIDEST])[1:-1]
            self._left -= len(text)
        return text

    def swap(self, old: int, new: int) -> bool:
        """Replace ``old`` reserved bytes by ``new``, if there is room. Draws on the reserve too."""
        if new - old > self._left:
            self.exceeded = True
            return False
        self._left -= new - old
        return True

    def restart(self, size: int) -> bool:
        """Reserve ``size`` bytes in place of everything reserved before, if they fit."""
        if size > self._max_bytes:
            self.exceeded = True
            return False
        self._left = self._max_bytes - size
        return True


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
        held = node[key] = Indexed()
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


def _begin_text(node: Node, key: str, budget: Budget, kind: type[Text]) -> Text | None:
    held = node.get(key)
    if type(held) in {dict, Indexed} or not budget.grow(len(key) + _ENTRY):
        return None
    text = node[key] = kind(encode(held)[1:-1] if type(held) is str else b"")
    return text


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def extend(node: Node, key: str, values: list[Any] | Raw, budget: Budget) -> None:
    """Append ``values``, or those of the list as it is written, to the list at ``key``, if they fit."""
    held = node.get(key)
    if type(held) is not Items:
        if type(held) in {dict, Indexed} or not budget.grow(len(key) + _ENTRY):
            return
        held = node[key] = _items(held)
    text = encode(values)[1:-1].strip()
    if text and budget.grow(len(text) + 1):
        held += b"," + text


def _items(held: Any) -> Items:
    if type(held) is Text and held:
        held = encode([_text_part(render(held))])
    if type(held) is bytes and held.startswith(b"[") and held != b"[]":
        return Items(b"," + held[1:-1])
    return Items()


def replace(list_: Indexed, index: int, value: Any, budget: Budget) -> None:
    """Set the item of that number to the finished ``value``, if it fits."""
    frozen = freeze(value)
    if budget.swap(size_of(list_.get(index, "")), size_of(frozen) + 1):
        list_[index] = frozen


def thaw(value: dict[str, Any]) -> Node:
    """Return ``value`` as an object that can grow."""
    return {key: freeze(one) for key, one in value.items()}


def freeze(value: Any) -> Any:
    """Return ``value`` in the form in which it is held when it does not grow."""
    return value if type(value) in _SCALARS else encode(value)


def size_of(node: Any) -> int:
    """Return the bytes of JSON in ``node``."""
    if isinstance(node, bytes | bytearray):
        return len(node)
    if type(node) is Indexed:
        return sum(NODE + size_of(one) for one in node.values())
    if type(node) is dict:
        return sum(len(key) + _ENTRY + size_of(one) for key, one in node.items())
    return len(encode(node))


def render(node: Any) -> Any:
    """Return ``node`` as plain objects that nothing else refers to, and what is large as it is written."""
    kind = type(node)
    if kind is dict:
        return {key: render(one) for key, one in node.items()}
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
