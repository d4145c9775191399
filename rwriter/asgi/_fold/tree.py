"""What a fold holds of an answer: a tree that grows by small pieces, and becomes plain objects when asked.

Each kind of value is held in the form that is cheapest to grow and small in memory:

- ``Text``: a text that comes in pieces, as JSON without its quotes (small strings in a list take sixty bytes each);
- ``Items``: a list that only grows, as the JSON of its entries, each behind a comma;
- ``bytes``: any other object or list, as its JSON;
- ``Indexed``: a list whose entries are addressed by number; ``dict``: an object that grows;
- a plain scalar: itself.

Sizes are bytes of JSON.
"""

from __future__ import annotations

from typing import Any, Final

from rwriter.asgi._json import decode, encode

Node = dict[str, Any]

_ABSENT: Final = object()
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_ENTRY: Final = 8
"""Bytes charged for the quotes, colon and comma around a key."""
NODE: Final = 32
"""Bytes charged for an entry of a list that is addressed by number."""
_WIDEST: Final = 6
"""Bytes of JSON the longest character takes: a control character, escaped."""
_RESERVE: Final = 16_384


class Indexed(dict[int, Any]):
    """A list whose entries come by number, in any order."""


class Text(bytearray):
    """A text that comes in pieces."""


class JsonText(Text):
    """An object whose JSON comes as a text in pieces."""


class Items(bytearray):
    """A list that only grows."""


class Budget:
    """How much the tree may hold. What comes at the end (usage, why it stopped) finds a reserve of up to 16 KiB."""

    def __init__(self, max_bytes: int) -> None:
        self.exceeded = False
        self._max_bytes: Final = max_bytes
        self._left = max_bytes
        self._reserve: Final = min(max_bytes // 8, _RESERVE)

    def grow(self, size: int) -> bool:
        """Take ``size`` bytes. After the first refusal nothing grows: what is held has no holes."""
        if self.exceeded or size > self._left - self._reserve:
            self.exceeded = True
            return False
        self._left -= size
        return True

    def fit(self, piece: str) -> bytes:
        """Take ``piece``, or of the first that is too large its beginning; as JSON without quotes."""
        if self.exceeded:
            return b""
        text = encode(piece)[1:-1]
        if not self.grow(len(text)):
            room = max(self._left - self._reserve, 0)
            text = encode(piece[: room // _WIDEST])[1:-1]
            self._left -= len(text)
        return text

    def swap(self, old: int, new: int) -> bool:
        """Take ``new`` bytes in place of ``old``, from the reserve too."""
        if new - old > self._left:
            self.exceeded = True
            return False
        self._left -= new - old
        return True

    def restart(self, size: int) -> bool:
        """Take ``size`` bytes in place of all that was taken."""
        if size > self._max_bytes:
            self.exceeded = True
            return False
        self._left = self._max_bytes - size
        return True


def put(node: Node, key: str, value: Any, budget: Budget) -> None:
    """Set ``key``, whatever was there. An empty value never takes the place of another."""
    held = node.get(key, _ABSENT)
    if held is not _ABSENT and (value is None or value == ""):
        return
    value = frozen(value)
    if held == value and type(held) is type(value):
        return
    entry = len(key) + _ENTRY if held is _ABSENT else 0
    if budget.swap(0 if held is _ABSENT else size_of(held), size_of(value) + entry):
        node[key] = value


def child(node: Node, key: str, budget: Budget) -> Node | None:
    """The object at ``key``, made if there is none; ``None`` when something else is there or the budget is spent."""
    held = node.get(key)
    if held is None and budget.grow(len(key) + _ENTRY):
        held = node[key] = {}
    return held if type(held) is dict else None


def entries(node: Node, key: str, budget: Budget) -> Indexed | None:
    """The numbered list at ``key``, made if there is none or an empty one; ``None`` as in ``child``."""
    held = node.get(key)
    if (held is None or held == b"[]") and budget.grow(len(key) + _ENTRY):
        held = node[key] = Indexed()
    return held if type(held) is Indexed else None


def entry(list_: Indexed, index: int, budget: Budget) -> Node | None:
    """The object with that number, made if there is none; ``None`` when it is finished or the budget is spent."""
    held = list_.get(index)
    if held is None and budget.grow(NODE):
        held = list_[index] = {}
    return held if type(held) is dict else None


def add_text(node: Node, key: str, piece: str, budget: Budget, kind: type[Text] = Text) -> None:
    """Continue the text at ``key``. In a list of parts, which some models answer with, it is one more part."""
    held = node.get(key)
    if type(held) is Items:
        extend(node, key, [_text_part(piece)], budget)
        return
    if type(held) is not kind:
        held = _begun(node, key, budget, kind)
    if held is not None:
        held += budget.fit(piece)


def _begun(node: Node, key: str, budget: Budget, kind: type[Text]) -> Text | None:
    held = node.get(key)
    if type(held) in {dict, Indexed} or not budget.grow(len(key) + _ENTRY):
        return None
    text = node[key] = kind(encode(held)[1:-1] if type(held) is str else b"")
    return text


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def extend(node: Node, key: str, values: list[Any], budget: Budget) -> None:
    """Continue the list at ``key``."""
    held = node.get(key)
    if type(held) is not Items:
        if type(held) in {dict, Indexed} or not budget.grow(len(key) + _ENTRY):
            return
        held = node[key] = _items(held)
    text = encode(values)[1:-1]
    if text and budget.grow(len(text) + 1):
        held += b"," + text


def _items(held: Any) -> Items:
    if type(held) is Text and held:
        held = encode([_text_part(render(held))])
    if type(held) is bytes and held.startswith(b"[") and held != b"[]":
        return Items(b"," + held[1:-1])
    return Items()


def replace(list_: Indexed, index: int, value: Any, budget: Budget) -> None:
    """Put the finished ``value`` at that number, if it fits."""
    frozen_value = frozen(value)
    if budget.swap(size_of(list_.get(index, "")), size_of(frozen_value) + 1):
        list_[index] = frozen_value


def opened(value: dict[str, Any]) -> Node:
    """``value`` as an object that can grow."""
    return {key: frozen(one) for key, one in value.items()}


def frozen(value: Any) -> Any:
    """``value`` as it is held when it does not grow."""
    return value if type(value) in _SCALARS else encode(value)


def size_of(node: Any) -> int:
    """Bytes of JSON in ``node``."""
    if isinstance(node, bytes | bytearray):
        return len(node)
    if type(node) is Indexed:
        return sum(NODE + size_of(one) for one in node.values())
    if type(node) is dict:
        return sum(len(key) + _ENTRY + size_of(one) for key, one in node.items())
    return len(encode(node))


def render(node: Any) -> Any:
    """``node`` as plain objects, which nothing else holds."""
    kind = type(node)
    if kind is dict:
        return {key: render(one) for key, one in node.items()}
    if kind is Indexed:
        return [render(node[index]) for index in sorted(node)]
    if kind is Text:
        return _thawed(b'"' + node + b'"')
    if kind is JsonText:
        return _parsed(_thawed(b'"' + node + b'"'))
    if kind is Items:
        return _thawed(b"[" + node[1:] + b"]")
    return _thawed(node) if kind is bytes else node


def _thawed(text: bytes) -> Any:
    try:
        return decode(text)
    except RecursionError:  # nested to the limit, and asked for from deeper in the stack than it came
        return None


def _parsed(text: str) -> Any:
    """The object; of one that was cut, its text."""
    try:
        return decode(text) if text else {}
    except (ValueError, RecursionError):
        return text
