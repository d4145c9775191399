"""Texts as PostgreSQL can hold them."""

from __future__ import annotations

from typing import Final

from opentelemetry import metrics

QUOTE_LIMIT: Final = 64 << 10
"""Bytes of UTF-8 that the error of a failed row quotes of its body."""

_repaired: Final = metrics.get_meter("rwriter").create_counter(
    "rwriter.repaired", unit="{text}", description="Texts that held a NUL or a lone surrogate, replaced by U+FFFD."
)


def repair(text: str) -> str:
    """Return ``text`` with each NUL and lone surrogate replaced by U+FFFD: PostgreSQL's TEXT cannot hold them."""
    if text.isascii():
        if "\0" not in text:
            return text
    else:
        try:
            text.encode()
        except UnicodeEncodeError:
            # UTF-16 joins a high and a low surrogate that belong together, so that only lone ones are lost
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        else:
            if "\0" not in text:
                return text
    _repaired.add(1)
    return text.replace("\0", "\ufffd")


def utf8_size(text: str) -> int:
    """Return the length of a repaired text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def quoted(body: str) -> str:
    """Return the first 64 KiB of ``body`` in UTF-8, whole characters."""
    if len(body) * 4 <= QUOTE_LIMIT:
        return body
    return body[:QUOTE_LIMIT].encode()[:QUOTE_LIMIT].decode("utf-8", "ignore")
