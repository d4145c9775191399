"""Finds the owner of a request: the tenant its API key belongs to, looked up once and cached for a while."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from rwriter._hooks import resolve
from rwriter._validation import at_least
from rwriter.asgi._types import Scope, header
from rwriter.records import NAME_LIMIT, repair

try:
    from cachetools import TLRUCache
except ModuleNotFoundError as exc:
    msg = "rwriter.asgi needs cachetools: pip install 'rwriter[asgi]'"
    raise ModuleNotFoundError(msg, name=exc.name) from exc

Attribute = Callable[[str, Scope], str | Awaitable[str | None] | None]
"""``attribute(api_key, scope)``: returns the owner of a key, or ``None`` for a key that nobody owns. Async or not.

It raises if it cannot tell: a lookup that failed is not an unknown key. A plain function runs on the event loop and
must not block.
"""

_MISSING: Final[Any] = object()


class Attribution:
    """Looks up owners and caches them. Keeps digests of the keys that were sent, never the keys.

    A known owner is cached for ``ttl`` seconds, an unknown key for ``negative_ttl``; of more than ``max_entries`` keys
    the least recently used is dropped. ``ttl=0`` asks every time: for an ``attribute`` that looks at more than the key.
    The answers of ``attribute_from_state`` are never cached.
    """

    def __init__(
        self,
        attribute: Attribute,
        *,
        ttl: float = 300.0,
        negative_ttl: float = 10.0,
        max_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for option, value in (("ttl", ttl), ("negative_ttl", negative_ttl)):
            at_least(option, value, 0)
        if not callable(attribute):
            msg = f"attribute must be a function of an API key and the scope, not {type(attribute).__name__}"
            raise TypeError(msg)
        self._attribute: Final = attribute
        self._ttl: Final = ttl
        self._negative_ttl: Final = negative_ttl
        # the waiters hold the only strong references, so a lock disappears with the last of them
        self._lookups: Final[WeakValueDictionary[bytes, asyncio.Lock]] = WeakValueDictionary()
        self._cache: Final[TLRUCache[bytes, str | None]] = TLRUCache(max_entries, self._expires, timer=clock)

    async def owner(self, scope: Scope) -> str | None:
        """Return the owner of a request; ``None`` if it has no key or one that nobody owns.

        Raises what ``attribute`` raises.
        """
        if isinstance(self._attribute, _FromState):
            return _normal(self._attribute(api_key_of(scope) or "", scope))
        api_key = api_key_of(scope)
        if api_key is None:
            return None
        if self._ttl <= 0:
            return await self._ask(api_key, scope)
        # of what was sent, and never what is stored: a stored digest that is sent is a key like any other
        key = hashlib.sha256(api_key.encode("utf-8", "surrogatepass")).digest()
        cached = self._cache.get(key, _MISSING)
        return await self._look_up(key, api_key, scope) if cached is _MISSING else cached

    async def _look_up(self, key: bytes, api_key: str, scope: Scope) -> str | None:
        lock = self._lookups.setdefault(key, asyncio.Lock())
        async with lock:
            # the first caller has asked for all that waited behind it
            owner: str | None = self._cache.get(key, _MISSING)
            if owner is not _MISSING:
                return owner
            owner = await self._ask(api_key, scope)
            if owner is not None or self._negative_ttl > 0:
                self._cache[key] = owner
            return owner

    async def _ask(self, api_key: str, scope: Scope) -> str | None:
        return _normal(await resolve(self._attribute(api_key, scope)))

    def _expires(self, _key: bytes, owner: str | None, now: float) -> float:
        return now + (self._negative_ttl if owner is None else self._ttl)


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


def api_key_of(scope: Scope) -> str | None:
    """Return the API key of a request: ``Authorization: Bearer``, else ``x-api-key``, else ``api-key``."""
    headers = scope["headers"]
    authorization = header(headers, b"authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer" and credentials.strip():
            return credentials.strip()
    return header(headers, b"x-api-key") or header(headers, b"api-key") or None


def _normal(owner: object) -> str | None:
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
