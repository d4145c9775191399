"""Finished requests to store: JSON of random words, different in every record and the same in every run."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from rwriter import CompletedRequest, new_request_id

REQUEST_BYTES: Final = 2_000
RESPONSE_BYTES: Final = 4_000

MODEL: Final = "gpt-4o-mini"
OWNER: Final = "bench"

_VOCABULARY: Final = 4_000
_LETTERS: Final = "etaoinshrdlucmfwypvbgkjqxz"

Bodies = tuple[str, str]


class Traffic:
    """An endless supply of bodies; ``seed`` decides all of them."""

    def __init__(self, *, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._words = [self._word() for _ in range(_VOCABULARY)]
        # a few common words and many rare ones, as in prose: bodies compress about as prose of their length does
        self._weights = [1 / rank for rank in range(1, _VOCABULARY + 1)]

    def bodies(
        self, count: int, *, request_bytes: int = REQUEST_BYTES, response_bytes: int = RESPONSE_BYTES
    ) -> list[Bodies]:
        """``count`` pairs of a request body of ``request_bytes`` and a response body of ``response_bytes``."""
        return [(self._json(_request, request_bytes), self._json(_response, response_bytes)) for _ in range(count)]

    def _word(self) -> str:
        letters = self._random.choices(_LETTERS, weights=range(len(_LETTERS), 0, -1), k=self._random.randint(2, 10))
        return "".join(letters)

    def _json(self, shape: Callable[[str], dict[str, Any]], size: int) -> str:
        room = size - len(msgspec.json.encode(shape("")))
        words = self._random.choices(self._words, weights=self._weights, k=room // 3)
        return msgspec.json.encode(shape(" ".join(words)[:room].ljust(room, "."))).decode()


def records(
    bodies: Sequence[Bodies], *, new_id: Callable[[], uuid.UUID] = new_request_id, owner: str = OWNER
) -> list[CompletedRequest]:
    """One record for each pair, with fresh ids and times."""
    return [record(request, response, new_id=new_id, owner=owner) for request, response in bodies]


def record(
    request_body: str, response_body: str, *, new_id: Callable[[], uuid.UUID] = new_request_id, owner: str = OWNER
) -> CompletedRequest:
    """Return a request answered just now."""
    now = datetime.now(UTC)
    return CompletedRequest(
        request_id=new_id(),
        status_code=200,
        request_body=request_body,
        response_body=response_body,
        model=MODEL,
        endpoint="/v1/responses",
        api_key="sk-bench",
        created_by=owner,
        started_at=now - timedelta(seconds=1),
        completed_at=now,
    )


def _request(text: str) -> dict[str, Any]:
    return {"model": MODEL, "input": [{"role": "user", "content": text}], "temperature": 0.7, "stream": False}


def _response(text: str) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    return {
        "object": "response",
        "status": "completed",
        "model": MODEL,
        "output": [{"type": "message", "role": "assistant", "content": [content]}],
        "usage": {"input_tokens": 400, "output_tokens": 800, "total_tokens": 1_200},
    }
