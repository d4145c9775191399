"""The secret of the ledger, and the keyed digests that are made with it."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Callable
from typing import Final

import msgspec

from rwriter._values.keys import pepper_secret, secret_bytes

log = logging.getLogger("rwriter")

VARIABLE: Final = "RWRITER_LEDGER_SECRET"
PLAIN: Final = "sha256"
"""The id of digests that were made without a secret."""

_PURPOSE: Final = b"rwriter ledger 1"
_ID_DIGITS: Final = 8


class Key(msgspec.Struct, frozen=True):
    """Makes the digests of a ledger. ``id`` tells one secret from another, and says nothing of it."""

    id: str
    sign: Callable[[bytes], bytes]

    def __repr__(self) -> str:
        return f"Key(id={self.id!r})"


class _Secret:
    """The secret that this process was given."""

    def __init__(self) -> None:
        self.given: bytes | None = None
        self.told = False


_secret: Final = _Secret()


def use_ledger_secret(secret: str | bytes) -> None:
    """Make the ledger's digests with ``secret`` from now on, in this process. It goes before the environment variable.

    Give at least 16 random bytes that every process of the service and the auditor know, and the database does not.
    Raises ``TypeError`` for a secret that is neither ``str`` nor ``bytes``, ``ValueError`` for an empty one.
    """
    _secret.given = secret_bytes(secret)


def current_key() -> Key:
    """Return the key of the secret given, else of the environment's, else of the key pepper, else plain SHA-256."""
    secret = _secret.given or os.environ.get(VARIABLE, "").encode("utf-8", "surrogateescape") or pepper_secret()
    if secret:
        return keyed(secret)
    if not _secret.told:
        _secret.told = True
        log.warning(
            "the ledger's digests are plain SHA-256: whoever may write to the database can make them anew. Set %s",
            VARIABLE,
        )
    return plain_key()


def plain_key() -> Key:
    """Return the key of a ledger without a secret."""
    return Key(PLAIN, lambda content: hashlib.sha256(content).digest())


def keyed(secret: bytes) -> Key:
    """Return the key that is made of ``secret``. It is no other than the ledger's, whatever else the secret is for."""
    own = hmac.digest(secret, _PURPOSE, "sha256")
    return Key("hmac:" + hashlib.sha256(own).hexdigest()[:_ID_DIGITS], _hmac_of(own))


def _hmac_of(key: bytes) -> Callable[[bytes], bytes]:
    """Return ``hmac.digest`` with ``key``, whose two blocks are hashed once: 0.6 us a call in place of 1.6."""
    inner, outer = (hashlib.sha256(bytes(each ^ pad for each in key.ljust(64, b"\0"))) for pad in (0x36, 0x5C))

    def sign(content: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(content)
        second.update(first.digest())
        return second.digest()

    return sign
