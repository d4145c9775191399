"""Structs that hold a body or a key and show neither, whoever prints them."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class Guarded(msgspec.Struct, frozen=True):
    """Shows the fields in ``__shown__`` and no other: to ``repr``, to rich, and in tracebacks with local variables.

    A field that is added later is hidden until it is named.
    """

    __shown__: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__shown__)
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own names every field
        return [(name, getattr(self, name)) for name in self.__shown__]
