"""Bounds what a fold holds."""

from __future__ import annotations

from typing import Final

from rwriter.asgi._json import encode

_WIDEST: Final = 6
"""Bytes of JSON the longest character takes: a control character, escaped."""
_RESERVE: Final = 16_384


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
        left = self._left - len(text)
        if left < self._reserve:
            self.exceeded = True
            room = max(self._left - self._reserve, 0)
            text = encode(piece[: room // _WIDEST])[1:-1]
            left = self._left - len(text)
        self._left = left
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
