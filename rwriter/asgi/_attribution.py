"""Who made a request: the owner of its API key, looked up once and remembered for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from rwriter._hooks import resolve
from rwriter.asgi._types import Scope, header
from rwriter.records import NAME_LIMIT, fingerprint, repair

Attribute = Callable[[str, Scope], str | Awaitable[str | None] | None]
"""``attribute(api_key, scope)``: the owner of a key, or ``None`` for a key nobody owns; async or not.

It raises when it cannot tell: a lookup that failed is not an unknown key. A plain function runs on the event loop and
must not block.
"""


class Attribution:
    """Cached lookups. The keys themselves are not kept, only their fingerprints.

    A known owner is remembered for ``ttl`` seconds, an unknown key for ``negative_ttl``, at most ``max_entries`` keys,
    the least recently used forgotten first. ``ttl=0`` asks every time: for an ``attribute`` that looks at more than the
    key. What ``attribute_from_state`` answers is never remembered.
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
        for option, value in (("ttl", ttl), ("negative_ttl", negative_ttl), ("max_entries", max_entries)):
            if not value >= 0:
                msg = f"{option} must not be negative, it is {value!r}"
                raise ValueError(msg)
        if not callable(attribute):
            msg = f"attribute must be a function of an API key and the scope, not {type(attribute).__name__}"
            raise TypeError(msg)
        self._attribute: Final = attribute
        self._ttl: Final = ttl
        self._negative_ttl: Final = negative_ttl
        self._max_entries: Final = max_entries
        self._clock: Final = clock
        # who waits holds the lock: it goes when nobody does
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._cache: OrderedDict[str, tuple[str | None, float]] = OrderedDict()

    async def owner(self, scope: Scope) -> str | None:
        """Whose request this is; ``None`` when it has no key or one that nobody owns.

        Raises what ``attribute`` raised.
        """
        if isinstance(self._attribute, _FromState):
            return _normal(self._attribute(api_key_of(scope) or "", scope))
        api_key = api_key_of(scope)
        if api_key is None:
            return None
        if self._ttl <= 0:
            return await self._ask(api_key, scope)
        key = fingerprint(api_key)
        found = self._remembered(key)
        if found is not None:
            return found[0]
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            # whoever was first has asked for all who waited
            found = self._remembered(key)
            if found is not None:
                return found[0]
            owner = await self._ask(api_key, scope)
            self._remember(key, owner)
            return owner

    async def _ask(self, api_key: str, scope: Scope) -> str | None:
        return _normal(await resolve(self._attribute(api_key, scope)))

    def _remembered(self, key: str) -> tuple[str | None, float] | None:
        found = self._cache.get(key)
        if found is None or self._clock() >= found[1]:
            return None
        self._cache.move_to_end(key)
        return found

    def _remember(self, key: str, owner: str | None) -> None:
        ttl = self._negative_ttl if owner is None else self._ttl
        if ttl <= 0:
            self._cache.pop(key, None)
            return
        self._cache[key] = (owner, self._clock() + ttl)
        self._cache.move_to_end(key)
        while len(self._cache) > self._max_entries:
            self._cache.popitem(last=False)


class _FromState:
    def __init__(self, name: str) -> None:
        self._name: Final = name

    def __call__(self, api_key: str, scope: Scope) -> str | None:  # noqa: ARG002 -- the signature of an attribute
        value = scope.get("state", {}).get(self._name)
        return None if value is None else str(value)


def attribute_from_state(name: str = "created_by") -> Attribute:
    """An ``attribute`` that takes the owner from ``scope["state"][name]``, where the app's own authentication put it.

    In Starlette and FastAPI: ``request.state.created_by = ...``.
    """
    return _FromState(name)


def api_key_of(scope: Scope) -> str | None:
    """The API key of a request: ``Authorization: Bearer``, else ``x-api-key``, else ``api-key``."""
    headers = scope["headers"]
    authorization = header(headers, b"authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer" and credentials.strip():
            return credentials.strip()
    return header(headers, b"x-api-key") or header(headers, b"api-key") or None


def _normal(owner: object) -> str | None:
    """As records keep their ``created_by``: text repaired and stripped, blank is nobody."""
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
