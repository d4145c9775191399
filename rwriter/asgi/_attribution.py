"""Finds the owner of a request: the tenant its API key belongs to, looked up once and cached for a while."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from rwriter._hooks import resolve
from rwriter._validation import at_least, positive
from rwriter._values.extras import refuse_missing
from rwriter._values.keys import KeyDigest, digest
from rwriter._values.texts import repair
from rwriter.asgi._types import Scope
from rwriter.records import NAME_LIMIT

try:
    from cachetools import TTLCache
except ModuleNotFoundError as exc:
    refuse_missing(exc, "rwriter.asgi", "asgi", "cachetools")

Attribute = Callable[[str, Scope], str | Awaitable[str | None] | None]
"""``attribute(api_key, scope)``: returns the owner of a key, or ``None`` for a key that nobody owns. Async or not.

It raises if it cannot tell: a lookup that failed is not an unknown key. A plain function runs on the event loop and
must not block.
"""

LOOKUPS: Final = 256
"""Lookups that run at once; further ones wait, within their own time."""
_ORDER: Final = (b"x-api-key", b"api-key", b"x-goog-api-key")
"""Headers that hold a key and nothing else, in the order in which they are asked for, after a bearer token."""


class Attributed(msgspec.Struct, frozen=True):
    """The owner of a request and the digest of the key that found it (empty if the request has none)."""

    created_by: str
    api_key: KeyDigest


class Attribution:
    """Looks up owners and caches them by the SHA-256 of the key that was sent, never by the key or a stored digest.

    A known owner is cached for ``ttl`` seconds, an unknown key for ``negative_ttl``, each in a cache of its own of
    ``max_entries``, so that keys made up cannot push out an owner. A lookup has ``timeout`` seconds. ``ttl=0`` asks
    every time: for an ``attribute`` that looks at more than the key. The answers of ``attribute_from_state`` are never
    cached.
    """

    def __init__(
        self,
        attribute: Attribute,
        *,
        ttl: float = 300.0,
        negative_ttl: float = 10.0,
        timeout: float = 10.0,
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for option, value in (("ttl", ttl), ("negative_ttl", negative_ttl)):
            at_least(option, value, 0)
        positive("timeout", timeout)
        if not callable(attribute):
            msg = f"attribute must be a function of an API key and the scope, not {type(attribute).__name__}"
            raise TypeError(msg)
        self._attribute: Final = attribute
        self._ttl: Final = ttl
        self._negative_ttl: Final = negative_ttl
        self._timeout: Final = timeout
        # the waiters hold the only strong references, so a lock disappears with the last of them
        self._locks: Final[WeakValueDictionary[bytes, asyncio.Lock]] = WeakValueDictionary()
        self._room: Final = asyncio.Semaphore(LOOKUPS)
        self._known: Final[TTLCache[bytes, Attributed]] = TTLCache(max_entries, ttl, timer=clock)
        self._unknown: Final[TTLCache[bytes, bool]] = TTLCache(max_entries, negative_ttl, timer=clock)

    async def owner(self, scope: Scope) -> str | None:
        """Return the owner of a request; ``None`` if it has no key or none that anybody owns.

        Raises what ``attribute`` raises, and ``TimeoutError`` if it takes too long.
        """
        found = await self.find(scope)
        return None if found is None else found.created_by

    async def find(self, scope: Scope, timeout: float | None = None) -> Attributed | None:
        """Ask for each key of a request in turn until one has an owner. Raises as ``owner`` does.

        ``timeout`` is for each lookup, if it is less than the one of all.
        """
        limit = self._timeout if timeout is None else min(timeout, self._timeout)
        if isinstance(self._attribute, _FromState):
            api_key = api_key_of(scope) or ""
            created_by = _normal(self._attribute(api_key, scope))
            return None if created_by is None else Attributed(created_by, digest(api_key))
        for api_key in credentials_of(scope):
            found = await self._owner_of(api_key, scope, limit)
            if found is not None:
                return found
        return None

    async def _owner_of(self, api_key: str, scope: Scope, limit: float) -> Attributed | None:
        # of what was sent, and never what is stored: a stored digest that is sent is a key like any other
        sent = hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()
        if self._ttl > 0:
            found = self._known.get(sent)
            if found is not None or sent in self._unknown:
                return found
        async with asyncio.timeout(limit):
            return await (self._look_up(sent, api_key, scope) if self._ttl > 0 else self._ask(api_key, scope))

    async def _look_up(self, sent: bytes, api_key: str, scope: Scope) -> Attributed | None:
        lock = self._locks.setdefault(sent, asyncio.Lock())
        async with lock:
            # the first caller has asked for all that waited behind it
            found = self._known.get(sent)
            if found is not None or sent in self._unknown:
                return found
            found = await self._ask(api_key, scope)
            if found is not None:
                self._known[sent] = found
            elif self._negative_ttl > 0:
                self._unknown[sent] = True
            return found

    async def _ask(self, api_key: str, scope: Scope) -> Attributed | None:
        async with self._room:
            created_by = _normal(await resolve(self._attribute(api_key, scope)))
        return None if created_by is None else Attributed(created_by, digest(api_key))


class _FromState:
    def __init__(self, name: str) -> None:
        self._name: Final = name

    def __call__(self, api_key: str, scope: Scope) -> str | None:  # noqa: ARG002 -- the signature of an attribute
        value = scope.get("state", {}).get(self._name)
        return None if value is None else str(value)


def attribute_from_state(name: str = "created_by") -> Attribute:
    """Return an ``attribute`` that reads ``scope["state"][name]``, where the app's own authentication put the owner.

    In Starlette and FastAPI: ``request.state.created_by = ...``.
    """
    return _FromState(name)


def is_from_state(attribute: object) -> bool:
    """Return True for what ``attribute_from_state`` returned."""
    return isinstance(attribute, _FromState)


def credentials_of(scope: Scope) -> list[str]:
    """Return the distinct keys of a request, five at most, in the order in which they are asked for.

    ``Authorization: Bearer``, ``x-api-key``, ``api-key``, ``x-goog-api-key``, and an ``Authorization`` of one word.
    """
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        lowered = name.lower()
        if (lowered in _ORDER or lowered == b"authorization") and lowered not in found:
            found[lowered] = value.decode("latin-1").strip()
    scheme, _, rest = found.get(b"authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    keys = [rest.strip() if is_bearer else "", *(found.get(name, "") for name in _ORDER)]
    keys.append("" if is_bearer or rest else scheme)
    return list(dict.fromkeys(filter(None, keys)))


def api_key_of(scope: Scope) -> str | None:
    """Return the first key of a request, ``None`` if it has none."""
    return next(iter(credentials_of(scope)), None)


def _normal(owner: Any) -> str | None:
    """Return ``owner`` as records keep it, repaired and stripped; a blank one is ``None``."""
    if owner is None:
        return None
    if not isinstance(owner, str):
        msg = f"attribute must return a str or None, not {type(owner).__name__}"
        raise TypeError(msg)
    text = repair(owner).strip()
    if len(text) > NAME_LIMIT:
        msg = f"attribute returned an owner of {len(text)} characters, {NAME_LIMIT} are the most"
        raise ValueError(msg)
    return text or None
