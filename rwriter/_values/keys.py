"""Digests of API keys: all that the library keeps of a key, and a type that no input can forge."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
from collections.abc import Iterator
from typing import Any, Final

import msgspec

log = logging.getLogger("rwriter")

PEPPER_VARIABLE: Final = "RWRITER_KEY_PEPPER"
_DIGITS: Final = 32
_ID_DIGITS: Final = 8


class KeyDigest(str):
    """The digest of an API key, as it is stored.

    A key is digested because it is a plain ``str``, whatever it looks like. A value of this type is known to be a
    digest already. The library alone makes one: of a key, or of what it stored before.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        # a digest of a guessable key is as good as the key
        return "KeyDigest(...)"


class _Pepper(msgspec.Struct, frozen=True):
    secret: bytes
    id: str

    def __repr__(self) -> str:
        return f"_Pepper(id={self.id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id)]


class _Keys:
    """The pepper of this process, and what was said about it."""

    def __init__(self) -> None:
        self.pepper: _Pepper | None = None
        self.asked_environment = False


_keys: Final = _Keys()


def secret_bytes(secret: str | bytes) -> bytes:
    """Return the bytes of a secret. Raises ``TypeError`` and ``ValueError`` as ``use_key_pepper`` does."""
    if not isinstance(secret, (str, bytes)):
        msg = f"secret must be a str or bytes, not {type(secret).__name__}"
        raise TypeError(msg)
    raw = secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else bytes(secret)
    if not raw:
        msg = "secret must not be empty: give at least 16 random bytes"
        raise ValueError(msg)
    return raw


def use_key_pepper(secret: str | bytes) -> None:
    """Digest API keys with HMAC-SHA256 and ``secret`` from now on, in this process.

    Plain SHA-256 of a key that people made up is guessed within seconds by whoever reads the table. With a pepper the
    stored digest is ``hmac:<id>:<32 hex digits>``; ``<id>`` is the first 8 hex digits of the pepper's own SHA-256, so
    that a changed pepper can be told. Call it before the first record is made, with at least 16 random bytes that every
    process of the service knows and the database does not. The environment variable ``RWRITER_KEY_PEPPER`` does the
    same; a call goes before it.

    Raises ``TypeError`` for a secret that is neither ``str`` nor ``bytes``, ``ValueError`` for an empty one.
    """
    raw = secret_bytes(secret)
    _keys.pepper = _Pepper(raw, hashlib.sha256(raw).hexdigest()[:_ID_DIGITS])
    _keys.asked_environment = True


@contextlib.contextmanager
def pepper_for_now(secret: str) -> Iterator[None]:
    """Digest keys with ``secret`` for the duration of a block, unless there is a pepper."""
    before = _keys.pepper, _keys.asked_environment
    if _keys.pepper is None and not os.environ.get(PEPPER_VARIABLE):
        use_key_pepper(secret)
    try:
        yield
    finally:
        _keys.pepper, _keys.asked_environment = before


def key_pepper_is_set() -> bool:
    """Return True if keys are digested with a pepper, by ``use_key_pepper`` or the environment."""
    return _pepper() is not None


def pepper_secret() -> bytes | None:
    """Return the pepper's own bytes, or ``None`` where keys are digested without one."""
    if not _keys.asked_environment and not os.environ.get(PEPPER_VARIABLE):
        return None  # no word about it here: there may be no API keys at all
    pepper = _pepper()
    return None if pepper is None else pepper.secret


def digest(api_key: str) -> KeyDigest:
    """Return the digest of a raw key, and a ``KeyDigest`` as it is; an empty key stays empty."""
    if isinstance(api_key, KeyDigest):
        return api_key
    if not api_key:
        return KeyDigest()
    raw = api_key.encode("utf-8", "surrogatepass")
    pepper = _keys.pepper or _pepper()
    if pepper is None:
        return KeyDigest("sha256:" + hashlib.sha256(raw).hexdigest()[:_DIGITS])
    keyed = hmac.digest(pepper.secret, raw, "sha256").hex()
    return KeyDigest(f"hmac:{pepper.id}:{keyed[:_DIGITS]}")


def plain(value: Any) -> str:
    """Return a ``KeyDigest`` as the ``str`` that msgspec can encode: the ``enc_hook`` for records."""
    if isinstance(value, KeyDigest):
        return str.__str__(value)
    msg = f"cannot encode a {type(value).__name__}"
    raise NotImplementedError(msg)


def _pepper() -> _Pepper | None:
    if not _keys.asked_environment:
        _keys.asked_environment = True
        if secret := os.environ.get(PEPPER_VARIABLE):
            use_key_pepper(secret)
        else:
            log.warning(
                "API keys are stored as plain SHA-256, which is found out quickly for a key that can be guessed: call "
                "rwriter.use_key_pepper(secret) or set %s",
                PEPPER_VARIABLE,
            )
    return _keys.pepper
